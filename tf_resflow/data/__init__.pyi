from .config import default_config
from .dataset import Dataset
from .densities_2d import (
    DENSITIES,
    entropy,
    load_density,
    log_density,
    sample,
)
from .dequantization import dequantize, quantize
from .digits import load_digits
from .image_files import load_image_files
from .loading import load, load_examples
from .table_files import Table, read_table
from .tabular import load_tabular
from .tfds_images import load_tfds_images

__all__ = [
    "DENSITIES",
    "Dataset",
    "Table",
    "default_config",
    "dequantize",
    "entropy",
    "load",
    "load_density",
    "load_digits",
    "load_examples",
    "load_image_files",
    "load_tabular",
    "load_tfds_images",
    "log_density",
    "quantize",
    "read_table",
    "sample",
]
