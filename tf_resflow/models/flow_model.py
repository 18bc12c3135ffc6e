"""A flow as a Keras model with log-densities, samples and training."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow import bijectors, layers
from tf_resflow._internal.private_api import bijector_arguments, is_increasing, untracked
from tf_resflow._internal.seeds import split_seed, stateless_seed
from tf_resflow._internal.typing import LogDet, Seed, TensorLike
from tf_resflow.bijectors.base import Context, pass_through
from tf_resflow.bijectors.flow import keras_parts, route
from tf_resflow.bijectors.networks import from_rows
from tf_resflow.bijectors.passes import check_direction
from tf_resflow.flows.networks import EventShape, shape_of_event
from tf_resflow.logdet import default_estimator
from tf_resflow.logdet.estimators import get_estimator
from tf_resflow.models.condition import Condition
from tf_resflow.models.data_space import DataSpace
from tf_resflow.models.dequantizer import Dequantizer, noise_log_det_estimator
from tf_resflow.models.keras_training import KerasTraining

tfd = tfp.distributions


class FlowModel(KerasTraining):
    r"""The density of a flow, trained by maximum likelihood.

    For continuous data, the loss of an example is \\(-\log p(x)\\) in nats. For integer data with L `levels`, it is
    \\(-\log_2 P(x) / D\\) in bits per dimension, where \\(\log P(x)\\) is replaced with its lower bound
    \\(E_u [\log p((x + u) / L) - \log q(u \mid x)] - D \log L\\). Each evaluation draws one u from q, which is
    uniform, or learned by a `dequantizer`.

    ```python
    import keras, numpy as np, tf_resflow as resflow

    x = np.random.default_rng(0).normal(size=[512, 2]).astype("float32")
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(16,))
    model = resflow.FlowModel(flow, event_shape=[2])
    model.initialize(x)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, global_clipnorm=1.0))
    model.fit(x, batch_size=64, epochs=2, callbacks=[resflow.models.AverageWeights()], verbose=0)
    print(model.sample(4, seed=0).shape, model.log_prob(x[:4], seed=0).shape)
    # (4, 2) (4,)
    ```

    A conditional model is the density of x given a condition c. The networks of its flow receive c. They are
    Lipschitz only in x, so c affects neither invertibility nor certificates. As in TFP, conditions
    `[*batch, *condition_shape]` make a batch of distributions: `sample(n, condition=c)` returns
    `[n, *batch, *event_shape]`, and in `log_prob`, `encode` and `decode`, the batches of x and c broadcast. So k
    examples with k conditions are pairs, and `sample([], condition=c)` draws one example for each condition.

    `model.save("model.keras")`, `ModelCheckpoint`, `pickle` and `copy.deepcopy` save the whole model, and
    `tf_resflow.load` or `keras.models.load_model` load it. Register custom bijectors and layers with
    `@keras.saving.register_keras_serializable()`. `save_weights` and `tf.train.Checkpoint` also save the config and
    the statistics of the data, so loading weights into a different model is an error that lists the differences.

    Args:
      flow: `Flow` or `MultiscaleFlow`, whose `forward` maps data to latent.
      event_shape: Shape of an example, or the size of a vector.
      condition_shape: Shape of the condition of an example, such as `[3]` for a flow with `condition_size=3`.
      num_classes: Number of classes, instead of `condition_shape`, if the condition is a label
        0, ..., num_classes - 1. The flow receives it one-hot, so build it with `condition_size=num_classes`.
      condition_mean: Mean of the conditions, for standardization together with `condition_std`.
      condition_network: A built Keras layer or model from standardized conditions to the condition of the flow. It
        is trained with the flow, and always called in inference mode, without dropout.
      levels: Number of integer values of the data; `None` for continuous data.
      dequantizer: A `tf_resflow.models.Dequantizer` for integer data, such as a
        `tf_resflow.models.FlowDequantizer`, which is trained with the flow; `None` for uniform noise.
      base: Distribution of the latent; standard normal by default.
      evaluation_log_det_estimator: By default `tf_resflow.logdet.default_estimator` for evaluation.
      seed: `int`. Together with the number of steps taken, it determines the seed of each step of `fit`.

    Attributes:
      data_space: The `DataSpace`, which converts data, with `event_shape`, `levels` and units.
      condition: The `Condition`, which is false for an unconditional model.
      distribution: `tfd.TransformedDistribution` of the flow's input space, with the training estimator.
    """

    def __init__(
        self,
        flow: tfp.bijectors.Bijector,
        event_shape: EventShape,
        *,
        condition_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
        condition_mean: TensorLike | None = None,
        condition_std: TensorLike | None = None,
        condition_network: keras.Layer | None = None,
        levels: int | None = None,
        dequantizer: Dequantizer | None = None,
        base: tfp.distributions.Distribution | None = None,
        evaluation_log_det_estimator: Callable[..., Any] | None = None,
        seed: int = 0,
        name: str = "flow_model",
    ):
        if not isinstance(flow, tfp.bijectors.Bijector):
            raise ValueError(f"flow is {flow!r:.100}. Call FlowModel(flow, event_shape), in this order.")
        check_direction(flow)
        super().__init__(name=name)
        event_shape = shape_of_event(event_shape)
        self.autocast = False  # data are not cast to the policy's dtype, because the flow has its own dtype
        if bijectors.flow.residual_blocks(flow) and "seed" not in route(flow, {"seed": 0}):
            raise ValueError(f"{flow.name} silently drops seeds. Put it in a tf_resflow.bijectors.Flow.")
        self.flow = flow
        self.seed = seed
        self.distribution = _distribution(flow, event_shape, base)
        dtype = self.distribution.dtype
        self.condition = Condition(
            condition_shape, num_classes, condition_mean, condition_std, condition_network, dtype
        )
        self.condition.check_flow(flow)
        default = default_estimator(math.prod(event_shape), "evaluation")
        self.evaluation_log_det_estimator = get_estimator(evaluation_log_det_estimator) or default
        self._evaluation_distribution = bijectors.with_log_det_estimator(
            self.distribution, self.evaluation_log_det_estimator
        )
        self._keras_parts = keras_parts(flow)
        _build(self.distribution)
        self._variables_of_tfp = _variables_of_tfp(self.weights, self.statistics.values(), self.distribution)
        self.data_space = DataSpace(event_shape, levels, dequantizer, dtype)
        self._dequantizer = dequantizer  # so that Keras tracks its weights
        self._condition_network = condition_network
        self.objective = self.data_space.unit
        self.expects_pairs = bool(self.condition)
        self._means = [keras.metrics.Mean("loss")]
        self.built = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments that the model was built with, with the current statistics."""
        space = self.data_space
        condition = self.condition
        return {
            "flow": self.flow,
            "event_shape": space.event_shape,
            "condition_shape": None if condition.num_classes else condition.shape,
            "num_classes": condition.num_classes,
            "condition_mean": condition.statistics.get("mean"),
            "condition_std": condition.statistics.get("std"),
            "condition_network": condition.network,
            "levels": space.levels,
            "dequantizer": space.dequantizer,
            "base": self.distribution.distribution,
            "evaluation_log_det_estimator": self.evaluation_log_det_estimator,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FlowModel":
        """Returns a model built with the arguments in a config. Ignores the empty `cells` of earlier versions."""
        return super().from_config({key: value for key, value in config.items() if (key, value) != ("cells", None)})

    def trained_density(self) -> "FlowModel":
        """Returns the model itself."""
        return self

    def call(self, x: Any) -> tf.Tensor:
        """Returns `log_prob` of examples, or of `(examples, condition)`, with the evaluation estimator."""
        x, condition = self.condition.split(x)
        return self.log_prob(x, condition=condition, evaluation=True)

    def prepare(self, x: TensorLike, seed: tf.Tensor) -> tf.Tensor:
        """Converts data to the flow's input space and dtype. An integer seed `[2]` dequantizes integers."""
        return self.data_space.dequantize(x, seed)[0]

    @tf.autograph.experimental.do_not_convert
    def encode(
        self, x: TensorLike, *, condition: TensorLike | None = None, networks: bijectors.Networks | None = None
    ) -> tf.Tensor:
        """Returns the latents `[*batch, *latent]` of examples. Integers become the centers of their cells."""
        z = self.data_space.centers(x)
        z, arguments, batch = self.condition.in_rows(z, len(self.data_space.event_shape), condition, networks)
        latent = bijectors.forward_features(self.flow, z, compute_log_det=False, **arguments).latent
        return from_rows(latent, batch)

    @tf.autograph.experimental.do_not_convert
    def decode(self, z: TensorLike, *, condition: TensorLike | None = None, precise: bool = False) -> tf.Tensor:
        """Returns the examples with latents z `[*batch, *latent]`, as uint8 for integer data.

        With `precise`, blocks are inverted up to rounding errors instead of the resolution of the data.
        """
        return self.data_space.to_data(flow_input(self, z, condition, precise))

    @tf.autograph.experimental.do_not_convert
    def log_prob(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        condition: TensorLike | None = None,
        evaluation: bool = False,
        log_det_estimator: LogDet | None = None,
        networks: bijectors.Networks | None = None,
    ) -> tf.Tensor:
        """Returns the log-likelihood of each example in nats, `[*batch]`.

        Args:
          x: `[*batch, *event_shape]`: integers 0, ..., levels - 1, or floats.
          seed: Seed of the dequantization and the log-determinants, see `tf_resflow.stateless_seed`.
          condition: Conditions `[*batch, *condition_shape]` of a conditional model. Both batches broadcast.
          evaluation: Whether to use the evaluation estimator.
          log_det_estimator: Another estimator of the log-determinants, such as `tf_resflow.logdet.Exact()`, or a
            dict of estimators by block (see `tf_resflow.bijectors.with_log_det_estimator`). With a dict, a
            dequantizer uses the evaluation estimator.
          networks: Result of the method `networks`, for several calls or a custom training step.
        """
        if log_det_estimator is not None:
            distribution = bijectors.with_log_det_estimator(self.distribution, log_det_estimator)
        else:
            distribution = self._evaluation_distribution if evaluation else self.distribution
            log_det_estimator = self.evaluation_log_det_estimator if evaluation else None
        event_rank = len(self.data_space.event_shape)
        x, arguments, batch = self.condition.in_rows(self.data_space.checked(x), event_rank, condition, networks)
        noise = noise_log_det_estimator(log_det_estimator, self.evaluation_log_det_estimator)
        options = {"log_det_estimator": noise, "networks": networks}
        return from_rows(draw_log_prob(self, x, stateless_seed(seed), distribution, arguments, **options), batch)

    @tf.autograph.experimental.do_not_convert
    def example_losses(self, batch: Any, seed: Seed = None, *, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the loss of each example that a training step minimizes: a dict with one tensor `[batch]`.

        Args:
          batch: Examples `[batch, *event_shape]`, or a pair of examples and conditions for a conditional model.
          seed: As for `log_prob`.
          training: Whether to use the estimator and precision for training instead of those for evaluation.
        """
        x, condition = self.condition.split(batch)
        networks = self.networks(training=True) if training else None
        log_prob = self.log_prob(x, seed, condition=condition, evaluation=not training, networks=networks)
        if log_prob.shape.rank != 1:
            raise ValueError(
                f"The examples have the shape {np.shape(x)}, and their conditions {np.shape(condition)}. A batch "
                "needs one batch axis, with a condition for each example."
            )
        return {self.objective: self.data_space.to_loss(log_prob)}

    @tf.autograph.experimental.do_not_convert
    def sample(
        self,
        num: TensorLike,
        seed: Seed = None,
        temperature: TensorLike = 1.0,
        *,
        condition: TensorLike | None = None,
        precise: bool = False,
    ) -> tf.Tensor:
        """Draws examples `[*num, *event_shape]`: uint8 for integer data, floats otherwise.

        Args:
          num: Number or shape of the examples.
          seed: See `tf_resflow.stateless_seed`.
          temperature: Factor that scales the latent's deviation from its mean, at least 0.
          condition: Conditions `[*batch, *condition_shape]` of a conditional model. The result is then
            `[*num, *batch, *event_shape]`. So `num=[]` draws one example for each condition.
          precise: As for `decode`.
        """
        shape = checked_num(num)
        batch = self.condition.batch_shape(condition)
        is_single = isinstance(batch, tf.TensorShape) and not batch
        if not is_single:
            shape = tf.concat([tf.reshape(shape, [-1]), batch], 0)
        z = sample_latent(self.distribution.distribution, shape, seed, temperature)
        return self.decode(z, condition=condition, precise=precise)

    def as_distribution(self, condition: TensorLike | None = None) -> "ModelDistribution":
        """Returns the density of continuous data, given a condition if the model is conditional.

        Conditions `[*batch, *condition_shape]` make a batch of distributions. The log-densities use the evaluation
        estimator, with `bijector_kwargs={"seed": 1}` or new random numbers. Distributions of one coordinate have a
        `cdf` and a `quantile` if the base has them. After further training, call this method again.
        """
        if self.data_space.levels is not None:
            raise ValueError(f"{self.name} models integers, which have no density. Use its log_prob and sample.")
        density = self._evaluation_distribution
        batch = self.condition.batch_shape(condition)
        arguments = {"condition": self.condition.values(condition)} if self.condition else {}
        return ModelDistribution(density.distribution, density.bijector, arguments, batch)

    def initialize(self, batch: TensorLike, seed: int = 0, *, condition: TensorLike | None = None) -> None:
        """Initializes the ActNorms from a batch of data, and updates the norms of the layers."""
        x = self.prepare(batch, stateless_seed(seed))
        arguments = self.condition.arguments(condition, len(x))
        layers.update_norms(self, num_fresh=0)
        bijectors.initialize(self.flow, x, seed, **arguments)


class ModelDistribution(tfp.distributions.TransformedDistribution):
    """The density of a `FlowModel` given conditions of a batch shape. See `FlowModel.as_distribution`."""

    def __init__(
        self,
        distribution: tfp.distributions.Distribution,
        bijector: tfp.bijectors.Bijector,
        arguments: Mapping[str, tf.Tensor],
        shape: tf.TensorShape | tf.Tensor,
        name: str = "density",
    ):
        parameters = dict(locals())
        self._arguments = untracked(dict(arguments))
        self._shape = shape

        def split(kwargs):
            return {}, {"seed": None, **self._arguments, **kwargs.get("bijector_kwargs", {})}

        super().__init__(distribution, bijector, kwargs_split_fn=split, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)

    def _batch_shape(self):
        return tf.TensorShape(tf.get_static_value(self._shape))

    def _batch_shape_tensor(self, **kwargs):
        return tf.convert_to_tensor(self._shape, tf.int32)

    def _broadcast(self, value, event_rank):
        shape = tf.shape(value)
        rank = tf.rank(value) - event_rank
        batch = tf.broadcast_dynamic_shape(shape[:rank], self.batch_shape_tensor())
        return tf.broadcast_to(value, tf.concat([batch, shape[rank:]], axis=0))

    def _log_prob(self, value, **kwargs):
        return super()._log_prob(self._broadcast(value, self.event_shape.rank), **kwargs)

    def _log_cdf(self, value, **kwargs):
        return super()._log_cdf(self._broadcast(value, self.event_shape.rank), **kwargs)

    def _cdf(self, value, **kwargs):
        return super()._cdf(self._broadcast(value, self.event_shape.rank), **kwargs)

    def _quantile(self, value, **kwargs):
        base = self.distribution
        arguments = bijector_arguments(self, kwargs)
        if self.event_shape.num_elements() != 1:
            raise NotImplementedError(f"Only one coordinate has quantiles, but events are {self.event_shape}.")
        value = self._broadcast(value, 0)
        value = tf.where(is_increasing(self.bijector, **arguments), value, 1 - value)
        is_vector = isinstance(getattr(base, "distribution", None), tfd.Distribution) and base.event_shape.rank
        z = base.distribution.quantile(value[..., tf.newaxis]) if is_vector else base.quantile(value)
        return self.bijector.forward(z, **arguments)


def draw_log_prob(
    model: FlowModel,
    x: TensorLike,
    seed: tf.Tensor,
    distribution: tfp.distributions.Distribution,
    arguments: Mapping[str, Any],
    **noise: Any,
) -> tf.Tensor:
    """Draws one estimate `[batch]` of the log-likelihood, log p(z) - log q(z | x).

    `arguments` are passed to the flow (see `Condition.arguments`), and `noise` to `DataSpace.dequantize`.
    """
    noise_seed, flow_seed = tf.unstack(split_seed(seed, 2))
    z, log_q = model.data_space.dequantize(x, noise_seed, **noise)
    return distribution.log_prob(z, bijector_kwargs={"seed": flow_seed, **arguments}) - log_q


def flow_input(model: FlowModel, z: TensorLike, condition: TensorLike | None, precise: bool = False) -> tf.Tensor:
    """Maps latents to the flow's input space. See `FlowModel.decode` for the arguments."""
    z = tf.cast(z, model.distribution.dtype)
    space = model.data_space
    event_rank = model.distribution.distribution.event_shape.rank
    z, arguments, batch = model.condition.in_rows(z, event_rank, condition)
    threshold = 0.0 if precise and space.levels is None else space.warning_threshold  # integers never resolve more
    atol = 0.0 if precise else space.inverse_atol
    context = Context(arguments, compute_log_det=False, warning_threshold=threshold, atol=atol)
    return from_rows(pass_through(model.flow, z, context, inverse=True).value, batch)


def sample_latent(
    base: tfp.distributions.Distribution, num: TensorLike, seed: Seed = None, temperature: TensorLike = 1.0
) -> tf.Tensor:
    """Draws latents `[*num, *latent]`. See `FlowModel.sample` for the arguments."""
    known = tf.get_static_value(temperature)
    if known is not None and not known >= 0:
        raise ValueError(f"temperature is {known}. Give a number of at least 0; 1 samples the density.")
    z = base.sample(num, seed=stateless_seed(seed))
    if not tf.is_tensor(temperature) and temperature == 1.0:
        return z
    temperature = tf.cast(temperature, z.dtype)
    try:
        mean = base.mean()
    except NotImplementedError:
        mean = tf.fill(base.event_shape, tf.constant(math.nan, base.dtype))
    has_mean = tf.math.is_finite(mean)
    message = f"The base distribution {base.name} has no known mean. Sample at temperature 1. The temperature is"
    check = tf.debugging.Assert(tf.equal(temperature, 1.0) | tf.reduce_all(has_mean), [message, temperature])
    with tf.control_dependencies([check] if check is not None else []):
        mean = tf.where(has_mean, mean, z)
    return mean + temperature * (z - mean)


def checked_num(num: TensorLike) -> tf.Tensor:
    """Returns a number or shape of samples as an integer tensor, or raises a ValueError."""
    values = tf.convert_to_tensor(num, None if np.size(num) else tf.int32)
    known = tf.get_static_value(values)
    if not values.dtype.is_integer or (values.shape.rank or 0) > 1 or (known is not None and np.any(known < 0)):
        raise ValueError(f"num is {num}. Give the number of samples, an integer of at least 0, or their shape.")
    return values


def _distribution(flow, event_shape, base):
    shape = flow.forward_event_shape(tuple(event_shape))
    if base is None:
        # A Flow that begins with a Logit accepts any dtype, so its dtype is None.
        dtype = flow.dtype or next((v.dtype for v in flow.trainable_variables), tf.float32)
        zeros = tf.zeros(shape, dtype)
        base = tfd.Independent(tfd.Normal(zeros, tf.ones([], dtype)), len(shape))
    if not isinstance(base, tfd.Distribution) or not base.event_shape.is_compatible_with(shape):
        is_distribution = isinstance(base, tfd.Distribution)
        problem = f"has events of shape {base.event_shape}" if is_distribution else f"is {base!r}"
        raise ValueError(
            f"The base {problem}. Give a distribution of latents of shape {shape}, such as "
            "tfd.MultivariateNormalDiag(tf.zeros([2])) or tfd.Independent(tfd.Normal(tf.zeros([2]), 1.0), 1)."
        )
    return tfd.TransformedDistribution(base, tfp.bijectors.Invert(flow), name="density")


def _build(distribution):
    """Creates the variables of networks of TFP, such as `tfb.AutoregressiveNetwork`, which depend on the input."""
    if not all(getattr(module, "built", True) for module in distribution.submodules):
        distribution.log_prob(tf.zeros([1, *distribution.event_shape], distribution.dtype))


def _variables_of_tfp(weights, statistics, distribution):
    """Returns Keras variables that share the variables of TFP's bijectors and distributions.

    Keras then trains and saves them.
    """
    known = {id(weight.value) for weight in weights} | {id(variable) for variable in statistics}
    others = {id(variable): variable for variable in distribution.variables if id(variable) not in known}
    shared = []
    for variable in others.values():
        name = variable.name.partition(":")[0].replace("/", "_")
        shared.append(keras.Variable(variable, trainable=variable.trainable, dtype=variable.dtype.name, name=name))
        if shared[-1].value is not variable:
            raise ValueError(
                f"Keras cannot train the variable {variable.name!r} of the flow or the base distribution. Create "
                "it as a keras.Variable in an attribute of a FlowBijector, or make it a constant."
            )
    return shared
