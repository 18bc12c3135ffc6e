from .calibration import Calibration
from .gaussians import FeatureMoments, InceptionFeatures, frechet_distance, gaussian_baseline
from .lipschitz import lipschitz_certificate
from .log_likelihood import LogLikelihood, estimate_log_prob
from .reconstruction import reconstruct
from .sample_files import image_grid
from .sampling import Sampler
from .scores import p_values

__all__ = [
    "Calibration",
    "FeatureMoments",
    "InceptionFeatures",
    "LogLikelihood",
    "Sampler",
    "estimate_log_prob",
    "frechet_distance",
    "gaussian_baseline",
    "image_grid",
    "lipschitz_certificate",
    "p_values",
    "reconstruct",
]
