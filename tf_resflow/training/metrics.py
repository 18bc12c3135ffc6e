"""Reading of a run's metrics.jsonl."""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl as dicts. Truncated lines are skipped.

    An example of a line is `{"step": 100, "split": "train", "bits_per_dim": 2.31}`.

    Raises:
      ValueError: If a line is neither valid nor truncated JSON.
    """
    path, lines = pathlib.Path(workdir) / "metrics.jsonl", []
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if text and not text.startswith(b"{"):
                raise ValueError(
                    f"Line {number} of {path} is damaged: {text[:40]!r}. Restore the file from a backup, or remove "
                    "the line."
                ) from None
    return lines


def held_out_scores(lines: Iterable[Mapping[str, Any]], split: str) -> dict[int, dict[str, Any]]:
    """Returns a dict of each evaluated step to its scores on a split."""
    return {
        line["step"]: {name: value for name, value in line.items() if name not in ("step", "split")}
        for line in lines
        if "num_examples" in line and line["split"] == split
    }


def ranked_steps(scores: Mapping[int, Mapping[str, Any]], objective: str) -> list[int]:
    """Returns the steps scored on as many examples as the last step, sorted from best to worst with NaN last."""

    def rank(step):
        value = scores[step][objective]
        return math.inf if value is None or math.isnan(value) else value

    num = scores[max(scores)]["num_examples"] if scores else 0
    return sorted((step for step in scores if scores[step]["num_examples"] == num), key=rank)
