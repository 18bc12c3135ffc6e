import json
import pathlib
import shutil

import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow import training
from tf_resflow.training.report import Report


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_config):
    workdir = tmp_path_factory.mktemp("run")
    config = make_config(train__steps=4, train__learning_rate=0.1)
    return workdir, training.train(config, workdir, progress=False)


def test_the_loaded_model_gives_the_score_of_the_run(run):
    """It has the averaged weights: its report repeats the result to the last digits."""
    workdir, result = run
    run = resflow.load(workdir)
    assert run.step == 4 and run.config.train.steps == 4
    assert run.workdir == workdir and run.data.event_shape == (2,) and run.result == result
    dataset = resflow.data.load(run.config.data)
    score = Report(run.config, run.model, dataset).score()
    assert score.mean == pytest.approx(result["nats"], rel=1e-5)
    assert score.stderr == pytest.approx(result["nats_stderr"], rel=1e-4)


def test_a_run_prints_in_one_line(run):
    """Without its config and result, which take a page."""
    text = repr(resflow.load(run[0]))
    assert text.startswith("Run(model=<FlowModel ") and "step=4" in text and "DataInfo(" in text
    assert "\n" not in text and len(text) < 500


def test_two_loaded_models_are_independent(run):
    first, second = resflow.load(run[0]).model, resflow.load(run[0]).model
    x = np.zeros([2, 2], np.float32)
    expected = second.log_prob(x, seed=1).numpy()
    for weight in first.trainable_variables:
        weight.assign(weight * 2.0)
    np.testing.assert_array_equal(second.log_prob(x, seed=1).numpy(), expected)


def test_no_checkpoint(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="no checkpoint yet"):
        resflow.load(tmp_path / "run")


@pytest.mark.parametrize(
    "change", [{"model__num_blocks": (3,)}, {"model__hidden": (9,)}, {"model__act_norm": False}]
)
def test_a_checkpoint_of_another_model(run, tmp_path, make_config, change):
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    other = make_config(**change)
    training.Workdir(tmp_path / "run").write_config(other)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        resflow.load(tmp_path / "run")
    assert len(str(error.value)) < 800 and "array(" not in str(error.value)


def test_not_a_workdir(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        resflow.load(tmp_path)


def test_a_run_of_version_0_1_0(tmp_path, caplog):
    """It scores what it scored then, and can be resumed: 20 steps of two blocks on the moons."""
    workdir = shutil.copytree(pathlib.Path(__file__).parent / "run_0_1_0", tmp_path / "run")
    then = json.loads((workdir / "result.json").read_text())
    run = resflow.load(workdir)
    assert run.step == then["step"] == 20 and "did not save the settings" in caplog.text
    assert run.config.model.estimator.eval.kind == "adaptive_roulette"  # it had the default of its version
    dataset = training.load_data(workdir)
    score = Report(run.config, run.model, dataset).score()
    assert score.mean == pytest.approx(then["nats"], rel=1e-5)
    result = training.train(run.config, workdir, progress=False)  # the figures are missing, so that it ends again
    assert result["step"] == 20 and result["nats"] == pytest.approx(then["nats"], rel=1e-5)


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
    np.save(table, rows + [0.0, 1e4])
    with pytest.raises(ValueError, match="are not those that the run in .* was begun with: their mean was"):
        training.load_data(workdir)
