from .build import build_model
from .data_info import DataInfo
from .dequantizer import Dequantized, Dequantizer, FlowDequantizer
from .estimators import evaluation_estimator
from .flow_model import FlowModel
from .hybrid_model import HybridModel
from .likelihood_plan import BlockPlan, LikelihoodPlan
from .log_prob_samples import LogProbEstimate, LogProbSamples, mean_and_stderr
from .planning import plan_likelihood
from .step import train_step

__all__ = [
    "BlockPlan",
    "DataInfo",
    "Dequantized",
    "Dequantizer",
    "FlowDequantizer",
    "FlowModel",
    "HybridModel",
    "LikelihoodPlan",
    "LogProbEstimate",
    "LogProbSamples",
    "build_model",
    "evaluation_estimator",
    "mean_and_stderr",
    "plan_likelihood",
    "train_step",
]
