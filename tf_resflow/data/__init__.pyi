from .config import default_config
from .dataset import Dataset
from .densities_2d import (
    DENSITIES,
    entropy,
    load_density,
    log_density,
    sample,
)
from .dequantize import dequantize, quantize
from .digits import load_digits
from .image_files import load_image_files
from .images import load_images
from .load import load
from .tabular import load_tabular, read_matrix

__all__ = [
    "DENSITIES",
    "Dataset",
    "default_config",
    "dequantize",
    "entropy",
    "load",
    "load_density",
    "load_digits",
    "load_image_files",
    "load_images",
    "load_tabular",
    "log_density",
    "quantize",
    "read_matrix",
    "sample",
]
