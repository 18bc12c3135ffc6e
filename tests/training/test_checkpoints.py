"""Checkpoints that were damaged, cut short or cannot be written."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.training import Workdir, default_config
from tf_resflow.training.checkpoints import Checkpoints, check_state
from tf_resflow.training.metrics_writer import MetricsWriter


def make_checkpoints(directory, keep=3, hidden=(4,), coefficient=0.9, **arguments):
    flow = resflow.flows.vector_flow(2, 1, hidden, coefficient=coefficient, seed=1)
    model = resflow.FlowModel(flow, [2])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    return Checkpoints(directory, model, optimizer, keep=keep, **arguments), model


def weight(model):
    return model.trainable_variables[0]


@pytest.fixture
def saved(tmp_path):
    """The directory of the checkpoints of steps 1, 2 and 3, where a weight is filled with the step."""
    checkpoints, model = make_checkpoints(tmp_path)
    for step in (1, 2, 3):
        weight(model).assign(tf.fill(weight(model).shape, float(step)))
        checkpoints.save(step)
    return tmp_path


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip(path, index):
    content = bytearray(path.read_bytes())
    content[index] ^= 255
    path.write_bytes(bytes(content))


DAMAGES = {
    "data cut": ("data-00000-of-00001", lambda path: cut(path, 100)),
    "data empty": ("data-00000-of-00001", lambda path: cut(path, 0)),
    "data flipped": ("data-00000-of-00001", lambda path: flip(path, 100)),
    "data missing": ("data-00000-of-00001", lambda path: path.unlink()),
    "index missing": ("index", lambda path: path.unlink()),
    "index cut": ("index", lambda path: cut(path, 100)),
    "index empty": ("index", lambda path: cut(path, 0)),
    "index flipped": ("index", lambda path: flip(path, 60)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(saved, damage, caplog):
    suffix, harm = DAMAGES[damage]
    harm(saved / f"ckpt-3.{suffix}")
    checkpoints, model = make_checkpoints(saved)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore() == 2
    assert checkpoints.latest.endswith("ckpt-2")
    assert any("ckpt-3 cannot be read and was skipped" in message for message in caplog.messages)
    np.testing.assert_array_equal(weight(model), np.full(weight(model).shape, 2.0))
    weight(model).assign(tf.fill(weight(model).shape, 9.0))
    checkpoints.save(3)
    again, model = make_checkpoints(saved)
    assert again.restore() == 3
    np.testing.assert_array_equal(weight(model), np.full(weight(model).shape, 9.0))


@pytest.mark.parametrize("damage", ["data flipped", "data missing", "index missing"])
def test_damaged_checkpoints_alone_are_an_error(saved, damage):
    """Whoever asks, and however often; the files stay as they are."""
    suffix, harm = DAMAGES[damage]
    for step in (1, 2, 3):
        harm(saved / f"ckpt-{step}.{suffix}")
    before = {path: path.read_bytes() for path in saved.iterdir()}
    for keep in (3, 3, 0):
        checkpoints, _ = make_checkpoints(saved, keep=keep)
        with pytest.raises(ValueError, match="None of the 3 checkpoints .* can be read: .*ckpt-3.*backup"):
            checkpoints.restore()
    assert before == {path: path.read_bytes() for path in saved.iterdir()}


@pytest.fixture
def begun(tmp_path):
    """The workdir of a run that was stopped after step 3, with metrics of each step."""
    files = Workdir(tmp_path)
    config = default_config()
    config.train.checkpoint_every = 2
    files.prepare(config)
    files.write_config(config)
    files.data.write_text("{}")
    make_checkpoints(files.checkpoints)[0].save(3)
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, "train", {"loss": 1.0})
    return files


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("config.json", "config.json is missing beside"),
        ("data.json", "data.json is missing beside"),
        ("checkpoints/*.index", "ckpt-3.index is missing"),
        ("checkpoints/*.data-*", "ckpt-3.data-00000-of-00001 is missing"),
        ("checkpoints/*", "has metrics up to step 3, but .*checkpoints is empty"),
    ],
)
def test_a_run_whose_state_is_lost_is_not_begun_anew(begun, pattern, message):
    check_state(begun)
    for path in begun.path.glob(pattern):
        path.unlink()
    with pytest.raises(ValueError, match=f"{message}.*backup"):
        check_state(begun)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(begun):
    """At the step of the first checkpoint, whose metrics are there and whose data were being written."""
    for name in ("ckpt-3.index", "checkpoint"):
        (begun.checkpoints / name).unlink()
    lines = (begun.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (begun.path / "metrics.jsonl").write_text("".join(lines[:2]))
    check_state(begun)
    assert make_checkpoints(begun.checkpoints)[0].restore() == 0


@pytest.mark.parametrize("content", [None, "", "nonsense"])
def test_the_list_of_checkpoints_can_be_lost(saved, content):
    (saved / "checkpoint").unlink()
    if content is not None:
        (saved / "checkpoint").write_text(content)
    checkpoints, model = make_checkpoints(saved)
    assert checkpoints.restore() == 3
    assert float(tf.reduce_max(weight(model))) == 3.0


def test_a_save_that_was_cut_short_is_not_seen(saved):
    (saved / "ckpt-4_temp").mkdir()
    (saved / "ckpt-4.data-00000-of-00001").write_bytes(b"half")
    (saved / "ckpt-5-backup.index").write_bytes(b"another's")
    checkpoints, _ = make_checkpoints(saved)
    assert checkpoints.restore() == 3


def test_only_the_newest_are_kept_across_restarts(saved):
    checkpoints, _ = make_checkpoints(saved)
    checkpoints.restore()
    for step in (10, 11):
        checkpoints.save(step)
    assert sorted(int(path.stem[5:]) for path in saved.glob("ckpt-*.index")) == [3, 10, 11]


def test_a_reader_writes_nothing(saved):
    before = {path: path.stat().st_mtime_ns for path in saved.iterdir()}
    checkpoints, _ = make_checkpoints(saved, keep=0)
    assert checkpoints.restore() == 3
    assert before == {path: path.stat().st_mtime_ns for path in saved.iterdir()}


def test_a_worker_that_is_not_the_chief_leaves_nothing(saved):
    before = {path: path.stat().st_mtime_ns for path in saved.iterdir()}
    checkpoints, _ = make_checkpoints(saved, is_chief=False)
    assert checkpoints.restore() == 3
    checkpoints.save(4)
    assert before == {path: path.stat().st_mtime_ns for path in saved.iterdir()}


def test_a_full_disk(saved, monkeypatch):
    checkpoints, _ = make_checkpoints(saved)
    checkpoints.restore()

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "ckpt-4_temp/part; No space left on device")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", full)
    message = "ckpt-4 cannot be saved.*No space left on device.*ckpt-3, is untouched.*same command"
    with pytest.raises(OSError, match=message):
        checkpoints.save(4)
    assert checkpoints.latest.endswith("ckpt-3")


@pytest.mark.parametrize(
    "setting, message", [({"hidden": (5,)}, "units is 4"), ({"coefficient": 0.8}, "0.9 in the")]
)
def test_another_model(saved, setting, message, caplog):
    checkpoints, model = make_checkpoints(saved, **setting)
    before = weight(model).numpy()
    with pytest.raises(ValueError, match=f"does not fit the model of this config.*{message}"):
        checkpoints.restore()
    np.testing.assert_array_equal(weight(model), before)
    make_checkpoints(saved)[0].restore()
    assert "older version" not in caplog.text
