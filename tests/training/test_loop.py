import itertools
import json
import math
import re
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.training import Interrupted, NonFiniteError, loop, read_metrics
from tf_resflow.training.report import Report
from tf_resflow.training.workdir import Workdir


def saved_state(workdir, step):
    """Returns a dict of the keys of a checkpoint to their values."""
    name = step if isinstance(step, str) else f"ckpt-{step}"
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / name))
    keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
    return {key: reader.get_tensor(key) for key in keys if "save_counter" not in key}


LARGE = {"train__learning_rate": 0.1, "train__optimizer": "muon"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory, make_config, train):
    """Returns the workdir and the result of a run of 10 large steps. Its averaged weights lag behind."""
    workdir = tmp_path_factory.mktemp("plane")
    return workdir, train(make_config(**LARGE), workdir)


@pytest.fixture(autouse=True)
def usual_signals():
    """Restores Python's default handler, because a shell may have set SIGINT to be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_work(monkeypatch, no_figures, set_step):
    """Makes steps do nothing, and evaluations return 1, 2, ... nats for the number of examples in the config."""
    nats = itertools.count(1.0)

    def scores(report, split=None):
        num_examples = report._config.eval.num_examples
        stderr = 0.5 if num_examples > 1 else math.nan
        return {"nats": next(nats), "nats_stderr": stderr, "num_examples": num_examples, "estimator_std": 0.0}

    monkeypatch.setattr(Report, "scores", scores)
    set_step(lambda model, batch, step: {"nats": 0.0})


def saved_steps(workdir):
    return sorted(int(path.stem[5:]) for path in (workdir / "checkpoints").glob("*.index"))


def test_a_run_leaves_its_result_figures_metrics_and_model(plane):
    workdir, result = plane
    line = result["line"]
    assert json.loads((workdir / "result.json").read_text()) == result
    assert result["step"] == 10 and result["num_examples"] == 50
    assert result["validation"]["nats"] == result["best"] and math.isfinite(result["nats_stderr"])
    assert f"{result['nats']:.3f}" in line and "gaussian" in line and "entropy" in line
    assert (workdir / "figures" / "density_2d.png").stat().st_size > 1000
    assert list((workdir / "events").iterdir())
    lines = read_metrics(workdir)
    places = [(line["step"], line["split"]) for line in lines]
    assert places == [(4, "train"), (8, "train"), (10, "validation"), (10, "test")]
    assert {"nats", "gradient_norm", "learning_rate", "steps_per_second"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(0.1)
    assert lines[3]["nats"] == result["nats"] and lines[3]["estimator_std"] == 0.0  # exact
    run = resflow.load(workdir)  # has the averaged weights
    assert run.step == 10 and run.config.train.steps == 10
    assert run.workdir == workdir and run.data.event_shape == (2,) and run.result == result
    score = Report(run.config, run.model, resflow.data.load(run.config.data)).score()
    assert score.mean == pytest.approx(result["nats"], rel=1e-5)
    assert score.stderr == pytest.approx(result["nats_stderr"], rel=1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one(plane, tmp_path, make_config, train, monkeypatch, no_figures):
    """The run is stopped by a signal after step 3, and also evaluated at step 5."""
    before, raised = signal.getsignal(signal.SIGTERM), []
    config, log = make_config(**LARGE, train__eval_every=5), loop.Logging.after_step

    def after_step(hook, step, metrics):
        log(hook, step, metrics)
        if step == 3:
            raised.append(signal.raise_signal(signal.SIGTERM))

    with monkeypatch.context() as patch:
        patch.setattr(loop.Logging, "after_step", after_step)
        with pytest.raises(Interrupted, match="SIGTERM after step 3.*ckpt-3") as stop:
            train(config, tmp_path)
    assert raised and stop.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before and saved_steps(tmp_path) == [3]
    result = train(config, tmp_path)
    means = [line["averaged_steps"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert means == [1, 4] and len(saved_state(tmp_path, 10)) > 10
    np.testing.assert_equal(saved_state(tmp_path, 10), saved_state(plane[0], 10))
    assert result["nats"] == plane[1]["nats"]


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_signal_stops_unless_ignored(tmp_path, make_config, train, no_work, set_step, refused, is_ignored):
    """SIGINT comes at step 2 and SIGTERM at step 4. Shells ignore SIGINT for background jobs of a script."""
    handler = signal.SIG_IGN if is_ignored else signal.default_int_handler
    signal.signal(signal.SIGINT, handler)

    def step(model, batch, step):
        if step in (2, 4):
            signal.raise_signal({2: signal.SIGINT, 4: signal.SIGTERM}[step])
        return {"nats": 0.0}

    set_step(step)
    name, expected = ("SIGTERM", 4) if is_ignored else ("SIGINT", 2)
    refused(f"{name} after step {expected}", train, make_config(), tmp_path, error=Interrupted)
    assert signal.getsignal(signal.SIGINT) is handler and saved_steps(tmp_path) == [expected]


@pytest.fixture
def no_learning(monkeypatch, no_figures, set_step):
    """Step w fills the weights with w. The validation score is (w - 4)^2, and the score on other splits is w."""

    def scores(report, split="test"):
        step = float(report._model.trainable_variables[0].numpy().flat[0])
        nats = (step - 4) ** 2 if split == "validation" else step
        return {"nats": nats, "nats_stderr": 0.5, "num_examples": 50, "estimator_std": 0.0}

    def step(model, batch, step):
        for weight in model.trainable_variables:
            weight.assign(tf.fill(weight.shape, float(step)))
        model.optimizer.iterations.assign(step)
        return {"nats": 0.0}

    monkeypatch.setattr(Report, "scores", scores)
    monkeypatch.setattr(Report, "sample_grid", lambda report: None)
    set_step(step)


CHOOSING = {"train__keep_best": True, "train__patience": 2, "train__eval_every": 2, "train__ema_momentum": 0.0}


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_best_checkpoint_counts(tmp_path, make_config, train, no_learning, two_replicas, replicas):
    """Training ends after two evaluations that are worse than step 4. With more patience, it continues."""
    result = train(make_config(**CHOOSING), tmp_path, strategy=two_replicas if replicas == 2 else None)
    assert (result["step"], result["last_step"], result["ended_by_patience"], result["best"]) == (4, 8, 2, 0.0)
    assert (result["nats"], result["validation"]["nats"], result["validation"]["step"]) == (4.0, 0.0, 4)
    assert "at step 4, the best of 8 on validation" in result["line"]
    assert "ended by 2 evaluations without a better one" in result["line"]
    lines = [line for line in read_metrics(tmp_path) if "num_examples" in line]
    found = [(line["split"], line["step"], line["nats"], line.get("best_step")) for line in lines]
    expected = [("validation", s, (s - 4.0) ** 2, min(s, 4)) for s in (2, 4, 6, 8)]
    assert found == [*expected, ("test", 4, 4.0, None)] and saved_steps(tmp_path) == [5, 6, 8]
    assert [path.name for path in (tmp_path / "checkpoints" / "best").glob("*.index")] == ["ckpt-4.index"]
    run = resflow.load(tmp_path)
    assert (run.step, run.is_best) == (4, True) and "step 4, the best" in run.note
    assert np.all(run.model.trainable_variables[0].numpy() == 4.0)
    header = resflow.training.Evaluation(run, resflow.data.load(run.config.data)).header()
    assert (header["step"], header["checkpoint"]) == (4, "best")

    assert train(make_config(**CHOOSING), tmp_path)["line"].startswith("Already done")
    longer = train(make_config(**CHOOSING | {"train__patience": 3}), tmp_path)
    assert (longer["step"], longer["last_step"]) == (4, 10) and "ended_by_patience" not in longer
    last = train(make_config(**CHOOSING | {"train__keep_best": False, "train__patience": 0}), tmp_path)
    assert (last["step"], last["nats"], resflow.load(tmp_path).step) == (10, 10.0, 10)


def test_a_best_checkpoint_that_was_not_kept(tmp_path, make_config, train, no_learning, said):
    """The last checkpoint is used, with a warning, because a run without `keep_best` has not kept the best."""
    fields = CHOOSING | {"train__patience": 0}
    train(make_config(**fields | {"train__keep_best": False}), tmp_path)
    for find in (lambda: train(make_config(**fields), tmp_path)["step"], lambda: resflow.load(tmp_path).step):
        said.clear()
        assert find() == 10 and any("no checkpoint of step 4" in text for text in said)
    assert not resflow.load(tmp_path).is_best


def test_a_run_that_is_killed_chooses_the_same_checkpoint(tmp_path, make_config, train, no_learning, monkeypatch):
    """The run is killed before the best checkpoint or its score is written, after the last score, or at the end."""
    places = [(loop.Checkpoints, "save", 4), (loop.MetricsWriter, "scalars", 2)]
    places += [(loop.MetricsWriter, "image", 4), (Report, "result", 1)]
    config = make_config(**CHOOSING, train__log_every=20)
    monkeypatch.setattr(Report, "sample_grid", lambda report: np.zeros([1, 1, 1], np.uint8))
    expected = train(config, tmp_path / "whole")
    for owner, name, call in places:
        workdir, calls, method = tmp_path / name, itertools.count(1), getattr(owner, name)

        def killed(*args, calls=calls, call=call, method=method, **kwargs):
            if next(calls) == call:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, killed)
            train(config, workdir)
        assert train(config, workdir) == expected
        assert read_metrics(workdir) == read_metrics(tmp_path / "whole")
        for step in (8, "best/ckpt-4"):
            np.testing.assert_equal(saved_state(workdir, step), saved_state(tmp_path / "whole", step))


def test_the_best_score_is_of_the_same_examples(tmp_path, make_config, train, no_work):
    """Scores on more examples do not count. With one example, the standard error is null, as JSON has no NaN."""
    before = train(make_config(train__steps=5, eval__num_examples=50), tmp_path)
    result = train(make_config(eval__num_examples=1), tmp_path)
    assert (before["num_examples"], result["num_examples"]) == (50, 1)
    assert before["best"] < result["validation"]["nats"] == result["best"]
    assert result["nats_stderr"] is None and "nan" in result["line"]
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail) == result
    assert train(make_config(eval__num_examples=1), tmp_path)["nats_stderr"] is None


def test_a_finished_run_gives_its_result_again(plane, tmp_path, make_config, train, monkeypatch):
    """The result is returned without work, unless the config has changed or a figure is missing."""
    workdir, result = tmp_path / "run", plane[1]
    shutil.copytree(plane[0], workdir)
    config, files, lines = make_config(**LARGE), Workdir(workdir), read_metrics(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_model", None)
        assert train(config, workdir) == result | {"line": f"Already done: {result['line']}"}
        with pytest.raises(BlockingIOError, match="Another trainer is running"), files.locked():
            train(config, workdir)
    assert files.read_result(config) == result
    for change in ({"train__steps": 11}, {"eval__num_examples": 7}):
        assert files.read_result(make_config(**LARGE | change)) is None
    (workdir / "figures" / "density_2d.png").unlink()
    assert train(config, workdir) == result
    assert (workdir / "figures" / "density_2d.png").exists()
    assert read_metrics(workdir) == lines
    np.testing.assert_equal(saved_state(workdir, 10), saved_state(plane[0], 10))


def test_a_score_below_a_baseline_is_a_warning(tmp_path, make_config, train, monkeypatch, no_work, said):
    """The advice depends on whether scores improved or got worse. A good score causes no warning."""
    found = {"nats_stderr": 0.5, "num_examples": 50, "estimator_std": 0.0}
    cases = [(90.0, 80.0, "No earlier step was better"), (80.0, 90.0, "Step 5 of 10 was best"), (2.0, 3.0, None)]
    for i, (first, last, words) in enumerate(cases):
        nats = iter([first, last, last])
        monkeypatch.setattr(Report, "scores", lambda report, split=None, nats=nats: {"nats": next(nats), **found})
        result = train(make_config(train__eval_every=5), tmp_path / str(i))
        assert said == ([result["warning"]] if words else [])
        pattern = f"The model scores {last:.3f} nats, but the gaussian baseline is better: .*{words}"
        assert not words or re.search(pattern, result["warning"])
        said.clear()


@pytest.mark.parametrize("when", [7, 5])
def test_a_weight_that_is_not_finite_ends_a_run(tmp_path, make_config, train, set_step, no_figures, refused, when):
    """The weight is not finite at step 7, after a checkpoint at step 5, or at step 5."""

    def spoiled(model, batch, step):
        if step == when:
            weight = model.trainable_variables[0]
            weight.assign(tf.fill(weight.shape, math.inf))
        return {"nats": 0.0}

    set_step(spoiled)
    message = "weight.*step 10. Some weights of .* are not finite.* is .*ckpt-5. .*learning_rate"
    if when == 5:
        message = "weight.*step 5. Some weights of act_norm are not finite. No checkpoint"
    refused(message, train, make_config(), tmp_path, error=NonFiniteError)
    assert saved_steps(tmp_path) == [5] * (when == 7)
    assert when == 5 or all(np.all(np.isfinite(v)) for v in saved_state(tmp_path, 5).values())


@pytest.mark.parametrize("how", ["on replicas", "by XLA"])
def test_a_nan_gradient_ends_a_run(tmp_path, make_config, train, monkeypatch, two_replicas, refused, how):
    """The step is not applied, so the message can name the part where NaN first appears, which is here the data."""
    train_batches = resflow.data.Dataset.train_batches

    def spoiled(*args, **kwargs):
        batches = train_batches(*args, **kwargs).enumerate(1)

        def spoil(i, x):
            fifteenth = tf.range(tf.shape(x)[0])[:, None] == 15  # on the second of two replicas
            return tf.where((i == 3) & fifteenth, math.nan, x)

        return batches.map(spoil)

    monkeypatch.setattr(resflow.data.Dataset, "train_batches", spoiled)
    message = "The loss or its gradient is NaN or infinite at step 3. All weights are finite; "
    message += "the output of act_norm is not. The last good checkpoint is .*ckpt-2"
    config, options = make_config(train__checkpoint_every=2), {"jit": how == "by XLA"}
    options["strategy"] = two_replicas if how == "on replicas" else None
    refused(message, train, config, tmp_path, **options, error=NonFiniteError)
    assert saved_steps(tmp_path) == [2]


def test_a_config_that_does_not_fit_fails_at_once(tmp_path, make_config, train, two_replicas, refused):
    """The workdir stays free for a valid command."""
    wrong = [
        ({"model__kind": "image", "model__norms": (2.0,) * 4}, {}, "model.kind"),
        ({"train__patience": 1, "data__validation_fraction": 0.0}, {}, "has none. Set config.data.validation_frac"),
        ({"eval__split": "train"}, {}, "eval.split is 'train'; choose one of the splits of '8gaussians'"),
        ({"model__condition": "label"}, {}, "'label', but '8gaussians' has no labels"),
        ({"model__dequantization": "variational"}, {}, "but '8gaussians' has continuous data"),
        ({"train__batch_size": 15}, {"strategy": two_replicas}, "train.batch_size is 15.*replicas, 2"),
    ]
    for fields, options, message in wrong:
        refused(message, train, make_config(**fields), tmp_path / "run", **options)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
