from .exporter import export, export_run
from .signatures import Signatures

__all__ = ["Signatures", "export", "export_run"]
