"""A flow as a Keras model: density, samples, and a training step for `fit`."""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow import bijectors, layers, logdet
from tf_resflow.bijectors.flow import parts_by_name, route
from tf_resflow.data import dequantize, quantize
from tf_resflow.models.step import train_step
from tf_resflow.seeds import split_seed, stateless_seed

__all__ = ["FlowModel"]

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tf_resflow")
class FlowModel(keras.Model):
    r"""The density of a flow, trained by maximum likelihood.

    For continuous data the loss of an example is \\(-\log p(x)\\) in nats. For data of `levels` integer values
    it is \\(-\log_2 P(x) / D\\), in bits per dimension, with the bound
    \\(\log P(x) \ge E_u \log p((x + u) / L) - D \log L\\), one u drawn at each evaluation.

    ```python
    import numpy as np
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(16, 16))
    model = resflow.FlowModel(flow, event_shape=[2])
    x = np.random.default_rng(0).normal(size=[256, 2]).astype("float32")
    model.initialize(x)
    model.compile(optimizer="adamw")
    history = model.fit(x, batch_size=64, epochs=1, verbose=0)
    print(sorted(history.history))
    # ['loss']
    ```

    Saving: `save_weights` and `tf.train.Checkpoint` (the architecture is Python code, so `.keras` files of whole
    models are not for it; give `ModelCheckpoint` `save_weights_only=True`).

    Args:
      flow: `Flow` or `MultiscaleFlow`, data to latent.
      event_shape: shape of an example.
      levels: number of integer values of the data; `None` for continuous data.
      base: distribution of the latent; standard normal by default.
      evaluation_log_det: estimator for evaluation; by default Russian roulette after 20 exact terms, with a
        number of terms for each example.
      seed: `int`: with the number of steps taken, the seed of each step of `fit`; each of the batches over which an
        optimizer accumulates gradients is a step.
      name: `str`.

    Attributes:
      flow: the flow.
      distribution: `tfd.TransformedDistribution` with the training estimator, over the flow's input space.
      evaluation_distribution: the same, with the evaluation estimator.

    Raises:
      ValueError: when a variable of the distribution is not a Keras variable, so that `fit` would neither
        train nor save it, a part of the flow takes a condition, or the flow is a stock composition of blocks.
    """

    def __init__(
        self,
        flow,
        event_shape,
        levels=None,
        base=None,
        evaluation_log_det=None,
        seed=0,
        name="flow_model",
    ):
        super().__init__(name=name)
        self.autocast = False  # of the data, to the policy's dtype: the flow has its own
        self.supports_jit = False  # XLA keeps what is to be forgotten between the passes, and has no assertions
        _check_unconditional(flow)
        _check_takes_seed(flow)
        self.event_shape = tuple(event_shape)
        self.levels = levels
        self.seed = seed
        self.flow = flow
        self.distribution = _density(flow, self.event_shape, base)
        if evaluation_log_det is None:
            evaluation_log_det = logdet.RussianRoulette(20, per_example=True)
        self.evaluation_distribution = bijectors.with_log_det(self.distribution, evaluation_log_det)
        self._keras_parts = _keras_parts(flow)
        _check_covered(self.weights, self.distribution)
        self._means = [keras.metrics.Mean("loss")]
        self.built = True

    @property
    def metrics(self):
        """The means of an epoch, for `fit` and `evaluate`."""
        return self._means

    @property
    def unit(self):
        """Unit of the density's loss, "bits_per_dim" or "nats"."""
        return "nats" if self.levels is None else "bits_per_dim"

    @property
    def has_density(self):
        """Whether the density is trained."""
        return True

    @property
    def num_dimensions(self):
        """Number of coordinates of an example."""
        return math.prod(self.event_shape)

    def call(self, x):
        """`log_prob` with fresh randomness."""
        return self.log_prob(x)

    def log_prob(self, x, seed=None, evaluation=False):
        """Log-likelihood of the data, in nats, of shape `[batch]`.

        Args:
          x: `[batch, *event_shape]`: integers 0, ..., levels - 1, or floats.
          seed: of the dequantisation and the log-determinants, see `tf_resflow.stateless_seed`.
          evaluation: whether to use the evaluation estimator.

        Raises:
          ValueError: when the shape or the type of `x` is not that of the data.
        """
        distribution = self.evaluation_distribution if evaluation else self.distribution
        noise_seed, flow_seed = self.split_seed(seed)
        x = self.flow_input(x, noise_seed)
        log_prob = distribution.log_prob(x, bijector_kwargs={"seed": flow_seed})
        return log_prob - self.num_dimensions * math.log(self.levels or 1)

    def loss_per_example(self, x, seed=None, evaluation=False):
        """Bits per dimension of integer data, nats of continuous data: `[batch]`."""
        return self._in_units(self.log_prob(x, seed, evaluation))

    def scores(self, batch, seed=None, evaluation=False):
        """What a training step minimises and reports, of each example.

        Args:
          batch: what a step takes: examples `[batch, *event_shape]`.
          seed: as for `log_prob`.
          evaluation: as for `log_prob`.

        Returns:
          A dict of tensors `[batch]`; the mean of "loss" is minimised.
        """
        return {"loss": self.loss_per_example(batch, seed, evaluation)}

    def sample(self, num, seed=None, temperature=1.0):
        """Draws examples.

        Args:
          num: number of examples.
          seed: see `tf_resflow.stateless_seed`.
          temperature: the latent's deviation from its mean is multiplied by it.

        Returns:
          `[num, *event_shape]`: uint8 for integer data, floats otherwise.

        Raises:
          InvalidArgumentError: for another temperature than 1, if the base distribution has no mean.
        """
        x = self.flow.inverse(self.sample_latent(num, seed, temperature))
        return x if self.levels is None else quantize(x, self.levels)

    def sample_latent(self, num, seed=None, temperature=1.0):
        """The latents that `sample` decodes, `[num, *latent]`."""
        base = self.distribution.distribution
        z = base.sample(num, seed=stateless_seed(seed))
        if not tf.is_tensor(temperature) and temperature == 1.0:
            return z
        mean = _mean(base)
        known = tf.math.is_finite(mean)
        message = (
            f"The temperature scales the latent's deviation from its mean, and the base distribution {base.name} "
            "has none, or does not tell it: sample at temperature 1. It is"
        )
        check = tf.debugging.Assert(tf.equal(temperature, 1.0) | tf.reduce_all(known), [message, temperature])
        with tf.control_dependencies([check] if check is not None else []):
            mean = tf.where(known, mean, z)
        return mean + temperature * (z - mean)

    def flow_input(self, x, seed):
        """The data on the flow's scale and in its dtype, integers dequantised.

        A tensor of its own, so that no cached value of an earlier call is found.

        Args:
          x: as for `log_prob`.
          seed: integer tensor of shape `[2]`.

        Raises:
          ValueError: as `log_prob`.
        """
        x = self._checked(x)
        if self.levels is not None:
            x = dequantize(x, self.levels, seed)
        return tf.identity(tf.cast(x, self.distribution.dtype))

    def reconstruct(self, x):
        """`f^-1(f(x))` in the flow's input space, to see how well the flow inverts."""
        return self.flow.inverse(tf.identity(self.flow.forward(tf.identity(x))))

    def initialize(self, batch, seed=0):
        """Initialises the ActNorms from a batch of data, and brings the norms of the layers up to date."""
        layers.converge_norms(self.flow)
        bijectors.initialize(self.flow, self.flow_input(batch, stateless_seed(seed)), seed)

    def compile(self, optimizer="rmsprop", **kwargs):
        """As `keras.Model.compile`, and builds the optimizer.

        The optimizer is taken as it is: the weight decay of Keras' own reaches all variables, ActNorms too, unless
        its `exclude_from_weight_decay` was told before which are left alone.

        Raises:
          ValueError: for a loss or metrics: the model has its own; for an optimizer that scales the loss, as Keras
            makes one of any optimizer under the policy "mixed_float16".
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(f"{type(self).__name__} has its own loss and reports its parts: leave out {name}.")
        super().compile(optimizer, **kwargs)
        if self.optimizer.loss_scale_factor or isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            self.compiled = False
            raise ValueError(
                f"The optimizer {self.optimizer.name!r} divides gradients by a scale of the loss, which "
                f"{type(self).__name__} does not apply, so that training would stand still. Compute in "
                "'mixed_bfloat16', which needs no scale, and leave out loss_scale_factor and LossScaleOptimizer."
            )
        self.optimizer.build(self.trainable_variables)

    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`; it leaves the norms of the layers up to date.

        With `use_ema` it ends by putting the averages in the place of the weights, whose norms are others.
        Labels beside the examples are left aside. A model whose ActNorms are still the identity is warned of.
        """
        self._check_unweighted(kwargs.get("sample_weight"))  # which Keras forgets if there are no labels
        self._warn_of_initialization()
        history = super().fit(*args, **kwargs)
        layers.converge_norms(self.flow)
        return history

    def train_step(self, data):
        """One step of `fit`."""
        step = self.optimizer._iterations  # of which several make one of `iterations`, where gradients accumulate
        seed = stateless_seed(tf.stack([self.seed, tf.cast(step, tf.int32)]))
        return self._update_means(train_step(self, self._batch(data), seed))

    def test_step(self, data):
        """One step of `evaluate`, with the evaluation estimator."""
        return self._update_means(self.scores(self._batch(data), evaluation=True))

    def _batch(self, data):
        """What `scores` takes, of what `fit` and `evaluate` are given."""
        x, _, weights = keras.utils.unpack_x_y_sample_weight(data)
        self._check_unweighted(weights)
        return x

    def _check_unweighted(self, weights):
        if weights is not None:
            raise ValueError(
                f"{type(self).__name__} weighs all examples alike: leave out sample_weight and class_weight."
            )

    def _update_means(self, values):
        for mean in self._means:
            mean.update_state(values[mean.name])
        return {mean.name: mean.result() for mean in self._means}

    def _warn_of_initialization(self):
        norms = [part for part in (self.flow, *self.flow.submodules) if isinstance(part, bijectors.ActNorm)]
        if norms and not any(np.any(variable) for norm in norms for variable in norm.variables):
            warnings.warn(
                "The ActNorms of the flow are the identity, as they are made. Call model.initialize(batch) with a "
                "batch of the data before fit, so that training does not have to find their scale.",
                stacklevel=3,
            )

    def _in_units(self, log_prob):
        """The loss that a log-likelihood in nats is."""
        return -log_prob if self.levels is None else -log_prob / (self.num_dimensions * math.log(2.0))

    def split_seed(self, seed):
        """The seeds of the dequantisation and of the flow, of one seed."""
        return tf.unstack(split_seed(stateless_seed(seed), 2))

    def _checked(self, x):
        x = tf.convert_to_tensor(x)
        if not x.shape[1:].is_compatible_with(self.event_shape):
            raise ValueError(f"The model takes batches of examples of shape {self.event_shape}; got {x.shape}.")
        if x.dtype.is_integer != (self.levels is not None):
            wanted = "floats" if self.levels is None else f"integers 0, ..., {self.levels - 1}"
            raise ValueError(f"The model takes {wanted}; got {x.dtype.name}.")
        return x


def _density(flow, event_shape, base):
    if base is None:
        # A Flow that begins with a Logit takes any dtype, and does not tell.
        dtype = flow.dtype or next((v.dtype for v in flow.variables), tf.float32)
        shape = flow.forward_event_shape(event_shape)
        zeros = tf.zeros(shape, dtype)
        base = tfd.Independent(tfd.Normal(zeros, tf.ones([], dtype)), len(shape))
    return tfd.TransformedDistribution(base, tfp.bijectors.Invert(flow), name="density")


def _mean(base):
    """The mean of a distribution, NaN where it has none or does not tell it."""
    try:
        return base.mean()
    except NotImplementedError:
        return tf.fill(base.event_shape, tf.constant(math.nan, base.dtype))


def _check_unconditional(flow):
    conditional = [part.name for part in (flow, *flow.submodules) if getattr(part, "conditional", False)]
    if conditional:
        raise ValueError(
            f"These parts of the flow take a condition, which the model has not: {', '.join(conditional)}. Use the "
            "flow in a distribution, with bijector_kwargs={'conditional_input': ...}."
        )


def _check_takes_seed(flow):
    if bijectors.residual_blocks(flow) and "seed" not in route(flow, {"seed": 0}):
        raise ValueError(
            f"{flow.name} ({type(flow).__name__}) drops a seed without a word, so that the model could not repeat "
            "what it draws: put it in a tf_resflow.bijectors.Flow, which hands seeds to its blocks."
        )


def _keras_parts(flow):
    """All that Keras is to see of a flow, by the bijectors' names: their networks and their variables."""
    parts = {}
    for name, part in parts_by_name(flow).items():
        if isinstance(part, bijectors.ResidualBlock):
            parts[name] = part.branch
        elif isinstance(part, bijectors.Coupling):
            parts[name] = part.network
        elif isinstance(part, bijectors.VariableBijector):
            parts[name] = part.keras_variables
    return parts


def _check_covered(weights, distribution):
    """Raises unless the model's weights are the distribution's variables, each once."""
    seen = [id(weight.value) for weight in weights]
    advice = {
        "base distribution": "let the flow end in an ActNorm, which learns a location and a scale",
        "distribution": "hold them in a Keras layer",
    }
    for part, owner in zip((distribution.distribution, distribution), advice, strict=True):
        missing = [variable.name for variable in part.variables if id(variable) not in seen]
        if missing:
            raise ValueError(
                f"These variables of the {owner} are no Keras variables, so that fit would neither train nor save "
                f"them: {', '.join(missing)}. Make them constants, or {advice[owner]}."
            )
    extra = set(seen) - {id(variable) for variable in distribution.variables}
    if extra:
        names = [weight.path for weight in weights if id(weight.value) in extra]
        raise ValueError(f"These weights are not variables of the distribution: {', '.join(names)}.")
