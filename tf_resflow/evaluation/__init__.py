"""Evaluation: held-out scores, baselines, image grids and figures."""

from tf_resflow.evaluation.baselines import gaussian_baseline, uniform_baseline
from tf_resflow.evaluation.calibration import expected_calibration_error
from tf_resflow.evaluation.classification import Classification, classification_scores
from tf_resflow.evaluation.estimator_noise import EstimatorNoise
from tf_resflow.evaluation.figures_2d import density_figure
from tf_resflow.evaluation.held_out import HeldOut, Score
from tf_resflow.evaluation.images import image_grid, reconstruction_grid, write_png
from tf_resflow.evaluation.lipschitz import lipschitz_bounds
from tf_resflow.evaluation.ood_auroc import ood_auroc
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.evaluation.samples import check_samples_path, write_samples

__all__ = [
    "Classification",
    "EstimatorNoise",
    "HeldOut",
    "PerExample",
    "Score",
    "check_samples_path",
    "classification_scores",
    "density_figure",
    "expected_calibration_error",
    "gaussian_baseline",
    "image_grid",
    "lipschitz_bounds",
    "ood_auroc",
    "reconstruction_grid",
    "uniform_baseline",
    "write_png",
    "write_samples",
]
