import shutil

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow import training
from tf_resflow.training.workdir import Workdir


def test_what_cannot_be_loaded(run_without_work, tmp_path, make_config):
    """A folder without a run; a checkpoint of another model, in a short message; no checkpoint."""
    with pytest.raises(ValueError, match="no config.json"):
        resflow.load(tmp_path)
    workdir = tmp_path / "run"
    run_without_work(make_config(train__steps=1), workdir)
    files = Workdir(workdir)
    for change in ({"model__num_blocks": (3,)}, {"model__hidden": (9,)}, {"model__act_norm": False}):
        files.begin(make_config(**change), files.read_data())
        with pytest.raises(ValueError, match="does not fit the model") as error:
            resflow.load(workdir)
        assert len(str(error.value)) < 800 and "array(" not in str(error.value)
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(ValueError, match="no checkpoint yet"):
        resflow.load(workdir)


def test_the_data_of_a_run_are_checked_and_may_move(tmp_path, make_config, run_without_work):
    rows = np.random.default_rng(0).normal(size=[60, 2])
    np.save(tmp_path / "table.npy", rows)
    workdir, table = tmp_path / "run", tmp_path / "table.npy"
    config = make_config(data__name="tabular", data__path=str(table), train__steps=1)
    run_without_work(config, workdir)
    table.rename(tmp_path / "moved.npy")
    with pytest.raises(ValueError, match="are not at .*table.npy .*--data_path"):
        training.load_data(workdir)
    moved = training.load_data(workdir, data_path=str(tmp_path / "moved.npy"))
    assert moved.sizes == {"train": 48, "validation": 6, "test": 6}
    np.save(table, rows + [0.0, 2.0])
    with pytest.raises(ValueError, match="are not those that the run in .* was begun with: their mean was"):
        training.load_data(workdir)
