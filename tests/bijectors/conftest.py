"""Small blocks and couplings, and counters of evaluations."""

import dataclasses

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow


class Ticks:
    """Counts how often a value is computed, not how often it is traced."""

    count = 0

    def _tick(self):
        self.count += 1
        return self.count

    def tick(self, value):
        """Returns the value, and counts each time it is computed."""
        with tf.control_dependencies([tf.numpy_function(self._tick, [], tf.int64)]):
            return tf.nest.map_structure(tf.identity, value)

    def take(self):
        """Returns the count since the last call, and resets it."""
        count, self.count = self.count, 0
        return count


class Counter(keras.layers.Layer, Ticks):
    """The identity, which counts its evaluations."""

    lipschitz_constant = 1.0

    def call(self, inputs):
        return self.tick(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@dataclasses.dataclass(frozen=True)
class CountingExact(resflow.logdet.Exact):
    """`Exact`, which counts its evaluations."""

    ticks: Ticks = dataclasses.field(default_factory=Ticks)

    def __call__(self, *args, **kwargs):
        return self.ticks.tick(super().__call__(*args, **kwargs))

    def take(self):
        return self.ticks.take()


@pytest.fixture(scope="session")
def make_branch():
    def make(size=2, seed=0, dtype="float32", counter=None, condition_size=None, hidden=(5,)):
        branch = resflow.flows.dense_branch([size], hidden, condition_size=condition_size, seed=seed, dtype=dtype)
        for layer in resflow.layers.norm_updates.lipschitz_layers(branch):
            # Norms above the coefficient and nonzero biases, so that both have an effect.
            layer.kernel.assign(3.0 * layer.kernel)
            layer.bias.assign(0.1 * tf.range(layer.bias.shape[0], dtype=dtype))
        resflow.layers.update_norms(branch, 1e-6, 500)
        if counter is None:
            return branch
        return keras.Sequential([keras.Input([size], dtype=dtype), counter, branch])

    return make


@pytest.fixture(scope="session")
def make_block(make_branch):
    def make(name="block", log_det_estimator=None, inverse_solver=None, **kwargs):
        has_condition = kwargs.get("condition_size") is not None
        branch = make_branch(**kwargs)
        return resflow.bijectors.ResidualBlock(
            branch, log_det_estimator, inverse_solver, has_condition=has_condition, name=name
        )

    return make


@pytest.fixture(scope="session")
def make_coupling():
    def make(kind="affine", shape=(2,), split="channels", swap=False, seed=0, dtype="float32", **kwargs):
        """Returns a coupling with a nonzero last layer, and optionally a `condition_size`."""
        cls = getattr(resflow.bijectors, f"{kind.title()}Coupling")
        options = {"split": split, "num_parameters": cls.num_parameters, "seed": seed, "dtype": dtype}
        options["condition_size"] = kwargs.get("condition_size")
        if len(shape) == 1:
            network = resflow.flows.dense_coupling_network(shape, (5,), **options)
        else:
            network = resflow.flows.coupling_network(shape, 5, (3, 3), **options)
        for i, variable in enumerate(network.trainable_variables):
            value = tf.random.stateless_normal(variable.shape, [seed, i], stddev=0.3, dtype=dtype)
            variable.assign(variable + value)
        return cls(network, split, swap, name=f"{kind}_{int(swap)}")

    return make


@pytest.fixture
def counter():
    return Counter()


@pytest.fixture
def counting_exact():
    return CountingExact()


@pytest.fixture(scope="session")
def density():
    """Returns the distribution of x for which bijector(x) is standard normal."""

    def make(bijector, size=2, dtype="float32"):
        base = tfp.distributions.MultivariateNormalDiag(tf.zeros(size, dtype))
        return tfp.distributions.TransformedDistribution(base, tfp.bijectors.Invert(bijector))

    return make


@pytest.fixture(scope="session")
def normal():
    """Returns standard normal samples of a shape for a seed."""
    return lambda shape, seed=0, dtype="float32": tf.random.stateless_normal(shape, [7, seed], dtype=dtype)
