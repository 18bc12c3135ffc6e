import functools
import json
import types

import numpy as np
import pytest
from scipy import linalg

import tf_resflow as resflow
from tf_resflow import training
from tf_resflow.cli.evaluate import table
from tf_resflow.training.report import Report
from tf_resflow.training.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_without_steps):
    """Returns a function of a config to the workdir and the result of a run without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "figures", lambda self, directory: {})
        yield lambda config: (workdir := tmp_path_factory.mktemp("run"), train_without_steps(config, workdir))


@pytest.fixture(scope="module")
def plane(make_config, run):
    return run(make_config())


@pytest.fixture(scope="module")
def images(image_config, run):
    fields = {"model__kernels": (3, 3), "model__logit_alpha": 0.05}
    return run(image_config(**fields, eval__num_examples=60, eval__batch_size=30))


run_of = functools.cache(resflow.load)


@functools.cache
def evaluation_of(workdir, log_det_estimator=None, num_probes=None, stderr=None):
    run, options = run_of(workdir), {"log_det_estimator": log_det_estimator, "num_probes": num_probes}
    return training.Evaluation(run, resflow.data.load(run.config.data), **options, stderr=stderr)


@functools.cache
def measured(workdir, metric, log_det_estimator=None, num_probes=None):
    """Returns a part of the result of an evaluation. Each part is measured only once."""
    return getattr(evaluation_of(workdir, log_det_estimator, num_probes), metric)()


@pytest.mark.parametrize("name", ["plane", "images"])
def test_the_default_repeats_the_result_of_the_training(name, request):
    workdir, trained = request.getfixturevalue(name)
    evaluation = evaluation_of(workdir)
    result = evaluation.header() | measured(workdir, "likelihood")
    unit = {"plane": "nats", "images": "bits_per_dim"}[name]
    assert result["unit"] == unit
    assert result["log_det_estimator"] == {"plane": "exact", "images": "adaptive_roulette"}[name]
    for key in ("name", "split", "step", "baselines", "num_examples"):
        assert result[key] == trained[key]
    assert result.get("entropy") == trained.get("entropy")
    assert result[unit] == pytest.approx(trained[unit], rel=1e-5)
    assert result[f"{unit}_stderr"] == pytest.approx(trained[f"{unit}_stderr"], rel=1e-4)
    assert result.get("example_stderr") == {"plane": 0.0, "images": None}[name]


def test_importance_weighted_bound_is_tighter_and_reports_its_bias(images):
    usual = measured(images[0], "likelihood", "exact")
    bound = evaluation_of(images[0], "exact").importance_weighted(8)["importance_weighted"]
    assert bound["bits_per_dim"] < usual["bits_per_dim"] and bound["num_samples"] == 8
    assert (usual["bound"], bound["bound"]) == ("elbo", "importance_weighted")
    assert evaluation_of(images[0]).header()["dequantization"] == images[1]["dequantization"] == "uniform"
    assert abs(bound["estimator_bias"]) < 1e-6
    bias = evaluation_of(images[0]).importance_weighted(2)["importance_weighted"]["estimator_bias"]
    std = measured(images[0], "noise")["noise"]["evaluation"]
    # Half of the variance in nats (1 bit/dim is 64 log(2) nats), times 1 - 1 / K = 1/2.
    assert bias == pytest.approx(-0.25 * std**2 * 64 * np.log(2))


def test_reconstruction_and_certificate(images):
    result = measured(images[0], "reconstruction")["reconstruction"]
    assert result["unconverged"] == 0 and result["exact_examples"] == 1.0
    assert result["num_solves"] == 30
    assert evaluation_of(images[0], "power_series", 16).header()["num_probes"] == 16
    certificate = measured(images[0], "lipschitz")["lipschitz"]
    assert list(certificate["blocks"]) == list(certificate["layers"]) == ["scale0_block0"]
    bounds = certificate["blocks"]["scale0_block0"]
    assert bounds["certified"] <= bounds["nominal"] * (1 + 1e-3) == pytest.approx(0.98**2, rel=1e-2)


def test_distance_of_samples_and_train_images(images):
    """The features are sums of pixels over 2 x 4 patches. The reference uses the matrix square root."""
    evaluation = evaluation_of(images[0])

    def features(x):
        return np.asarray(x, np.float64).reshape(-1, 4, 2, 2, 4).sum(axis=(2, 4)).reshape(-1, 8)

    result = evaluation.fid(features, num_samples=70)["fid"]
    assert (result["num_samples"], result["num_train"]) == (70, 70)
    model = run_of(images[0]).model
    batches = [(30, 30), (30, 30), (30, 10)]
    samples = [model.sample(n, [0, i]).numpy()[:m] for i, (n, m) in enumerate(batches)]
    x, y = features(np.concatenate(samples)), features(resflow.data.load({}).array("train")[:70])
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert result["fid"] == pytest.approx(expected, rel=0.01)


def test_metrics_that_cannot_be_measured(plane, refused):
    refused("no classifier to evaluate", evaluation_of(plane[0]).classification)
    refused("no importance-weighted bound", evaluation_of(plane[0]).importance_weighted, 4)
    refused("is 'fast', but must be one of adaptive_roulette, ", evaluation_of, plane[0], "fast")


def test_an_uncertified_block_is_evaluated_and_reported(plane, monkeypatch, refused):
    class Own(resflow.layers.LipSwish):
        def call(self, inputs):
            return super().call(inputs)

    run = resflow.load(plane[0])
    (block,) = resflow.bijectors.flow.residual_blocks(run.model.flow)
    activation = block.branch.layers[1]
    monkeypatch.setitem(block._parameters, "lipschitz_constant", 0.9)
    activation.__class__ = Own  # the Lipschitz constant of an overriding class is unknown
    dataset = resflow.data.load(run.config.data)
    evaluation = training.Evaluation(run, dataset)
    result = evaluation.header() | evaluation.lipschitz()
    assert result["lipschitz"]["blocks"][block.name]["reason"] in table(result)
    report = Report(run.config, run.model, dataset).result(1, {})
    assert report["lipschitz_bound"] is None
    assert activation.name in report["uncertified_blocks"][block.name]
    assert "Infinity" not in json.dumps(report)


def test_a_requested_standard_error_is_reached(images):
    """Half as many estimates would not suffice. Two batches of 30 images differ by less than 20 %."""
    run = run_of(images[0])
    evaluation = training.Evaluation(run, resflow.data.load(run.config.data), stderr=0.02)
    result = evaluation.header() | evaluation.likelihood()
    assert 0.02 / np.sqrt(2) / 1.2 < result["example_stderr"] < 1.2 * 0.02
    assert result["num_samples"] == evaluation.num_samples > 8 and "num_samples" in table(result)
    usual = measured(images[0], "likelihood")
    assert result["bits_per_dim"] == pytest.approx(usual["bits_per_dim"], abs=5 * usual["bits_per_dim_stderr"])


def test_a_requested_standard_error_of_vectors_has_exact_log_determinants(make_config):
    model = resflow.FlowModel(resflow.flows.vector_flow(20, 1, (4,)), [20])
    run = types.SimpleNamespace(model=model, density=model, config=make_config())
    settings = [(None, None), (None, 1.0), (4, 1.0)]  # number of probes, and standard error
    found = [Run.estimates(run, None, *pair, lambda: np.zeros([8, 20], "f4"))[0] for pair in settings]
    assert found == ["adaptive_roulette", "exact", "adaptive_roulette"]
