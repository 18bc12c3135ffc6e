from .calibration import Calibration
from .gaussians import FeatureMoments, InceptionFeatures, frechet_distance, gaussian_baseline
from .lipschitz import lipschitz_certificate
from .log_likelihood import EstimatorNoise, estimate_log_prob, log_prob_by_class, required_samples
from .reconstruction import reconstruct
from .sample_files import image_grid
from .sampling import Sampler
from .scores import LogLikelihood, p_values

__all__ = [
    "Calibration",
    "EstimatorNoise",
    "FeatureMoments",
    "InceptionFeatures",
    "LogLikelihood",
    "Sampler",
    "estimate_log_prob",
    "frechet_distance",
    "gaussian_baseline",
    "image_grid",
    "lipschitz_certificate",
    "log_prob_by_class",
    "p_values",
    "reconstruct",
    "required_samples",
]
