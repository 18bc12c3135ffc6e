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
from tf_resflow.training import Interrupted, NonFiniteError, hooks, loop, read_metrics
from tf_resflow.training.report import Report
from tf_resflow.training.workdir import Workdir


def saved_state(workdir, step):
    """All that a checkpoint holds, by key."""
    name = step if isinstance(step, str) else f"ckpt-{step}"
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / name))
    keys = [key for key in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
    return {key: reader.get_tensor(key) for key in keys if "save_counter" not in key}


@pytest.fixture(scope="module")
def plane(tmp_path_factory, make_config, train):
    """The workdir and the result of a run of 10 large steps, behind which its averaged weights lag."""
    workdir = tmp_path_factory.mktemp("plane")
    return workdir, train(make_config(train__learning_rate=0.1, train__optimizer="muon"), workdir)


@pytest.fixture(autouse=True)
def usual_signals():
    """The handlers that Python begins with: a shell may have it ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_work(monkeypatch, no_figures, set_step):
    """Steps that do nothing, and evaluations that find 1, 2, ... nats of as many examples as the config says."""
    nats = itertools.count(1.0)

    def scores(report, split=None):
        num_examples = report._config.eval.num_examples
        stderr = 0.5 if num_examples > 1 else math.nan
        return {"nats": next(nats), "nats_stderr": stderr, "num_examples": num_examples, "estimator_std": 0.0}

    monkeypatch.setattr(Report, "scores", scores)
    set_step(lambda model, batch, step: {"nats": 0.0})


def saved_steps(workdir):
    return sorted(int(path.stem[5:]) for path in (workdir / "checkpoints").glob("*.index"))


def scored(workdir):
    """The split, the step and the score of each evaluation."""
    lines = [line for line in read_metrics(workdir) if "num_examples" in line]
    return [(line["split"], line["step"], line["nats"]) for line in lines]


def test_a_run_leaves_its_result_figures_and_metrics(plane):
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


def test_a_loaded_run_has_the_averaged_weights_and_prints_in_one_line(plane):
    """Its report repeats the score of the result; the config and the result, which take a page, are not printed."""
    workdir, result = plane
    run = resflow.load(workdir)
    assert run.step == 10 and run.config.train.steps == 10
    assert run.workdir == workdir and run.data.event_shape == (2,) and run.result == result
    score = Report(run.config, run.model, resflow.data.load(run.config.data)).score()
    assert score.mean == pytest.approx(result["nats"], rel=1e-5)
    assert score.stderr == pytest.approx(result["nats_stderr"], rel=1e-4)
    text = repr(run)
    assert "step=10" in text and "\n" not in text and len(text) < 500


def test_a_resumed_run_equals_an_uninterrupted_one(plane, tmp_path, make_config, train, monkeypatch, no_figures):
    """Stopped by a signal after step 3, and evaluated at step 5 as well."""
    before, raised = signal.getsignal(signal.SIGTERM), []
    fields = {"train__learning_rate": 0.1, "train__optimizer": "muon", "train__eval_every": 5}
    log = hooks.Logging.after_step

    def after_step(hook, step, metrics):
        log(hook, step, metrics)
        if step == 3:
            raised.append(signal.raise_signal(signal.SIGTERM))

    with monkeypatch.context() as patch:
        patch.setattr(hooks.Logging, "after_step", after_step)
        with pytest.raises(Interrupted, match="SIGTERM after step 3.*ckpt-3") as stop:
            train(make_config(**fields), tmp_path)
    assert raised and stop.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before and saved_steps(tmp_path) == [3]
    result = train(make_config(**fields), tmp_path)
    means = [line["averaged_steps"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert means == [1, 4] and len(saved_state(tmp_path, 10)) > 10
    np.testing.assert_equal(saved_state(tmp_path, 10), saved_state(plane[0], 10))
    assert result["nats"] == plane[1]["nats"]


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_signal_stops_after_the_step_if_it_is_not_ignored(
    tmp_path, make_config, train, no_work, set_step, is_ignored
):
    """SIGINT at step 2, which is ignored in what a script starts in the background; SIGTERM at step 4."""
    handler = signal.SIG_IGN if is_ignored else signal.default_int_handler
    signal.signal(signal.SIGINT, handler)

    def step(model, batch, step):
        if step in (2, 4):
            signal.raise_signal({2: signal.SIGINT, 4: signal.SIGTERM}[step])
        return {"nats": 0.0}

    set_step(step)
    expected = "SIGTERM after step 4" if is_ignored else "SIGINT after step 2"
    with pytest.raises(Interrupted, match=expected):
        train(make_config(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert saved_steps(tmp_path) == [4 if is_ignored else 2]


def test_a_second_signal_acts_as_ever():
    with pytest.raises(KeyboardInterrupt), hooks.Stopping(None, tf.distribute.get_strategy()) as stopping:
        signal.raise_signal(signal.SIGINT)
        assert stopping._signum == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_a_run_in_bfloat16(tmp_path, make_config, train, no_figures):
    """Its scores and its loaded model are in float32."""
    fields = {"model__compute_dtype": "mixed_bfloat16", "train__learning_rate": 0.1, "train__steps": 2}
    result = train(make_config(**fields), tmp_path)
    with pytest.raises(ValueError, match="config.model.compute_dtype = 'mixed_bfloat16', but now it is 'float32'"):
        train(make_config(train__steps=8), tmp_path)
    run = resflow.load(tmp_path)
    score = Report(run.config, run.model, resflow.data.load(run.config.data)).score()
    assert score.mean == pytest.approx(result["nats"], rel=1e-5)
    assert resflow.bijectors.flow.residual_blocks(run.model.flow)[0].branch(np.zeros([1, 2])).dtype == tf.float32
    for constants in resflow.evaluation.lipschitz_certificate(run.model.flow)["blocks"].values():
        assert constants["certified"] <= constants["nominal"]


@pytest.fixture
def no_learning(monkeypatch, no_figures, set_step):
    """A step makes the weights its number w; a score of the validation split is (w - 4)^2, of another one w."""

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


@pytest.mark.parametrize("on_replicas", [False, True])
def test_the_best_checkpoint_is_the_one_that_counts(
    tmp_path, make_config, train, no_learning, two_replicas, on_replicas
):
    """Two evaluations after the one of step 4 are worse: training ends. With more patience it goes on."""
    options = {"strategy": two_replicas} if on_replicas else {}
    result = train(make_config(**CHOOSING), tmp_path, **options)
    assert (result["step"], result["last_step"], result["ended_by_patience"], result["best"]) == (4, 8, 2, 0.0)
    assert (result["nats"], result["validation"]["nats"], result["validation"]["step"]) == (4.0, 0.0, 4)
    assert "at step 4, the best of 8 on validation" in result["line"]
    assert "ended by 2 evaluations without a better one" in result["line"]
    assert scored(tmp_path) == [*(("validation", s, (s - 4.0) ** 2) for s in (2, 4, 6, 8)), ("test", 4, 4.0)]
    found = [line["best_step"] for line in read_metrics(tmp_path) if line["split"] == "validation"]
    assert found == [2, 4, 4, 4] and saved_steps(tmp_path) == [5, 6, 8]
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
    """The last state is used, and a warning says so. A run without `keep_best` kept none."""
    fields = CHOOSING | {"train__patience": 0}
    train(make_config(**fields | {"train__keep_best": False}), tmp_path)
    for find in (lambda: train(make_config(**fields), tmp_path)["step"], lambda: resflow.load(tmp_path).step):
        said.clear()
        assert find() == 10 and any("no checkpoint of step 4" in text for text in said)
    assert not resflow.load(tmp_path).is_best


def test_a_run_that_is_killed_chooses_the_same_checkpoint(tmp_path, make_config, train, no_learning, monkeypatch):
    """Wherever it is: before the best checkpoint or its score is written, after the last score, at the end."""
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
    """The score of more examples was another one."""
    before = train(make_config(train__steps=5, eval__num_examples=50), tmp_path)
    result = train(make_config(eval__num_examples=3), tmp_path)
    assert (before["num_examples"], result["num_examples"]) == (50, 3)
    assert before["best"] < result["validation"]["nats"] == result["best"]


def test_the_result_of_one_example_is_valid_json(tmp_path, make_config, train, no_work):
    """Its score has no standard error: null, which NaN is not."""
    result = train(make_config(eval__num_examples=1), tmp_path)
    assert result["nats_stderr"] is None and "nan" in result["line"]
    written = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert written == result and train(make_config(eval__num_examples=1), tmp_path)["nats_stderr"] is None


def test_a_finished_run_gives_its_result_again(plane, tmp_path, make_config, train, monkeypatch):
    """At once, unless its config has changed or a figure is missing: then with what the checkpoint gives."""
    workdir, result = tmp_path / "run", plane[1]
    fields = {"train__learning_rate": 0.1, "train__optimizer": "muon"}
    shutil.copytree(plane[0], workdir)
    config, files, lines = make_config(**fields), Workdir(workdir), read_metrics(workdir)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_model", None)
        assert train(config, workdir) == result | {"line": f"Already done: {result['line']}"}
        with pytest.raises(ValueError, match="Another trainer is at work"), files.locked():
            train(config, workdir)
    assert files.read_result(config) == result
    for change in ({"train__steps": 11}, {"eval__num_examples": 7}):
        assert files.read_result(make_config(**fields | change)) is None
    (workdir / "figures" / "density_2d.png").unlink()
    assert train(config, workdir) == result
    assert (workdir / "figures" / "density_2d.png").exists()
    assert read_metrics(workdir) == lines
    np.testing.assert_equal(saved_state(workdir, 10), saved_state(plane[0], 10))


@pytest.mark.parametrize(
    "scores, words",
    [([90.0, 80.0], "No earlier step was better"), ([80.0, 90.0], "Step 5 of 10 was best"), ([2.0, 3.0], None)],
)
def test_a_score_below_a_baseline_is_a_warning(
    tmp_path, make_config, train, monkeypatch, no_work, said, scores, words
):
    nats = iter([*scores, scores[-1]])
    found = {"nats_stderr": 0.5, "num_examples": 50, "estimator_std": 0.0}
    monkeypatch.setattr(Report, "scores", lambda report, split=None: {"nats": next(nats), **found})
    result = train(make_config(train__eval_every=5), tmp_path)
    assert said == ([result["warning"]] if words else [])
    if words:
        pattern = f"The model scores {scores[-1]:.3f} nats, and the gaussian baseline is better: .*{words}"
        assert re.search(pattern, result["warning"])


def test_a_loss_that_is_nan_stops_the_run(tmp_path, make_config, train, set_step, no_figures):
    """Step 7 spoils a weight: the checkpoint of step 5 is the last, and the message says so."""

    def spoiled(model, batch, step):
        if step == 7:
            weight = model.trainable_variables[0]
            weight.assign(tf.fill(weight.shape, math.nan))
        return {"nats": math.nan if step == 7 else 0.0}

    set_step(spoiled)
    message = "nats is nan at step 7. Some weights are not finite, .*is .*ckpt-5. .*learning_rate"
    with pytest.raises(NonFiniteError, match=message):
        train(make_config(), tmp_path)
    assert saved_steps(tmp_path) == [5]
    for key, value in saved_state(tmp_path, 5).items():
        assert np.all(np.isfinite(value)), key


def test_weights_that_are_infinite_are_not_saved(tmp_path, make_config, train, set_step):
    def spoiled(model, batch, step):
        weight = model.trainable_variables[0]
        weight.assign(tf.fill(weight.shape, math.inf if step == 5 else 0.0))
        return {"nats": 0.0}

    set_step(spoiled)
    message = "weight.*step 5. Some weights are not finite, first those of act_norm. No checkpoint"
    with pytest.raises(NonFiniteError, match=message):
        train(make_config(), tmp_path)
    assert not saved_steps(tmp_path)


@pytest.mark.parametrize("how", ["on replicas", "by XLA"])
def test_a_gradient_that_is_nan_stops_the_run(tmp_path, make_config, train, monkeypatch, two_replicas, how):
    """The step is not taken, so that the message can tell the part where NaN begins: here in the data."""
    train_batches = resflow.data.Dataset.train_batches

    def spoiled(*args, **kwargs):
        batches = train_batches(*args, **kwargs).enumerate(1)
        fifteenth = tf.range(64)[:, None] == 15  # on the second of two replicas
        return batches.map(lambda i, x: tf.where((i == 3) & fifteenth[: tf.shape(x)[0]], math.nan, x))

    monkeypatch.setattr(resflow.data.Dataset, "train_batches", spoiled)
    message = "The loss or its gradient is NaN or infinite at step 3. All weights are finite; "
    message += "the output of act_norm is not. The last good checkpoint is .*ckpt-2"
    with pytest.raises(NonFiniteError, match=message):
        strategy = two_replicas if how == "on replicas" else None
        train(make_config(train__checkpoint_every=2), tmp_path, strategy=strategy, jit=how == "by XLA")
    assert saved_steps(tmp_path) == [2]


def test_what_does_not_fit_is_said_at_once(tmp_path, make_config, train, two_replicas):
    """And leaves the workdir to the command that is right."""
    wrong = [
        ({"model__kind": "image", "model__norms": (2.0,) * 4}, {}, "model.kind"),
        ({"train__steps": 0}, {}, "train.steps is 0"),
        ({"train__patience": 1, "data__validation_fraction": 0.0}, {}, "has none: set config.data.validation_frac"),
        ({"data__name": "8gaussian"}, {}, "8gaussians"),
        ({"eval__split": "train"}, {}, "eval.split is 'train'; '8gaussians' has"),
        ({"model__condition": "label"}, {}, "'label', but '8gaussians' has no labels"),
        ({"model__dequantization": "variational"}, {}, "but the data of '8gaussians' are continuous"),
        ({"train__batch_size": 15}, {"strategy": two_replicas}, "train.batch_size is 15.*2 replicas"),
    ]
    for fields, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            train(make_config(**fields), tmp_path / "run", **options)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
