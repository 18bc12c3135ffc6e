"""FlowModel: losses against closed forms, fit with Keras's own tools, saving, and errors."""

import math
import re
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
BASIS = resflow.logdet.PowerSeries(5, probes="basis")


def vector_model(seed=0, **kwargs):
    flow = resflow.flows.vector_flow(2, 2, (8,), seed=seed)
    return resflow.FlowModel(flow, [2], **kwargs)


def identity_model(levels=None, base=None):
    """The density of Normalize([0.5, 0.5], [0.25, 0.25]): its block is the identity."""
    branch = resflow.flows.dense_branch([2], (4,))
    for variable in branch.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    block = resflow.bijectors.ResidualBlock(branch, BASIS, name="block")
    normalize = resflow.bijectors.Normalize([0.5] * 2, [0.25] * 2)
    flow = resflow.bijectors.Flow([normalize, block])
    return resflow.FlowModel(flow, [2], levels=levels, base=base, evaluation_log_det=BASIS)


@pytest.fixture(scope="module")
def data():
    z = np.random.default_rng(0).normal(size=[512, 2])
    return (z @ [[2.0, 1.0], [0.0, 0.3]] + [1.0, -2.0]).astype("float32")


def compiled(model, **kwargs):
    optimizer = keras.optimizers.AdamW(5e-3, use_ema=True, ema_momentum=0.9, global_clipnorm=1.0, **kwargs)
    model.compile(optimizer=optimizer)
    return model


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    model = vector_model()
    model.initialize(data)
    start = [weight.numpy() for weight in model.trainable_weights]
    directory = tmp_path_factory.mktemp("fit")
    checkpoint = keras.callbacks.ModelCheckpoint(str(directory / "{epoch}.weights.h5"), save_weights_only=True)
    board = keras.callbacks.TensorBoard(str(directory / "board"))
    history = compiled(model).fit(data, batch_size=64, epochs=6, verbose=0, callbacks=[checkpoint, board])
    return model, history, directory, start


def test_fit_lowers_the_loss(fitted, data):
    model, history, _, start = fitted
    losses = history.history["loss"]
    assert sorted(history.history) == ["loss"]
    assert losses[-1] < losses[0] - 0.05
    # No density is better than that of the data: its entropy, up to the noise of 512 examples.
    entropy = math.log(2 * math.pi * math.e) + math.log(0.6)
    assert losses[-1] > entropy - 0.3
    assert losses[-1] < entropy + 1.0
    for weight, value in zip(model.trainable_weights, start, strict=True):
        assert np.any(weight.numpy() != value), weight.path


def test_with_a_gpu_the_step_is_not_for_xla(monkeypatch):
    """Keras compiles a step with XLA where there is a GPU; this model does only if it is asked to."""
    devices = [types.SimpleNamespace(device_type="GPU", name="GPU:0")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)
    dense = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    for model, expected in ((dense, True), (vector_model(), False)):
        model.compile(optimizer="sgd")
        assert model.jit_compile is expected


def test_fit_with_xla_takes_the_same_steps_and_none_to_nan(data):
    """No Adam, whose division by the root of a small second moment enlarges rounding."""
    x, found = data[:16].copy(), []
    for jit in (False, True):
        model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,), seed=1), [2])
        model.initialize(data)
        optimizer = keras.optimizers.SGD(0.1, 0.9, global_clipnorm=1.0)
        model.compile(optimizer=optimizer, jit_compile=jit, run_eagerly=not jit)
        losses = model.fit(x, batch_size=8, shuffle=False, verbose=0).history["loss"]
        variables = [*model.trainable_weights, *model.optimizer.variables]
        found.append([losses, *(v.numpy() for v in variables)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    x[3] = math.nan  # in the first of two batches
    assert math.isnan(model.fit(x, batch_size=8, shuffle=False, verbose=0).history["loss"][0])
    assert all(np.all(np.isfinite(v)) for v in variables)
    assert model.optimizer.iterations == 3


@pytest.mark.parametrize("name", ["loss", "metrics"])
def test_it_has_its_own_loss(name):
    with pytest.raises(ValueError, match=f"FlowModel has its own loss and reports its parts: leave out {name}"):
        vector_model().compile(optimizer="sgd", **{name: ["mse"]})


class Batches(keras.utils.PyDataset):
    """Batches of which Keras does not know the shape."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.x,)


KINDS_OF_DATA = {
    "array": np.asarray,
    "tensor": tf.constant,
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(8),
    "batches": Batches,
}


@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_wrong_data_between_right_calls(kind, data):
    """Also in a step that Keras traced before, and then traces for any shape."""
    model, make = affine_model(data[:16], optimizer="adamw"), KINDS_OF_DATA[kind]
    right, wrong = make(data[:16]), make(np.zeros([16, 3], "float32"))
    calls = (
        lambda x: model.fit(x, verbose=0),
        lambda x: model.evaluate(x, verbose=0),
        lambda x: model.fit(data[:16], validation_data=x, verbose=0),
    )
    errors = (ValueError, tf.errors.InvalidArgumentError)
    for call in calls:
        call(right)
        for _ in range(2):
            with pytest.raises(errors, match=r"batches of examples of shape \(2,\); got"):
                call(wrong)
        call(right)


def test_fit_warns_of_act_norms_without_initialization(data):
    model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,)), [2])
    model.compile(optimizer="sgd", run_eagerly=True)
    with pytest.warns(UserWarning, match="model.initialize"):
        model.fit(data[:8], verbose=0)
    model.initialize(data[:8])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*model.initialize")
        model.fit(data[:8], verbose=0)


def test_a_flow_that_drops_the_seed_is_refused():
    chain = tfp.bijectors.Chain(resflow.flows.vector_flow(2, 1, (4,)).bijectors)
    for flow in (chain, tfp.bijectors.Invert(tfp.bijectors.Invert(chain))):
        with pytest.raises(ValueError, match="drops a seed.*put it in a tf_resflow.bijectors.Flow"):
            resflow.FlowModel(flow, [2])
    model = resflow.FlowModel(resflow.bijectors.Flow([chain]), [2])
    values = [model.log_prob(np.ones([30, 2], "float32"), seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(*values[:2])
    assert np.any(values[0] != values[2])


def test_fit_updates_the_norms(fitted):
    for layer in resflow.layers.lipschitz_layers(fitted[0].flow):
        norm = np.linalg.norm(layer.kernel.numpy(), 2)
        np.testing.assert_allclose(layer.norm_estimate(), norm, rtol=1e-3)


def test_callbacks_write_their_files(fitted):
    _, _, directory, _ = fitted
    assert {p.name for p in directory.glob("*.h5")} == {f"{i}.weights.h5" for i in range(1, 7)}
    assert list((directory / "board").rglob("events.*"))


def test_evaluate(fitted, data):
    model, history, _, _ = fitted
    loss = model.evaluate(data, batch_size=256, verbose=0)
    draws = [model.loss_per_example(data, seed=i, evaluation=True) for i in range(8)]
    # One draw against the mean of 8, each of 512 independent estimates: 4 standard errors.
    error = np.sqrt(np.sum(np.var(draws, axis=0, ddof=1)) * (1 + 1 / 8)) / len(data)
    assert abs(loss - np.mean(draws)) < 4 * error
    assert error < 0.1


def test_weights_round_trip(fitted, data, tmp_path):
    model, _, directory, _ = fitted
    path = str(tmp_path / "model.weights.h5")
    model.save_weights(path)
    expected = model.log_prob(data[:8], seed=1)
    other = vector_model(seed=5)
    assert np.all(other.log_prob(data[:8], seed=1) != expected)
    other.load_weights(path)
    np.testing.assert_array_equal(other.log_prob(data[:8], seed=1), expected)
    last = vector_model(seed=6)  # the callback saves what the fit ends with
    last.load_weights(str(directory / "6.weights.h5"))
    np.testing.assert_allclose(last.log_prob(data[:8], seed=1), expected, rtol=1e-5)
    deeper = resflow.FlowModel(resflow.flows.vector_flow(2, 3, (8,)), [2])
    with pytest.raises(ValueError):
        deeper.load_weights(path)


def test_blocks_without_names(data, tmp_path):
    """The second model of an architecture in one process restores all of the first, which has each block's part."""

    def make(seed):
        branches = [resflow.flows.dense_branch([2], (4,), seed=seed) for _ in range(3)]
        first, second, third = map(resflow.bijectors.ResidualBlock, branches)
        inner = resflow.bijectors.Flow([third, resflow.bijectors.ActNorm([2])])
        return resflow.FlowModel(resflow.bijectors.Flow([first, second, inner]), [2])

    model = make(0)
    model.initialize(data)
    names = ["residual_block", "residual_block_1", "residual_block_2"]
    assert list(resflow.evaluation.lipschitz_bounds(model.flow)) == names
    assert list(resflow.evaluation.lipschitz_certificate(model.flow)["layers"]) == names
    expected = model.log_prob(data[:8], seed=1)
    model.save_weights(str(tmp_path / "model.weights.h5"))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "c"))
    from_weights, from_checkpoint = make(1), make(2)
    from_weights.load_weights(str(tmp_path / "model.weights.h5"))
    tf.train.Checkpoint(model=from_checkpoint).read(path).assert_consumed()
    for other in (from_weights, from_checkpoint):
        np.testing.assert_array_equal(other.log_prob(data[:8], seed=1), expected)


def test_checkpoint_round_trip(fitted, data, tmp_path):
    model = fitted[0]
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(tmp_path / "c"))
    other = compiled(vector_model(seed=5))
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).read(path).assert_consumed()
    expected = model.log_prob(data[:8], seed=1)
    np.testing.assert_array_equal(other.log_prob(data[:8], seed=1), expected)
    assert int(other.optimizer.iterations) == 48


def test_same_seed_same_fit(data):
    def losses(seed):
        model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,)), [2], seed=seed)
        model.compile(optimizer="sgd", run_eagerly=True)
        options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
        return model.fit(data[:16], **options).history["loss"]

    first = losses(0)
    np.testing.assert_allclose(losses(0), first, rtol=1e-6)
    assert losses(1) != first


def record_seeds(monkeypatch, model):
    """The seeds that the scores of each step are given."""
    seeds, scores = [], model.scores

    def recorded(batch, seed=None, **kwargs):
        keep = tf.numpy_function(lambda seed: seeds.append(tuple(seed.tolist())), [seed], [])
        with tf.control_dependencies(tf.nest.flatten(keep)):
            return scores(tf.identity(batch), seed, **kwargs)

    monkeypatch.setattr(model, "scores", recorded)
    return seeds


def affine_flow(dtype="float32"):
    return resflow.bijectors.Flow([resflow.bijectors.ActNorm([2], dtype=dtype)])


def affine_model(data, **compiling):
    """Nothing but an ActNorm, away from where it is best, so that steps are fast to trace."""
    model = resflow.FlowModel(affine_flow(), [2])
    model.initialize(data / 2.0)
    model.compile(**compiling)
    return model


ACCUMULATING = {"gradient_accumulation_steps": 3, "use_ema": True}


@pytest.mark.parametrize(
    ("setting", "compiling"),
    [
        ({}, {}),
        (ACCUMULATING, {}),
        (ACCUMULATING, {"steps_per_execution": 2}),
        (ACCUMULATING, {"run_eagerly": True}),
    ],
)
def test_every_step_has_its_own_seed(monkeypatch, data, setting, compiling):
    model = affine_model(data, optimizer=keras.optimizers.Adam(**setting), **compiling)
    seeds = record_seeds(monkeypatch, model)
    model.fit(data[:64], batch_size=16, epochs=2, verbose=0)
    model.train_on_batch(data[:16])
    assert len(set(seeds)) == len(seeds) >= 9  # train_on_batch takes steps_per_execution of them


def test_every_step_of_every_replica_has_its_own_seed(monkeypatch, data, two_replicas):
    with two_replicas.scope():
        model = affine_model(data, optimizer="adam")
    seeds = record_seeds(monkeypatch, model)
    model.fit(data[:64], batch_size=16, epochs=2, verbose=0)
    assert len(set(seeds)) == len(seeds) == 16


def test_a_resumed_fit_goes_on_with_the_seeds(monkeypatch, data, tmp_path):
    """Stopped between the batches over which the optimizer accumulates gradients."""

    def build():
        model = affine_model(data, optimizer=keras.optimizers.Adam(gradient_accumulation_steps=4))
        return model, record_seeds(monkeypatch, model), tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    options = {"x": data[:96], "batch_size": 16, "shuffle": False, "verbose": 0}
    model, seeds, checkpoint = build()
    model.fit(**options)
    path = checkpoint.write(str(tmp_path / "c"))
    model.fit(**options)
    again, resumed, checkpoint = build()
    checkpoint.read(path).assert_consumed()
    again.fit(**options)
    assert len(resumed) == 6 and resumed == seeds[6:]
    for weight, expected in zip(again.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    "optimizer, policy",
    [
        (lambda: "adam", "mixed_float16"),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=1.0), "float32"),
        (lambda: keras.optimizers.Adam(loss_scale_factor=128.0), "float32"),
    ],
)
def test_a_scale_of_the_loss_is_refused(optimizer, policy, data, dtype_policy):
    with dtype_policy(policy):
        model = resflow.FlowModel(affine_flow(), [2])
    model.initialize(data)
    with pytest.raises(ValueError, match="mixed_bfloat16.*leave out loss_scale_factor and LossScaleOptimizer"):
        model.compile(optimizer=optimizer())
    with pytest.raises(ValueError, match="compile"):
        model.fit(data[:16], verbose=0)


def test_layers_in_float16_are_refused():
    """Of any depth; "float32" is the policy of the model itself."""
    network = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, dtype="mixed_float16", name="half")])
    model = resflow.FlowModel(resflow.bijectors.Flow([resflow.bijectors.AffineCoupling(network)]), [2])
    with pytest.raises(ValueError, match="'half' computes in float16.*'mixed_bfloat16'"):
        model.compile(optimizer="adam")


def test_weights_are_the_variables_of_the_distribution(fitted):
    model = fitted[0]
    for distribution in (model.distribution, model.evaluation_distribution):
        for kind in ("variables", "trainable_variables"):
            keras_variables = getattr(model, kind)
            seen = [id(v.value) for v in keras_variables if v.path.split("/")[0] != "loss"]
            found = [id(v) for v in getattr(distribution, kind)]
            assert len(set(found)) == len(found)
            assert set(found) <= set(seen)
    assert len(model.weights) == len(model.distribution.variables)


def test_variable_that_keras_does_not_see():
    (_, block, _) = resflow.flows.vector_flow(2, 1, (4,)).bijectors
    scale = tfb.Scale(tf.Variable([1.0, 2.0], name="stowaway"))
    with pytest.raises(ValueError, match="neither train nor save them: stowaway"):
        resflow.FlowModel(resflow.bijectors.Flow([block, scale]), [2])
    base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0], name="loc"))
    with pytest.raises(ValueError, match="of the base distribution .*: loc.*, or let the flow end"):
        resflow.FlowModel(resflow.bijectors.Flow([block]), [2], base=base)
    resflow.FlowModel(resflow.bijectors.Flow([block, tfb.Scale([1.0, 2.0])]), [2])


def test_nats_of_continuous_data(data):
    model = identity_model()
    expected = -stats.norm(0.5, 0.25).logpdf(data).sum(-1)
    np.testing.assert_allclose(model.loss_per_example(data, seed=1), expected, rtol=1e-5)
    np.testing.assert_allclose(model.log_prob(data, evaluation=True), -expected, rtol=1e-5)
    np.testing.assert_allclose(model(data), -expected, rtol=1e-5)


def test_bits_per_dimension_of_a_uniform_density():
    # The density of x is 1/2 on all of [-0.5, 1.5]^2 per coordinate: log2(2 L) bits.
    edges = tf.fill([2], 4.0)
    base = tfd.Independent(tfd.Uniform(-edges, edges), 1)
    model = identity_model(levels=8, base=base)
    x = np.random.default_rng(0).integers(8, size=[16, 2]).astype("uint8")
    for evaluation in (False, True):
        bits = model.loss_per_example(x, seed=1, evaluation=evaluation)
        np.testing.assert_allclose(bits, 4.0, rtol=1e-5)
        log_prob = model.log_prob(x, seed=1, evaluation=evaluation)
        np.testing.assert_allclose(log_prob, -2 * np.log(16), rtol=1e-5)


def test_bits_per_dimension_of_a_normal_density():
    levels, value = 4, np.array([0, 2])
    density = stats.norm(0.5, 0.25)
    # E over u of -log p((value + u) / levels), by quadrature.
    nats = [integrate.quad(lambda u, v=v: -density.logpdf((v + u) / levels), 0, 1)[0] for v in value]
    expected = (np.sum(nats) / 2 + np.log(levels)) / np.log(2)
    # 4,096 draws of u, 4 standard errors.
    x = np.tile(value, [4096, 1]).astype("uint8")
    bits = identity_model(levels).loss_per_example(x, seed=1).numpy()
    assert abs(bits.mean() - expected) < 4 * bits.std() / np.sqrt(4096)
    assert bits.std() > 0.05


def mixture(components):
    return tfd.MixtureSameFamily(tfd.Categorical([0.0, 1.0]), tfd.Independent(components, 1))


def scaling_model(levels, **solver):
    """A flow of two blocks x + S x, with S diagonal and |S| at most 1/2."""
    blocks = []
    for name in "ab":
        branch = keras.Sequential([keras.Input([6]), resflow.layers.LipschitzDense(6, 0.9)])
        branch.layers[0].kernel.assign(np.diag(np.linspace(-0.5, 0.5, 6)))
        blocks.append(resflow.bijectors.ResidualBlock(branch, BASIS, name=name, **solver))
    return resflow.FlowModel(resflow.bijectors.Flow(blocks), [6], levels=levels)


def test_decode_stops_at_what_integers_can_show():
    """A residual of 1/32 of a level leaves the same error of a block, and 1 + 2 times that of the data: 3/32."""
    model = scaling_model(levels=8)
    x = tf.constant(np.random.default_rng(0).uniform(0.1, 0.9, size=[200, 6]), tf.float32)
    z = model.flow.forward(x)
    loose, tight = (
        resflow.bijectors.inverse_with_solutions(model.flow, z, atol=atol) for atol in (model.inverse_atol, 0.0)
    )
    for one, other in zip(loose[1], tight[1], strict=True):
        assert np.all(one.converged) and np.all(one.residual <= 1 / 256 + 1e-6)
        assert np.mean(one.num_iterations) < np.mean(other.num_iterations) - 1
    error = np.max(np.abs(loose[0] - x)) * 8
    assert 1e-4 < error <= 3 / 32
    np.testing.assert_array_equal(model.decode(z), model.to_data(loose[0]))
    np.testing.assert_array_equal(model.decode(z, precise=True), model.to_data(tight[0]))
    z = model.sample_latent(50, seed=3)
    for precise in (False, True):
        np.testing.assert_array_equal(model.sample(50, seed=3, precise=precise), model.decode(z, precise=precise))


@pytest.mark.parametrize("levels, solver", [(None, {}), (8, {"inverse_solver": resflow.solvers.FixedPoint()})])
def test_continuous_data_and_given_solvers_keep_their_tolerance(levels, solver):
    model = scaling_model(levels, **solver)
    z = tf.constant(np.random.default_rng(0).normal(size=[20, 6]), tf.float32)
    precise, (*_, first) = resflow.bijectors.inverse_with_solutions(model.flow, z)
    np.testing.assert_array_equal(model.decode(z), model.to_data(precise))
    _, (*_, other) = resflow.bijectors.inverse_with_solutions(model.flow, z, atol=model.inverse_atol)
    np.testing.assert_array_equal(other.num_iterations, first.num_iterations)
    np.testing.assert_allclose(model.reconstruct(z), z, atol=1e-5)


def test_decode_compiles_with_xla():
    model = scaling_model(levels=8)
    z = tf.constant(np.random.default_rng(0).normal(size=[20, 6]), tf.float32)
    compiled = tf.function(lambda z: model.decode(z, precise=True), autograph=False, jit_compile=True)
    np.testing.assert_array_equal(compiled(z), model.decode(z, precise=True))


@pytest.mark.parametrize(
    "base, heavy",
    [
        (lambda: tfd.Independent(tfd.StudentT(tf.ones(2), 1.0, 2.0), 1), True),
        (lambda: mixture(tfd.Cauchy(tf.zeros([2, 2]), 1.0)), True),
        (lambda: tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.ones(2)), tfb.Exp()), True),
        (lambda: tfd.Independent(tfd.StudentT(3.0, [1.0, 2.0], 2.0), 1), False),
    ],
    ids=["student_t", "mixture", "no_formula", "with_a_mean"],
)
def test_a_base_without_a_mean_is_sampled_at_temperature_1(base, heavy):
    """The flow is z = 4 x - 2, so that a sample is (z + 2) / 4 of the base's z at the same seed."""
    model = identity_model(base=base())
    z = model.distribution.distribution.sample(6, seed=resflow.stateless_seed(5))
    sample = tf.function(lambda temperature: model.sample(6, seed=5, temperature=temperature), autograph=False)
    for x in (model.sample(6, seed=5), model.sample(6, 5, tf.constant(1.0)), sample(tf.constant(1.0))):
        np.testing.assert_allclose(x, (z + 2) / 4, rtol=1e-5, atol=1e-6)
    for cool in (lambda: model.sample(6, 5, 0.5), lambda: sample(tf.constant(0.5))):
        if heavy:
            with pytest.raises(tf.errors.InvalidArgumentError, match="sample at temperature 1. It is"):
                cool()
        else:
            np.testing.assert_allclose(cool(), ([1.0, 2.0] + 0.5 * (z - [1.0, 2.0]) + 2) / 4, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [None, 3])
def test_data_and_latents(levels):
    """The flow is z = 4 x - 2; `encode` takes integers to the centers of their cells."""
    model = identity_model(levels)
    x = np.array([[0, 1], [2, 2]], "float32" if levels is None else "uint8")
    centers = x if levels is None else (x + 0.5) / levels
    np.testing.assert_allclose(model.encode(x), 4 * centers - 2, rtol=1e-6)
    again = model.decode(4 * centers - 2)
    np.testing.assert_allclose(again, x, atol=1e-6)
    assert again.dtype == x.dtype
    prepared = model.prepare(x, resflow.stateless_seed(1)).numpy()
    np.testing.assert_array_equal(prepared if levels is None else np.floor(prepared * levels), x)
    np.testing.assert_allclose(model.to_data(prepared), x, atol=1e-6)


def test_another_estimator(data):
    """Both estimators of the model are replaced, for this call alone."""
    model = vector_model()
    x, exact = data[:8], resflow.logdet.Exact()
    flow = resflow.bijectors.with_log_det(model.flow, exact)
    log_det = flow.forward_log_det_jacobian(tf.constant(x), 1)
    expected = stats.norm.logpdf(flow.forward(tf.constant(x))).sum(-1) + log_det
    before = model.log_prob(x, seed=1), model.log_prob(x, seed=1, evaluation=True)
    for evaluation in (False, True):
        np.testing.assert_allclose(model.log_prob(x, evaluation=evaluation, log_det=exact), expected, rtol=1e-5)
    after = model.log_prob(x, seed=1), model.log_prob(x, seed=1, evaluation=True)
    np.testing.assert_array_equal(after, before)


def test_seed_of_log_prob(data):
    model = vector_model()
    x = data[:8]
    np.testing.assert_array_equal(model.log_prob(x, seed=1), model.log_prob(x, seed=1))
    assert np.any(model.log_prob(x, seed=1) != model.log_prob(x, seed=2))
    assert np.any(model.log_prob(x) != model.log_prob(x))


def test_held_tensor_after_the_weights_changed(data):
    model = vector_model()
    x = tf.constant(data[:8])
    held = model.log_prob(x, seed=1)
    model.trainable_variables[0].assign(model.trainable_variables[0] + 1.0)
    new = model.log_prob(x, seed=1)
    assert np.all(new != held)
    np.testing.assert_array_equal(new, model.log_prob(tf.identity(x), seed=1))


def image_model():
    estimator = resflow.logdet.RussianRoulette(1)
    block = resflow.flows.residual_image_block(log_det=estimator)
    flow = resflow.flows.image_flow((4, 4, 1), (1,), 4, kernels=(3, 1), num_fc_blocks=0, block=block)
    return resflow.FlowModel(flow, [4, 4, 1], levels=17)


def test_images():
    model = image_model()
    x = np.random.default_rng(0).integers(17, size=[32, 4, 4, 1]).astype("uint8")
    model.initialize(x)
    latent = model.flow.forward(resflow.data.dequantize(x, 17, resflow.stateless_seed(0)))
    np.testing.assert_allclose(np.mean(latent, (0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.var(latent, (0, 1, 2)), 1.0, atol=1e-4)
    model.compile(optimizer="adamw", run_eagerly=True)
    model.fit(x, batch_size=16, epochs=1, verbose=0)
    bits = model.loss_per_example(x, seed=1)
    np.testing.assert_allclose(bits, -model.log_prob(x, seed=1) / (16 * np.log(2)), rtol=1e-5)
    samples = model.sample(5, seed=1)
    assert (samples.shape, samples.dtype) == ([5, 4, 4, 1], tf.uint8)
    assert np.max(samples) <= 16
    np.testing.assert_array_equal(samples, model.sample(5, seed=1))
    unit = resflow.data.dequantize(x, 17, [0, 1])
    np.testing.assert_allclose(model.reconstruct(unit), unit, atol=1e-5)


def test_couplings(tmp_path):
    """fit trains all of their variables, and weights go from one seed to another with their permutations."""

    def make(seed):
        block = resflow.flows.coupling_image_block()
        options = {"kernels": (3, 1), "num_fc_blocks": 1, "fc_width": 4, "seed": seed}
        options |= {"block": block, "inv_1x1_conv": True, "factor_out": True}
        flow = resflow.flows.image_flow((4, 4, 1), (1, 1), 4, **options)
        return resflow.FlowModel(flow, [4, 4, 1], levels=17)

    model = make(0)
    x = np.random.default_rng(0).integers(17, size=[32, 4, 4, 1]).astype("uint8")
    model.initialize(x)
    trainable = [w.numpy() for w in model.trainable_weights]
    fixed = [w.numpy() for w in model.non_trainable_weights]
    # The last layers start at zero, so that the others move from the second step on.
    model.compile(optimizer="adamw", run_eagerly=True)
    model.fit(x, batch_size=16, epochs=2, verbose=0)
    for weight, value in zip(model.trainable_weights, trainable, strict=True):
        assert np.any(weight.numpy() != value), weight.path
    assert len(fixed) == 2
    for weight, value in zip(model.non_trainable_weights, fixed, strict=True):
        np.testing.assert_array_equal(weight, value)
    np.testing.assert_array_equal(model.log_prob(x, seed=1), model.log_prob(x, seed=1, evaluation=True))
    unit = resflow.data.dequantize(x, 17, [0, 1])
    np.testing.assert_allclose(model.reconstruct(unit), unit, atol=1e-5)
    path = str(tmp_path / "model.weights.h5")
    model.save_weights(path)
    other = make(1)
    other.load_weights(path)
    np.testing.assert_allclose(other.log_prob(x, seed=1), model.log_prob(x, seed=1), rtol=1e-6)


def test_temperature():
    model = identity_model()
    cold, warm = (model.sample(2000, seed=1, temperature=t) for t in (0.5, 1.0))
    np.testing.assert_allclose(np.mean(model.sample(3, seed=1, temperature=0.0), 0), 0.5)
    np.testing.assert_array_equal(model.sample(3, seed=1, temperature=2), model.sample(3, seed=1, temperature=2.0))
    # 4 standard errors of a standard deviation: 4 / sqrt(2 * 2000).
    np.testing.assert_allclose(np.std(warm, 0), 0.25, rtol=0.065)
    np.testing.assert_allclose(cold - 0.5, 0.5 * (warm - 0.5), atol=1e-5)


def test_wrong_data(data):
    with pytest.raises(ValueError, match=r"shape \(2,\); got \(5, 3\)"):
        vector_model().log_prob(tf.zeros([5, 3]))
    with pytest.raises(ValueError, match="takes floats; got uint8"):
        vector_model().log_prob(tf.zeros([5, 2], tf.uint8))
    with pytest.raises(ValueError, match="integers 0, ..., 16; got float32"):
        image_model().log_prob(tf.zeros([5, 4, 4, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="levels = 17"):
        image_model().log_prob(tf.fill([5, 4, 4, 1], tf.constant(17, tf.uint8)))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_floats_of_another_width_are_cast(dtype, data):
    model = identity_model()
    x = data[:4].astype("float16").astype("float32")
    np.testing.assert_allclose(model.log_prob(x.astype(dtype)), model.log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("policy, dtype", [("mixed_bfloat16", "float32"), ("float32", "float64")])
def test_a_call_does_not_round_the_data(policy, dtype, data, dtype_policy):
    with dtype_policy(policy):
        model = resflow.FlowModel(affine_flow(dtype), [2])
        x = data.astype(dtype) / 3
        expected = stats.norm.logpdf(x).sum(-1)
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(model(x), expected, rtol=tolerance)


def test_images_in_float64():
    options = {"num_fc_blocks": 0, "block": resflow.flows.residual_image_block(log_det=BASIS), "dtype": "float64"}
    flow = resflow.flows.image_flow((2, 2, 1), (1,), 4, kernels=(1,), **options)
    model = resflow.FlowModel(flow, [2, 2, 1], levels=4)
    x = np.random.default_rng(0).integers(4, size=[8, 2, 2, 1]).astype("uint8")
    model.initialize(x)
    assert model.log_prob(x, seed=1).dtype == tf.float64
    assert model.sample(3, seed=1).dtype == tf.uint8


def test_build_model():
    config = resflow.training.default_config()
    config.seed = 3
    config.model.num_blocks = (1, 1)
    config.model.width = config.model.fc_width = 4
    config.model.num_fc_blocks = 1
    statistics = {"mean": np.array([0.5]), "std": np.array([0.2])}
    images = np.zeros([8, 4, 6, 1], "uint8")
    dataset = resflow.data.Dataset.from_arrays("demo", {"train": images}, levels=4, **statistics)
    model = resflow.models.build_model(config, dataset)
    assert (model.event_shape, model.levels, model.num_dimensions, model.seed) == (
        (4, 6, 1), 4, 24, 3
    )  # fmt: skip
    np.testing.assert_allclose(model.flow.bijectors[0].forward([[[0.7]]]), [[[1.0]]], rtol=1e-6)
    modules = model.evaluation_distribution.submodules
    blocks = [m for m in modules if isinstance(m, resflow.bijectors.ResidualBlock)]
    assert {(type(b.log_det).__name__, b.log_det.rtol) for b in blocks} == {("AdaptiveRoulette", 0.01)}
    assert all(b.log_det.per_example for b in blocks)


@pytest.mark.parametrize(
    ("flow", "event_shape"),
    [
        (lambda: resflow.flows.vector_flow(2, 1, (4,)), [3]),
        (lambda: resflow.flows.vector_flow(2, 1, (4,), act_norm=False), [3]),
        (lambda: resflow.flows.vector_flow(2, 1, (4,)), []),
        (lambda: resflow.flows.image_flow((4, 4, 1), (1,), 4, num_fc_blocks=0), [4, 4, 3]),
        (lambda: resflow.flows.image_flow((4, 4, 1), (1, 1), 4, num_fc_blocks=0, factor_out=True), [4, 4, 3]),
        (lambda: resflow.bijectors.Flow([resflow.bijectors.InvertibleConv1x1(3)]), [4, 4, 1]),
        (lambda: resflow.bijectors.Flow([resflow.bijectors.Squeeze2D()]), [3, 4, 1]),
    ],
)
def test_the_flow_takes_events_of_another_shape(flow, event_shape):
    with pytest.raises(
        ValueError, match=rf"takes no events of event_shape={re.escape(str(tuple(event_shape)))}. ."
    ):
        resflow.FlowModel(flow(), event_shape, base=tfd.Sample(tfd.Normal(0.0, 1.0), event_shape))


def test_a_network_is_no_flow():
    with pytest.raises(ValueError, match="Expected a flow, a bijector or .*; got a Sequential"):
        resflow.FlowModel(resflow.flows.dense_branch([2], (4,)), [2])


def test_the_size_of_an_event_is_not_its_shape():
    with pytest.raises(ValueError, match=r"event_shape must be a sequence, such as \[2\]; got 2"):
        resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,)), 2)


def test_saving_the_architecture_tells_what_to_do(tmp_path):
    model = resflow.FlowModel(resflow.flows.vector_flow(2, 1, (4,)), [2])
    with pytest.raises(NotImplementedError, match="architecture of a FlowModel is Python code: use save_weights"):
        model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
