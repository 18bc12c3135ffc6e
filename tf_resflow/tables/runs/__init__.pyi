from .run import TableRun, load, read_rows, score_rows, train

__all__ = ["TableRun", "load", "read_rows", "score_rows", "train"]
