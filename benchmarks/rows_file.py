"""The JSON file of a benchmark, to which each run adds missing rows."""

import json
import pathlib
from typing import Any

from tf_resflow.writing import check_output_path, whole_file


def read_rows(path: str) -> list[dict[str, Any]]:
    """Returns the rows of a file, or [] without a file. Raises ValueError if the file could not be written."""
    check_output_path(path, [".json"])
    return json.loads(pathlib.Path(path).read_text()) if pathlib.Path(path).exists() else []


def write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    """Writes the rows, one per line."""
    with whole_file(path) as temporary:
        pathlib.Path(temporary).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
