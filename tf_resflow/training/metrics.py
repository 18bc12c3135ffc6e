"""The lines of a run's metrics.jsonl."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["best_step", "comparable_scores", "held_out_scores", "read_metrics"]


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


def comparable_scores(scores: Mapping[int, Mapping[str, Any]], objective: str) -> dict[int, float]:
    """The objective at each step whose score is of as many examples as the last one; infinite instead of NaN."""
    num = scores[max(scores)]["num_examples"]
    values = {step: line[objective] for step, line in scores.items() if line["num_examples"] == num}
    return {step: math.inf if value is None or math.isnan(value) else value for step, value in values.items()}


def best_step(scores: Mapping[int, Mapping[str, Any]], objective: str) -> int | None:
    """The first step with the least of the comparable scores; None if there are no scores."""
    comparable = comparable_scores(scores, objective) if scores else {}
    return min(comparable, key=comparable.__getitem__, default=None)


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
