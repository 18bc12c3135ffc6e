from .dataset import Dataset
from .densities_2d import DENSITIES, load_density
from .digits import load_digits
from .image_files import load_image_files
from .loading import load
from .tfds_images import load_tfds_images

__all__ = [
    "DENSITIES",
    "Dataset",
    "load",
    "load_density",
    "load_digits",
    "load_image_files",
    "load_tfds_images",
]
