"""Metrics of a run: their file metrics.jsonl, events for TensorBoard, and the steps from best to worst."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow._internal.writing import atomic_write, explain_write_errors, finite_or_none
from tf_resflow.training.workdir import read_metrics


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


class MetricsWriter:
    """Writes scalars as JSON lines and to TensorBoard, and images to TensorBoard.

    A line is `{"step": 100, "split": "train", "bits_per_dim": 2.31, ...}`. NaN and infinite values become null. If
    a run resumes from `step`, later lines are deleted, and the remaining lines are not written again. Lines of
    held-out scores have the key "num_examples"; lines of training metrics do not.
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int = 0):
        workdir = pathlib.Path(workdir)
        self._path = workdir / "metrics.jsonl"
        self._events_path = workdir / "events"
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._written = {(line["step"], line["split"], "num_examples" in line) for line in kept}
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._events = tf.summary.create_file_writer(str(self._events_path))

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes `values`, a dict of names to numbers, as one line."""
        if (step, split, "num_examples" in values) in self._written:
            return
        numbers = {name: float(value) for name, value in values.items()}
        line = json.dumps({"step": step, "split": split, **finite_or_none(numbers)})
        with explain_write_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        with explain_write_errors(self._events_path), _default(self._events):
            for name, value in numbers.items():
                tf.summary.scalar(f"{split}/{name}", value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 image `[height, width, channels]` to TensorBoard."""
        with explain_write_errors(self._events_path), _default(self._events):
            tf.summary.image(name, image[None], step)

    def close(self) -> None:
        """Writes the remaining events."""
        with explain_write_errors(self._events_path):
            self._events.close()


@contextlib.contextmanager
def _default(writer):
    """Makes a writer the default. A writer that fails is closed, or TensorFlow would keep it as the default."""
    with writer.as_default():
        try:
            yield
            writer.flush()
        except tf.errors.OpError:
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
            raise
