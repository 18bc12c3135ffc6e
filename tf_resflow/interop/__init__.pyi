from .conversion import convert_checkpoint
from .published_arguments import published_config, published_data, published_orders
from .published_checkpoint import PublishedCheckpoint, read_checkpoint
from .published_kernels import applied_kernels
from .published_variables import PublishedTensor, published_tensors
from .torch_file import StoredObject, read_torch_file

__all__ = [
    "PublishedCheckpoint",
    "PublishedTensor",
    "StoredObject",
    "applied_kernels",
    "convert_checkpoint",
    "published_config",
    "published_data",
    "published_orders",
    "published_tensors",
    "read_checkpoint",
    "read_torch_file",
]
