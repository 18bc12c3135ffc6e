"""Writer of metrics.jsonl and of events for TensorBoard."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_resflow.training.metrics import read_metrics
from tf_resflow.writing import finite_or_none, unwritable_told, whole_file


class MetricsWriter:
    """Writes scalars as JSON lines and to TensorBoard, and images to TensorBoard.

    A line is `{"step": 100, "split": "train", "bits_per_dim": 2.31, ...}`. NaN and infinite values become null. If
    a run resumes from `step`, later lines are deleted, and the remaining lines are not written again. Lines of
    held-out scores have the key "num_examples"; lines of training metrics do not.
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int = 0):
        workdir = pathlib.Path(workdir)
        self._path, self._events_path = workdir / "metrics.jsonl", workdir / "events"
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._written = {(line["step"], line["split"], "num_examples" in line) for line in kept}
        with whole_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self._path.open("ab", buffering=0)  # unbuffered, so closing it cannot fail
        self._events = tf.summary.create_file_writer(str(self._events_path))

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes `values`, a dict of names to numbers, as one line."""
        if (step, split, "num_examples" in values) in self._written:
            return
        numbers = {name: float(value) for name, value in values.items()}
        line = f"{json.dumps({'step': step, 'split': split, **finite_or_none(numbers)})}\n".encode()
        with unwritable_told(self._path):
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with unwritable_told(self._events_path), _default(self._events):
            for name, value in numbers.items():
                tf.summary.scalar(f"{split}/{name}", value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 image `[height, width, channels]` to TensorBoard."""
        with unwritable_told(self._events_path), _default(self._events):
            tf.summary.image(name, image[None], step)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._file.close()
        try:
            with unwritable_told(self._events_path):
                self._events.close()
        except OSError:
            if kind is None:  # an earlier error is the one to report
                raise


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
