"""The JSON file of a benchmark, to which each run adds missing rows, and the provenance of its numbers."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

from tf_resflow._internal.writing import atomic_write, check_output_path


def read_rows(path: str) -> list[dict[str, Any]]:
    """Returns the rows of a file, or [] without a file. Raises ValueError if the file could not be written."""
    check_output_path(path, [".json"])
    return json.loads(pathlib.Path(path).read_text()) if pathlib.Path(path).exists() else []


def write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    """Writes the rows, one per line."""
    with atomic_write(path) as temporary:
        pathlib.Path(temporary).write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def add_rows(
    path: str, names: Sequence[str], cases: Iterable[tuple], measure: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """Adds the rows that a file lacks, writes it after each row, and returns all rows.

    Args:
      path: the file.
      names: names of the fields that identify a row.
      cases: the values of these fields in each row.
      measure: function of these values, which returns the other fields.
    """
    rows = read_rows(path)
    for values in cases:
        case = dict(zip(names, values, strict=True))
        if not any(case.items() <= row.items() for row in rows):
            rows.append(case | measure(*values))
            write_rows(path, rows)
            print(rows[-1], flush=True)
    return rows


def provenance() -> dict[str, str]:
    """The commit, the date, the machine and the versions of packages of a measurement."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = pathlib.Path(__file__).parent
    commit = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    packages = ("tensorflow", "tensorflow-probability", "keras")
    return {
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}, no GPU",
        "packages": ", ".join(f"{name} {metadata.version(name)}" for name in packages),
    }
