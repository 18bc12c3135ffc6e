from .baselines import gaussian_baseline, uniform_baseline
from .calibration import expected_calibration_error
from .classification import Classification, classification_scores
from .curve_figures import learning_curves
from .estimator_noise import EstimatorNoise, Noise
from .example_scores import ExampleScores, quantiles
from .fid import FeatureMoments, frechet_distance
from .figures_2d import density_figure, paths_figure
from .held_out import HeldOut, Score, stderr_parts
from .image_grids import image_grid, reconstruction_grid, write_png
from .inception import InceptionFeatures
from .interpolation import interpolate_corners, interpolate_examples, interpolate_pairs
from .likelihood_plan import LikelihoodPlan
from .lipschitz import (
    lipschitz_bounds,
    lipschitz_certificate,
    uncertified_blocks,
)
from .log_likelihood import estimate_log_prob, log_prob_by_class
from .log_prob_samples import LogProbEstimate
from .out_of_distribution import ood_auroc
from .planning import plan_likelihood
from .point_figures import points_figure
from .posterior import c2st, calibration_ranks, coverage_levels
from .posterior_figures import coverage_figure, rank_figure
from .reconstruction import Reconstruction, reconstruct
from .samples import write_samples
from .sampling import draw_samples

__all__ = [
    "Classification",
    "EstimatorNoise",
    "ExampleScores",
    "FeatureMoments",
    "HeldOut",
    "InceptionFeatures",
    "LikelihoodPlan",
    "LogProbEstimate",
    "Noise",
    "Reconstruction",
    "Score",
    "c2st",
    "calibration_ranks",
    "classification_scores",
    "coverage_figure",
    "coverage_levels",
    "density_figure",
    "draw_samples",
    "estimate_log_prob",
    "expected_calibration_error",
    "frechet_distance",
    "gaussian_baseline",
    "image_grid",
    "interpolate_corners",
    "interpolate_examples",
    "interpolate_pairs",
    "learning_curves",
    "lipschitz_bounds",
    "lipschitz_certificate",
    "log_prob_by_class",
    "ood_auroc",
    "paths_figure",
    "plan_likelihood",
    "points_figure",
    "quantiles",
    "rank_figure",
    "reconstruct",
    "reconstruction_grid",
    "stderr_parts",
    "uncertified_blocks",
    "uniform_baseline",
    "write_png",
    "write_samples",
]
