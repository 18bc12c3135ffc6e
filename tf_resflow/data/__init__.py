"""Input pipelines: images, digits, tabular data and 2-D densities, and dequantisation."""

from tf_resflow.data.dataset import Dataset
from tf_resflow.data.densities_2d import (
    DENSITIES,
    entropy,
    load_density,
    log_density,
    sample,
)
from tf_resflow.data.dequantize import dequantize, quantize
from tf_resflow.data.digits import load_digits
from tf_resflow.data.image_files import load_image_files
from tf_resflow.data.images import load_images
from tf_resflow.data.load import default_config, load
from tf_resflow.data.tabular import load_tabular, read_matrix

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
