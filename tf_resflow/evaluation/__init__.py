"""Evaluation: held-out scores, baselines, samples, image grids and figures."""

from tf_resflow.evaluation.baselines import gaussian_baseline, uniform_baseline
from tf_resflow.evaluation.calibration import expected_calibration_error
from tf_resflow.evaluation.classification import Classification, classification_scores
from tf_resflow.evaluation.estimator_noise import EstimatorNoise, Noise
from tf_resflow.evaluation.fid import FeatureMoments, frechet_distance
from tf_resflow.evaluation.figures_2d import density_figure, paths_figure
from tf_resflow.evaluation.held_out import HeldOut, Score, stderr_parts
from tf_resflow.evaluation.images import image_grid, reconstruction_grid, write_png
from tf_resflow.evaluation.inception import InceptionFeatures
from tf_resflow.evaluation.interpolation import (
    check_paths,
    interpolate_corners,
    interpolate_examples,
    interpolate_pairs,
)
from tf_resflow.evaluation.learning_curves import check_figure_path, learning_curves, run_names
from tf_resflow.evaluation.lipschitz import (
    lipschitz_bounds,
    lipschitz_certificate,
    uncertified_blocks,
)
from tf_resflow.evaluation.ood_auroc import ood_auroc
from tf_resflow.evaluation.per_example import PerExample
from tf_resflow.evaluation.point_figures import points_figure
from tf_resflow.evaluation.reconstruction import Reconstruction, reconstruct
from tf_resflow.evaluation.samples import MAX_TEMPERATURE, check_samples, draw_samples, write_samples

__all__ = [
    "Classification",
    "EstimatorNoise",
    "FeatureMoments",
    "HeldOut",
    "InceptionFeatures",
    "MAX_TEMPERATURE",
    "Noise",
    "PerExample",
    "Reconstruction",
    "Score",
    "check_figure_path",
    "check_paths",
    "check_samples",
    "classification_scores",
    "density_figure",
    "draw_samples",
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
    "ood_auroc",
    "paths_figure",
    "points_figure",
    "reconstruct",
    "reconstruction_grid",
    "run_names",
    "stderr_parts",
    "uncertified_blocks",
    "uniform_baseline",
    "write_png",
    "write_samples",
]
