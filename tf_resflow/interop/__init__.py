"""Checkpoints of the published PyTorch code."""

from tf_resflow.interop.applied_kernels import applied_kernels
from tf_resflow.interop.convert_checkpoint import convert_checkpoint
from tf_resflow.interop.published_checkpoint import PublishedCheckpoint, read_checkpoint
from tf_resflow.interop.published_config import published_config, published_data, published_orders
from tf_resflow.interop.published_tensors import PublishedTensor, published_tensors
from tf_resflow.interop.torch_file import StoredObject, read_torch_file

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
