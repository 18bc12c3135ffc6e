from .run import TableRun, load, load_rows, read_rows, score_rows, train

__all__ = ["TableRun", "load", "load_rows", "read_rows", "score_rows", "train"]
