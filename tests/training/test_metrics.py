import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf

from tf_resflow.training import read_metrics
from tf_resflow.training.metrics import MetricsWriter

pytestmark = pytest.mark.quick


def test_lines_and_events(tmp_path):
    assert read_metrics(tmp_path) == []
    with contextlib.closing(MetricsWriter(tmp_path)) as writer:
        writer.scalars(10, "train", {"loss": np.float32(1.5), "rate": tf.constant(0.25)})
        writer.scalars(20, "test", {"loss": float("nan")})
        writer.image(20, "samples", np.zeros([4, 5, 1], np.uint8))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    train = {"step": 10, "split": "train", "loss": 1.5, "rate": 0.25}
    assert lines == read_metrics(tmp_path) == [train, {"step": 20, "split": "test", "loss": None}]
    (events,) = (tmp_path / "events").iterdir()
    events = list(tf.compat.v1.train.summary_iterator(str(events)))
    tags = {(event.step, value.tag) for event in events for value in event.summary.value}
    assert tags == {(10, "train/loss"), (10, "train/rate"), (20, "test/loss"), (20, "samples")}


def test_resuming_drops_later_and_broken_lines(tmp_path):
    with contextlib.closing(MetricsWriter(tmp_path)) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, "train", {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "spl')
    with contextlib.closing(MetricsWriter(tmp_path, step=20)) as writer:
        writer.scalars(30, "train", {"loss": -1})
    # A score on the train split is not a line of training metrics. It is written once, even if a run resumes twice.
    for loss in (-2, -3):
        with contextlib.closing(MetricsWriter(tmp_path, step=30)) as writer:
            writer.scalars(30, "train", {"loss": loss, "num_examples": 5})
    found = [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert found == [(10, 10), (20, 20), (30, -1), (30, -2)]


@pytest.fixture
def largest_file():
    """Returns a function that limits the size of files of this process, which simulates a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_tensorboard(tmp_path, largest_file):
    """The events of a line are larger than the line, so they reach the limit first."""
    with pytest.raises(OSError, match="Cannot write .*events: .*Free up disk space"):
        with contextlib.closing(MetricsWriter(tmp_path)) as writer:
            largest_file(4000)
            for step in range(1000):
                writer.scalars(step, "train", {"loss": 1.0})
    largest_file(10**9)  # already here, because pytest may write its report to a file
    assert 10 < len(read_metrics(tmp_path)) < 1000
    assert not tf.summary.scalar("loss", 1.0, step=1)  # there is no default writer anymore


def test_no_room_for_a_line(tmp_path, largest_file, refused):
    """What was written of the line is skipped when the run resumes."""
    with contextlib.closing(MetricsWriter(tmp_path)) as writer:
        writer.scalars(1, "train", {"loss": 1.0})
        largest_file((tmp_path / "metrics.jsonl").stat().st_size + 20)
        message = "Cannot write .*metrics.jsonl: File too large. Free up disk space"
        refused(message, writer.scalars, 2, "train", {"loss": 2.0}, error=OSError)
        largest_file(10**9)
    with contextlib.closing(MetricsWriter(tmp_path, step=3)) as writer:
        writer.scalars(4, "train", {"loss": 4.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 4]


def test_a_damaged_line_is_named_and_nothing_dropped(tmp_path, refused):
    path, content = tmp_path / "metrics.jsonl", b'{"step": 1}\n\xff\x00\x81\n{"step": 2}\n'
    path.write_bytes(content)
    refused("Line 2 of .*metrics.jsonl is damaged", MetricsWriter, tmp_path, step=5)
    assert path.read_bytes() == content
