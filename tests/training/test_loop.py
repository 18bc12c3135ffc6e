import contextlib
import itertools
import json
import math
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
import tqdm

import tf_resflow as resflow
from tf_resflow.training import NonFiniteError, Workdir, loop, read_metrics, signals
from tf_resflow.training.report import Report


def saved_state(workdir, step):
    """All that a checkpoint holds, by key."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"ckpt-{step}"))
    keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
    return {key: reader.get_tensor(key) for key in keys if "save_counter" not in key}


def assert_same_state(first, second):
    assert first.keys() == second.keys() and len(first) > 10
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


class RaisingBar(tqdm.tqdm):
    """A progress bar at whose third update the process is asked to stop."""

    updates = 0

    def update(self, n=1):
        self.updates += n
        if self.updates == 3:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, make_config):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = loop.train(make_config(), workdir, progress=False)
    return workdir, result


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(Report, "figures", lambda self, directory: {})


@pytest.fixture
def no_work(monkeypatch, no_figures):
    """Steps that do nothing, and evaluations that find 1, 2, ... nats of as many examples as the config says."""
    nats = itertools.count(1.0)

    def scores(report, split=None):
        num_examples = report._config.eval.num_examples
        stderr = 0.5 if num_examples > 1 else math.nan
        return {"nats": next(nats), "nats_stderr": stderr, "num_examples": num_examples, "estimator_std": 0.0}

    monkeypatch.setattr(Report, "scores", scores)
    monkeypatch.setattr(loop, "_compiled_step", lambda *_: lambda batch, seed: {"nats": 0.0})


def test_files(uninterrupted):
    workdir, result = uninterrupted
    line = result["line"]
    assert json.loads((workdir / "result.json").read_text()) == result
    assert result["step"] == 10 and result["num_examples"] == 50
    assert result["validation"]["nats"] == result["best"] and math.isfinite(result["nats_stderr"])
    assert f"{result['nats']:.3f}" in line and "gaussian" in line and "entropy" in line
    assert (workdir / "figures" / "density_2d.png").stat().st_size > 1000
    assert list((workdir / "events").iterdir())


def test_metrics(uninterrupted):
    workdir, result = uninterrupted
    lines = read_metrics(workdir)
    assert [(line["step"], line["split"]) for line in lines] == [
        (4, "train"),
        (8, "train"),
        (10, "validation"),
        (10, "test"),
    ]
    assert {"nats", "gradient_norm", "learning_rate", "steps_per_second"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(1e-3)
    assert lines[3]["nats"] == result["nats"] and lines[3]["estimator_std"] > 0


def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path, make_config, monkeypatch, no_figures):
    """Stopped by a signal after step 3 and by its number of steps at 5; evaluated there as well."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("tqdm.tqdm", RaisingBar)
        with pytest.raises(loop.Interrupted, match="SIGTERM after step 3.*ckpt-3") as stop:
            loop.train(make_config(train__steps=5), tmp_path, progress=False)
    assert stop.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    loop.train(make_config(train__steps=5), tmp_path, progress=False)
    result = loop.train(make_config(train__steps=10), tmp_path, progress=False)
    assert_same_state(saved_state(uninterrupted[0], 10), saved_state(tmp_path, 10))
    assert result["nats"] == uninterrupted[1]["nats"]


def test_a_run_in_bfloat16(tmp_path, make_config, no_figures):
    """Its scores and its loaded model are in float32."""
    fields = {"model__compute_dtype": "mixed_bfloat16", "train__learning_rate": 0.1, "train__steps": 4}
    result = loop.train(make_config(**fields), tmp_path, progress=False)
    with pytest.raises(ValueError, match="config.model.compute_dtype = 'mixed_bfloat16', but now it is 'float32'"):
        loop.train(make_config(train__steps=8), tmp_path, progress=False)
    run = resflow.load(tmp_path)
    score = Report(run.config, run.model, resflow.data.load(run.config.data)).score()
    assert score.mean == pytest.approx(result["nats"], rel=1e-5)
    assert resflow.bijectors.residual_blocks(run.model.flow)[0].branch(np.zeros([1, 2])).dtype == tf.float32
    for constants in resflow.evaluation.lipschitz_certificate(run.model.flow)["blocks"].values():
        assert constants["certified"] <= constants["nominal"]


def test_a_run_that_is_killed_in_an_evaluation_has_saved_and_makes_up_for_it(
    tmp_path, make_config, monkeypatch, no_work
):
    config = make_config(train__eval_every=5, data__num_test=30)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Report, "scores", lambda *_: signal.raise_signal(signal.SIGINT) or time.sleep(60))
        patch.setattr(loop, "signals_noted", lambda: contextlib.nullcontext(signals.Noted()))
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path, progress=False)
    assert (tmp_path / "checkpoints" / "ckpt-5.index").exists()
    result = loop.train(config, tmp_path, progress=False)
    scores = {line["step"]: line["nats"] for line in read_metrics(tmp_path) if line["split"] == "validation"}
    assert scores == {5: 1.0, 10: 2.0}
    assert (result["validation"]["nats"], result["best"]) == (2.0, 1.0)


def test_the_best_score_is_of_the_same_examples(tmp_path, make_config, no_work):
    """The score of more examples was another one."""
    before = loop.train(make_config(train__steps=5, eval__num_examples=50), tmp_path, progress=False)
    result = loop.train(make_config(eval__num_examples=3), tmp_path, progress=False)
    assert (before["num_examples"], result["num_examples"]) == (50, 3)
    assert before["best"] < result["validation"]["nats"] == result["best"]


def test_the_result_of_one_example_is_valid_json(tmp_path, make_config, no_work):
    """Its score has no standard error: null, which NaN is not."""
    result = loop.train(make_config(eval__num_examples=1), tmp_path, progress=False)
    assert result["nats_stderr"] is None and "nan" in result["line"]
    written = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert written == result and loop.train(make_config(eval__num_examples=1), tmp_path)["nats_stderr"] is None


def test_scores_of_the_train_split_are_not_mixed_with_what_training_logs(tmp_path, make_config, no_work):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=[100, 2]))
    fields = {"data__name": "tabular", "data__path": str(tmp_path / "table.npy"), "eval__split": "train"}
    fields["data__validation_fraction"] = 0.0
    loop.train(make_config(**fields, train__steps=5), tmp_path / "run", progress=False)
    result = loop.train(make_config(**fields), tmp_path / "run", progress=False)
    lines = [line for line in read_metrics(tmp_path / "run") if "num_examples" in line]
    assert [(line["step"], line["nats"]) for line in lines] == [(5, 1.0), (10, 2.0)]
    assert result["best"] == 1.0


def test_the_validation_split_is_scored_on_the_way_and_the_test_split_once(tmp_path, make_config, no_figures):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=[100, 2]))
    fields = {"data__name": "tabular", "data__path": str(tmp_path / "table.npy"), "train__eval_every": 5}
    result = loop.train(make_config(**fields), tmp_path / "run", progress=False)
    lines = [line for line in read_metrics(tmp_path / "run") if "num_examples" in line]
    scored = [(line["split"], line["step"]) for line in lines]
    assert scored == [("validation", 5), ("validation", 10), ("test", 10)]
    assert (result["split"], result["nats"]) == ("test", lines[2]["nats"])
    assert result["validation"]["nats"] == lines[1]["nats"] != result["nats"]
    assert result["best"] == min(line["nats"] for line in lines[:2])


def test_a_signal_in_the_last_evaluation_acts_as_ever(tmp_path, make_config, monkeypatch):
    """All is saved by then, and there is no step at whose end to stop."""
    monkeypatch.setattr(loop.Report, "scores", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        loop.train(make_config(train__eval_every=20), tmp_path, progress=False)
    assert (tmp_path / "checkpoints" / "ckpt-10.index").exists()


def test_a_finished_run_gives_its_result_again(uninterrupted, tmp_path, make_config, monkeypatch):
    """At once, unless a figure is missing: then with what the checkpoint gives, which is the same."""
    workdir, result = tmp_path / "run", uninterrupted[1]
    shutil.copytree(uninterrupted[0], workdir)
    state, lines = saved_state(workdir, 10), read_metrics(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_model", None)
        again = loop.train(make_config(), workdir, progress=False)
    assert again == result | {"line": f"Already done: {result['line']}"}
    (workdir / "figures" / "density_2d.png").unlink()
    assert loop.train(make_config(), workdir, progress=False) == result
    assert (workdir / "figures" / "density_2d.png").exists()
    assert read_metrics(workdir) == lines
    assert_same_state(state, saved_state(workdir, 10))


def test_a_run_is_done_for_its_config_alone(uninterrupted, make_config):
    files = Workdir(uninterrupted[0])
    assert files.read_result(make_config()) == uninterrupted[1]
    for change in ({"train__steps": 11}, {"eval__num_examples": 7}):
        assert files.read_result(make_config(**change)) is None
    with pytest.raises(ValueError, match="Another trainer is at work"):
        with files.locked():
            loop.train(make_config(), files.path, progress=False)
    assert resflow.load(files.path).step == 10


def test_a_loss_that_is_nan_stops_the_run(tmp_path, make_config, monkeypatch):
    """Step 7 spoils the weights: the checkpoint of step 5 is the last, and the message says so."""
    train_step = loop.train_step

    def spoiled(model, x, seed):
        metrics = train_step(model, x, seed)
        bad = tf.where(seed[1] == 7, math.nan, 0.0)
        weight = model.trainable_variables[0]
        weight.assign_add(tf.fill(weight.shape, bad))
        return metrics | {"nats": metrics["nats"] + bad}

    monkeypatch.setattr(loop, "train_step", spoiled)
    with pytest.raises(NonFiniteError, match="nats is nan at step 7.*ckpt-5") as error:
        loop.train(make_config(), tmp_path, progress=False)
    assert "learning_rate" in str(error.value)
    assert sorted(p.stem for p in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-5"]
    for key, value in saved_state(tmp_path, 5).items():
        assert np.all(np.isfinite(value)), key


@pytest.mark.parametrize("how", ["on one device", "on replicas", "by XLA"])
def test_a_gradient_that_is_nan_stops_the_run(tmp_path, make_config, monkeypatch, two_replicas, how):
    """The step is not taken, so that the message can tell the part where NaN begins: here in the data."""
    train_batches = resflow.data.Dataset.train_batches

    def spoiled(*args, **kwargs):
        batches = train_batches(*args, **kwargs).enumerate(1)
        last = tf.range(16) == 15  # on the second of two replicas
        return batches.map(lambda i, x: tf.where((i == 7) & last[:, None], math.nan, x))

    monkeypatch.setattr(resflow.data.Dataset, "train_batches", spoiled)
    message = "The loss or its gradient is NaN or infinite at step 7. All weights are finite; "
    message += "the output of act_norm is not. The last good checkpoint is .*ckpt-5"
    with pytest.raises(NonFiniteError, match=message):
        strategy = two_replicas if how == "on replicas" else None
        config = make_config(model__num_blocks=(1,))
        loop.train(config, tmp_path, strategy=strategy, jit=how == "by XLA", progress=False)
    assert sorted(p.stem for p in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-5"]


def test_weights_that_are_infinite_are_not_saved(tmp_path, make_config, monkeypatch):
    train_step = loop.train_step

    def spoiled(model, x, seed):
        metrics = train_step(model, x, seed)
        weight = model.trainable_variables[0]
        weight.assign_add(tf.fill(weight.shape, tf.where(seed[1] == 5, math.inf, 0.0)))
        return metrics

    monkeypatch.setattr(loop, "train_step", spoiled)
    message = "weight.*step 5. Some weights are not finite, first those of act_norm. No checkpoint"
    with pytest.raises(NonFiniteError, match=message):
        loop.train(make_config(), tmp_path, progress=False)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model__kind", "image", "model.kind"),
        ("eval__split", "extra", "eval.split.*'test'"),
        ("train__steps", 0, "train.steps is 0"),
        ("data__name", "8gaussian", "8gaussians"),
        ("model__activation", "lipswsh", "activation must be one of"),
    ],
)
def test_what_does_not_fit_is_said_at_once(tmp_path, make_config, key, value, message):
    config = make_config(**{key: value})
    if value == "image":
        config.model.norms = (2.0, 2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.json"))  # so that the workdir takes the command that is right


def test_jit_on_two_processors_is_refused_at_once(tmp_path, make_config, two_replicas):
    with pytest.raises(ValueError, match="for one device or for GPUs.*Leave out jit"):
        loop.train(make_config(), tmp_path / "run", strategy=two_replicas, jit=True, progress=False)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_workdir_is_said_at_once(tmp_path, make_config):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write to the workdir"):
        loop.train(make_config(), tmp_path / "file", progress=False)


def test_a_batch_that_cannot_be_divided(tmp_path, make_config, two_replicas):
    with pytest.raises(ValueError, match="train.batch_size is 15.*2 replicas"):
        loop.train(make_config(train__batch_size=15), tmp_path, strategy=two_replicas, progress=False)


def test_a_flow_of_couplings(tmp_path, make_config):
    """Of images: bits/dim, and grids instead of the density; no noise of an estimator, and no Lipschitz bound."""
    config = make_config(
        data__name="digits",
        model__kind="image",
        model__block="affine_coupling",
        model__inv_1x1_conv=True,
        model__num_blocks=(1, 1),
        model__width=4,
        model__num_fc_blocks=1,
        model__fc_width=4,
        train__steps=3,
        train__eval_every=3,
        eval__num_examples=30,
    )
    result = loop.train(config, tmp_path, progress=False)
    assert "lipschitz_bound" not in result
    assert result["num_examples"] == 30 and result["reconstruction_error"] < 0.01
    assert result["baselines"]["uniform"] == pytest.approx(math.log2(17))
    assert 2.0 < result["bits_per_dim"] < 6.0
    (line,) = [line for line in read_metrics(tmp_path) if line["split"] == "test"]
    assert line["estimator_std"] < 1e-6
    assert (tmp_path / "figures" / "samples.png").stat().st_size > 1000
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"samples.png", "reconstructions.png"}
    model = resflow.load(tmp_path).model
    assert model.sample(3, seed=0).dtype == tf.uint8
    report = Report(config, model, resflow.data.load(config.data))
    assert report.score().mean == pytest.approx(result["bits_per_dim"], rel=1e-5)
