from .conversion import convert_checkpoint
from .published_checkpoint import PublishedCheckpoint, read_checkpoint

__all__ = ["PublishedCheckpoint", "convert_checkpoint", "read_checkpoint"]
