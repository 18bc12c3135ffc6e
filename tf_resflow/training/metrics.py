"""The lines of a run's metrics.jsonl."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["held_out_scores", "ranked_steps", "read_metrics"]


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl as dicts, such as `{"step": 100, "split": "train", "bits_per_dim": 2.31}`.

    A line that was cut short is left out.

    Args:
      workdir: directory of the run.

    Raises:
      ValueError: when a line has no metrics and is not the beginning of such a line.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [_parse(path, number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1)]
    return [line for line in lines if line is not None]


def held_out_scores(lines: Iterable[Mapping[str, Any]], split: str) -> dict[int, dict[str, Any]]:
    """The scores on a split, by step."""
    return {
        line["step"]: {name: value for name, value in line.items() if name not in ("step", "split")}
        for line in lines
        if "num_examples" in line and line["split"] == split
    }


def ranked_steps(scores: Mapping[int, Mapping[str, Any]], objective: str) -> list[int]:
    """The steps with a score of as many examples as the last one, the best first and NaN last."""

    def rank(step):
        value = scores[step][objective]
        return math.inf if value is None or math.isnan(value) else value

    num = scores[max(scores)]["num_examples"] if scores else 0
    return sorted((step for step in scores if scores[step]["num_examples"] == num), key=rank)


def _parse(path, number, text):
    """The line as a dict; None if it was cut short."""
    with contextlib.suppress(UnicodeDecodeError):
        try:
            line = json.loads(text.decode("utf-8"))
        except json.JSONDecodeError:
            if not text or text.startswith(b"{"):
                return None
        else:
            if isinstance(line, dict) and isinstance(line.get("step"), int) and isinstance(line.get("split"), str):
                return line
    raise ValueError(
        f'Line {number} of {path} is damaged: expected {{"step": 100, "split": "train", ...}}, found '
        f"{text[:40]!r}. Restore the file from a backup, or remove the line."
    )
