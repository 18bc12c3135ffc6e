"""Tests of checkpoints that are damaged, incomplete or cannot be written."""

import pathlib
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.training.checkpoints import Checkpoints

pytestmark = pytest.mark.quick


def make_model(num_blocks=1, hidden=(4,), coefficient=0.9, **options):
    """Returns a model, its optimizer and its average."""
    flow = resflow.flows.vector_flow(2, num_blocks, hidden, coefficient=coefficient, seed=1, **options)
    model = resflow.FlowModel(flow, [2])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    return model, optimizer, WeightAverage(model, 0.9)


@pytest.fixture(scope="module")
def parts():
    return make_model()


def weight(parts):
    return parts[0].trainable_variables[0]


def fill(parts, value):
    weight(parts).assign(tf.fill(weight(parts).shape, float(value)))


@pytest.fixture(scope="module")
def three(parts, tmp_path_factory):
    """Returns a directory with checkpoints of steps 1, 2 and 3, in which one weight is filled with the step."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("three"), *parts, keep=3)
    for step in (1, 2, 3):
        fill(parts, step)
        path = checkpoints.save(step)
    return pathlib.Path(path).parent


@pytest.fixture
def saved(three, parts, tmp_path):
    """Returns a copy of the directory `three`."""
    fill(parts, -1)
    return shutil.copytree(three, tmp_path / "saved")


def contents(directory):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def flipped(content, index):
    return content[:index] + bytes([content[index] ^ 255]) + content[index + 1 :]


DATA = "data-00000-of-00001"
DAMAGES = {
    "data flipped": (DATA, lambda path: path.write_bytes(flipped(path.read_bytes(), 100))),
    "data missing": (DATA, pathlib.Path.unlink),
    "index flipped": ("index", lambda path: path.write_bytes(flipped(path.read_bytes(), 60))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(saved, parts, damage, caplog):
    suffix, harm = DAMAGES[damage]
    harm(saved / f"ckpt-3.{suffix}")
    checkpoints = Checkpoints(saved, *parts, keep=3)
    assert checkpoints.restore() == 2
    assert checkpoints.latest.endswith("ckpt-2")
    assert "ckpt-3 cannot be read and was skipped" in caplog.text
    np.testing.assert_array_equal(weight(parts), np.full(weight(parts).shape, 2.0))
    fill(parts, 9)
    checkpoints.save(3)
    fill(parts, -1)
    assert Checkpoints(saved, *parts, keep=3).restore() == 3
    np.testing.assert_array_equal(weight(parts), np.full(weight(parts).shape, 9.0))


def test_damaged_checkpoints_alone_are_an_error(saved, parts, refused):
    """The error is raised on every attempt, and the files do not change."""
    for step, damage in ((3, "data flipped"), (2, "data missing"), (1, "index flipped")):
        suffix, harm = DAMAGES[damage]
        harm(saved / f"ckpt-{step}.{suffix}")
    before = contents(saved)
    for keep in (3, 0):
        message = "None of the 3 checkpoints .* can be read: .*backup"
        refused(message, Checkpoints(saved, *parts, keep=keep).restore)
    assert before == contents(saved)


def test_neither_a_lost_list_nor_a_save_that_was_cut_short_matters(saved, parts):
    (saved / "ckpt-4_temp").mkdir()
    (saved / "ckpt-4.data-00000-of-00001").write_bytes(b"half")
    (saved / "ckpt-5-backup.index").write_bytes(b"another's")
    assert Checkpoints(saved, *parts, keep=3).restore() == 3
    for lose in (pathlib.Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("nonsense")):
        lose(saved / "checkpoint")
        fill(parts, -1)
        assert Checkpoints(saved, *parts, keep=3).restore() == 3
        assert float(tf.reduce_max(weight(parts))) == 3.0


def test_a_reader_and_a_worker_that_is_not_the_chief_write_nothing(saved, parts):
    before = contents(saved)
    for arguments in ({"keep": 0}, {"keep": 3, "is_chief": False}):
        checkpoints = Checkpoints(saved, *parts, **arguments)
        assert checkpoints.restore() == 3
        assert checkpoints.save(4).endswith("ckpt-4")
    assert before == contents(saved)


def test_the_newest_are_kept_across_restarts_and_on_a_full_disk(saved, parts, monkeypatch, refused):
    checkpoints = Checkpoints(saved, *parts, keep=3)
    checkpoints.restore()
    for step in (10, 11):
        checkpoints.save(step)
    assert sorted(int(path.stem[5:]) for path in saved.glob("ckpt-*.index")) == [3, 10, 11]

    full = tf.errors.ResourceExhaustedError(None, None, "ckpt-12_temp/part; No space left on device")
    monkeypatch.setattr(tf.train.CheckpointManager, "save", mock.Mock(side_effect=full))
    refused("Cannot write .*ckpt-12: No space left on device", checkpoints.save, 12, error=OSError)
    assert checkpoints.latest.endswith("ckpt-11")


@pytest.mark.parametrize(
    "fields, word", [({"coefficient": 0.8}, "0.9 in the"), ({"act_norm": False}, "is 3 in the")]
)
def test_another_model(saved, fields, word, refused):
    other = make_model(**fields)
    before = weight(other).numpy()
    refused(f"does not fit the model of this config.*{word}", Checkpoints(saved, *other).restore)
    np.testing.assert_array_equal(weight(other), before)
