from .exporter import export, export_run

__all__ = ["export", "export_run"]
