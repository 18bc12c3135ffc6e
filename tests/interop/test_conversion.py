"""Compares converted checkpoints with results of the published code (see make_checkpoints.py)."""

import contextlib
import functools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import bijectors, layers
from tf_resflow.interop import convert_checkpoint
from tf_resflow.interop.published_arguments import published_config, published_data
from tf_resflow.interop.published_checkpoint import read_checkpoint
from tf_resflow.interop.published_variables import published_tensors
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.training.build import build_model
from tf_resflow.training.checkpoints import Checkpoints, make_optimizer
from tf_resflow.training.workdir import Workdir


@pytest.fixture(scope="module")
def converted(checkpoint_path, tmp_path_factory):
    """Returns a function of a name to the workdir and the return value of the conversion."""

    @functools.cache
    def convert(name):
        workdir = tmp_path_factory.mktemp(name) / "run"
        return workdir, convert_checkpoint(checkpoint_path(name), workdir)

    return convert


@pytest.fixture(scope="module")
def load(converted):
    return functools.cache(lambda name: resflow.load(converted(name)[0]))


def latent(run, x):
    """Returns the latents as vectors with the channels first.

    With factor-out, half of the channels leave the flow at each squeeze.
    """
    height, width, channels = run.model.data_space.event_shape
    if run.config.model.squeeze_first:
        height, width, channels = height // 2, width // 2, 4 * channels
    scales = [(height >> i, width >> i, channels << i) for i in range(1, len(run.config.model.num_blocks))]
    shapes = [*scales, scales[-1]]
    if not run.config.model.factor_out:
        shapes = [(*scales[-1][:2], 2 ** (len(scales)) * scales[-1][2])]
    y = run.model.flow.forward(x).numpy().reshape(len(x), -1)
    parts = np.split(y, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
    parts = [np.moveaxis(part.reshape(-1, *shape), -1, 1) for part, shape in zip(parts, shapes, strict=True)]
    return np.concatenate([part.reshape(len(x), -1) for part in parts], axis=1)


@contextlib.contextmanager
def weights(run, workdir):
    """Replaces the averages with the weights inside the context."""
    variables = run.model.trainable_variables
    averages = [variable.numpy() for variable in variables]
    optimizer = make_optimizer(run.config.train, variables)
    average = WeightAverage(run.model, run.config.train.ema_momentum)
    assert Checkpoints(Workdir(workdir).checkpoints, run.model, optimizer, average).restore() == run.step
    yield
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average)


def check_results(name, converted, load, published):
    """Compares latents and densities with the published ones, for the weights and for their averages."""
    expected, run = published(name), load(name)
    x = np.moveaxis(expected["x"], 1, -1)
    model = run.model
    flow = bijectors.with_log_det_estimator(model.flow, resflow.logdet.Exact())
    log_det_of = tf.function(lambda x: flow.forward_log_det_jacobian(x, 3), autograph=False)

    def check(kind):
        y, log_det = expected[f"{kind}_y"], log_det_of(tf.constant(x))
        np.testing.assert_allclose(latent(run, x), y, rtol=0, atol=1e-5 * np.abs(y).max())
        np.testing.assert_allclose(log_det, expected[f"{kind}_log_det"], rtol=1e-5)
        log_prob = -0.5 * np.sum(y.astype(np.float64) ** 2 + math.log(2 * math.pi), axis=1) + log_det
        bits_per_dim = math.log2(model.data_space.levels) - log_prob / (y.shape[1] * math.log(2))
        np.testing.assert_allclose(bits_per_dim, expected[f"{kind}_bits_per_dim"], rtol=1e-6)

    check("ema")
    with weights(run, converted(name)[0]):
        check("raw")
    # The two differ, so a mix-up of weights and averages would fail.
    assert np.abs(expected["raw_y"] - expected["ema_y"]).max() > 1e-3 * np.abs(expected["ema_y"]).max()


@pytest.mark.parametrize("name", ["celebahq", "hybrid"])
def test_the_published_latent_and_density(name, converted, load, published, stored_norms):
    """tests/system/interop tests the other checkpoints. The stored norms have converged in the conversion."""
    stored_norms()
    check_results(name, converted, load, published)


def test_learned_orders(checkpoint_path):
    """The published order is 3 + 2 tanh(-h), with h = 0.3 z + 0.7 elu(z) and z = artanh(1/2) - x."""
    published = read_checkpoint(checkpoint_path("learned_norms"))
    config = published_config(published.args)
    model = build_model(config, published_data(published.args, config))
    tensors = published_tensors(model.flow)  # the whole conversion would take too long
    names = [f"transforms.0.chain.2.nnet.{name}" for name in ("0.domain", "0.codomain", "2.codomain")]
    weights = published.weights | {name: np.array(x) for name, x in zip(names, [0.0, -1.5, 2.0], strict=True)}
    for tensor in tensors:
        tensor.variable.assign(tensor.value(weights))
    block = layers.norm_updates.lipschitz_layers(model.flow)[:3]
    pairs = [(float(layer.domain.order()), float(layer.codomain.order())) for layer in block]

    def order(x):
        z = math.atanh(0.5) - x
        return 3 + 2 * math.tanh(-(0.3 * z + 0.7 * (z if z > 0 else math.exp(z) - 1)))

    p, q, r = order(0.0), order(-1.5), order(2.0)
    np.testing.assert_allclose(pairs, [(p, q), (q, r), (r, p)], rtol=1e-6)


def test_the_run(converted, load):
    found, run = converted("celebahq")[1], load("celebahq")
    assert found["name"] == "celeb_a_hq/256" and found["averages"] and found["step"] == run.step == 1
    assert run.config.train.ema_momentum == 0.999 and run.config.train.steps == 1
    assert run.model.data_space.levels == 32 and run.model.data_space.event_shape == (16, 16, 3)
    assert type(run.model) is resflow.FlowModel
    np.testing.assert_allclose(load("hybrid").data.mean, [0.4914, 0.4822, 0.4465], rtol=1e-6)
    np.testing.assert_allclose(load("hybrid").data.std, [0.2023, 0.1994, 0.2010], rtol=1e-6)


@pytest.mark.parametrize("name, bound", [("celebahq", None), ("factor_out", 0.98**3)])
def test_the_coefficient_bounds_all_kernels(name, bound, converted, load):
    """The bound is compared with singular values. It exceeds 1 for the checkpoint with one power iteration."""
    largest = 0.0
    for layer in layers.norm_updates.lipschitz_layers(load(name).model.flow):
        shape = layer._operator.vector_shape
        basis = np.eye(math.prod(shape), dtype=np.float32).reshape(-1, *shape)
        matrix = layer._operator.matvec(layer._operand(), basis).numpy().reshape(len(basis), -1)
        largest = max(largest, np.linalg.svd(matrix, compute_uv=False)[0])
    coefficient = converted(name)[1]["coefficient"]
    assert 0.98 < largest <= coefficient * (1 + 1e-5)  # the published layers exceed their coefficient
    assert (coefficient > 1) == (bound is not None)
    assert load(name).config.model.lipschitz_constant == (bound and pytest.approx(bound))


def test_the_classifier_of_a_hybrid_model(converted, load, published):
    expected, model = published("hybrid"), load("hybrid").model
    assert isinstance(model, resflow.HybridModel) and model.density_weight == 8 * 8 * 3  # scale_dim was False
    x = tf.constant(np.moveaxis(expected["x"], 1, -1))

    def logits():
        return model.classifier(bijectors.forward_features(model.flow, x, compute_log_det=False).features)

    np.testing.assert_allclose(logits(), expected["ema_logits"], atol=1e-5)
    with weights(load("hybrid"), converted("hybrid")[0]):
        np.testing.assert_allclose(logits(), expected["raw_logits"], atol=1e-5)
    assert np.abs(expected["raw_logits"] - expected["ema_logits"]).max() > 1e-3
    images = np.floor(x * 256).astype(np.uint8)
    assert model.classify(images)["probabilities"].shape == (len(images), 10)


@pytest.fixture
def changed(checkpoint_path, tmp_path):
    """Returns a function that writes a checkpoint with other arguments, or without some arrays."""
    original = dict(np.load(checkpoint_path("mixed_norms")))

    def write(args=(), without=""):
        arrays = {name: array for name, array in original.items() if not (without and name.startswith(without))}
        arrays["args"] = json.dumps(json.loads(str(original["args"])) | dict(args))
        np.savez(tmp_path / "changed.npz", **arrays)
        return tmp_path / "changed.npz"

    return write


def test_another_architecture(changed, tmp_path):
    for fields, message in (
        (
            {"args": {"idim": 3}},
            r"'transforms.0.chain.2.nnet.0.weight' has the shape \(2, 1, 3, 3\), .*\(3, 1, 3, 3\)",
        ),
        ({"args": {"act": "elu"}}, "has no tensors 'transforms.0.chain.2.nnet.1.beta', .*beta'"),
        (
            {"without": "ema/transforms.0.chain.1.bias"},
            "'transforms.0.chain.1.bias' is missing, but .* of shape",
        ),
    ):
        with pytest.raises(ValueError, match=f"of another architecture.*{message}"):
            convert_checkpoint(changed(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_averages_the_weights_are_loaded(changed, published, tmp_path):
    assert not convert_checkpoint(changed(without="ema/"), tmp_path / "run")["averages"]
    expected = published("mixed_norms")
    y = resflow.load(tmp_path / "run").model.flow.forward(np.moveaxis(expected["x"], 1, -1))
    y = np.moveaxis(y, -1, 1).reshape(expected["raw_y"].shape)
    np.testing.assert_allclose(y, expected["raw_y"], rtol=0, atol=1e-5 * np.abs(y).max())
