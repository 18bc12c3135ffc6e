"""A flow as a Keras model: density, samples, and a training step for `fit`."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow import bijectors, layers, logdet
from tf_resflow.bijectors.base import Context, pass_through
from tf_resflow.bijectors.flow import keras_parts, route
from tf_resflow.data import dequantize, quantize
from tf_resflow.data.dequantization import cell_width, place_in_cells
from tf_resflow.layers.precision import leaves, lowest_dtype
from tf_resflow.models.averaging import callbacks_under_average, warm_up_average
from tf_resflow.models.condition import make_condition
from tf_resflow.models.dequantizer import Dequantized, Dequantizer, FlowDequantizer
from tf_resflow.models.likelihood_plan import LikelihoodPlan, LogDet
from tf_resflow.models.log_prob_samples import LogProbEstimate, LogProbSamples, mean_and_stderr
from tf_resflow.models.planning import plan_likelihood
from tf_resflow.models.saving import SavedSettings
from tf_resflow.models.step import check_compiles, train_step, weigh
from tf_resflow.private_api import num_gradients
from tf_resflow.seeds import split_seed, stateless_seed
from tf_resflow.sequences import check_sequence
from tf_resflow.typing import Seed, TensorLike

__all__ = ["FlowModel"]

tfd = tfp.distributions

_OF_A_LEVEL = 1 / 32  # the residual of a block's inverse that integer data cannot show


@keras.saving.register_keras_serializable("tf_resflow")
class FlowModel(SavedSettings, keras.Model):
    r"""The density of a flow, trained by maximum likelihood.

    For continuous data the loss of an example is \\(-\log p(x)\\) in nats. For data of `levels` integer values
    it is \\(-\log_2 P(x) / D\\), in bits per dimension, with the bound
    \\(\log P(x) \ge E_u \log p((x + u) / L) - D \log L\\), one u drawn at each evaluation. A `dequantizer` learns
    the density of u, which is uniform otherwise: \\(\log P(x) \ge E_u [\log p((x + u) / L) - \log q(u \mid x)] - D
    \log L\\).

    ```python
    import keras, numpy as np, tf_resflow as resflow

    x = np.random.default_rng(0).normal(size=[512, 2]).astype("float32")
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(16,))
    model = resflow.FlowModel(flow, event_shape=[2])
    model.initialize(x)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, use_ema=True, global_clipnorm=1.0))
    model.fit(x, batch_size=64, epochs=2, verbose=0)
    print(model.sample(4, seed=0).shape, model.log_prob(x[:4], seed=0).shape)
    # (4, 2) (4,)
    ```

    A conditional model is the density of x given a condition c that stands beside each example. The networks of its
    flow take c; only in x are they Lipschitz, so c changes neither invertibility nor certificates.

    ```python
    import numpy as np, tf_resflow as resflow

    c = np.random.default_rng(0).normal(size=[256, 3]).astype("float32")
    x = c[:, :2] + 0.1 * np.random.default_rng(1).normal(size=[256, 2]).astype("float32")
    flow = resflow.flows.vector_flow(2, num_blocks=1, hidden=(16, 16), condition_size=3)
    model = resflow.FlowModel(flow, event_shape=[2], condition_shape=[3])
    model.initialize(x, condition=c)
    model.compile(optimizer="adamw")
    model.fit(x, c, batch_size=64, verbose=0)
    print(model.sample(5, condition=[1.0, 0.0, 0.0]).shape, model.log_prob(x, condition=c).shape)
    # (5, 2) (256,)
    ```

    Networks inside of bijectors that have the Keras policy "mixed_bfloat16" compute in bfloat16 in training, and in
    float32 elsewhere.

    Four methods relate the data to the flow: `prepare` and `to_data`, to its input space (by dequantization) and
    back, and `encode` and `decode`, to the latent (without randomness) and back.

    Saving: `save_weights` and `tf.train.Checkpoint` (the architecture is Python code, which `.keras` files of whole
    models do not hold; give `ModelCheckpoint` `save_weights_only=True`). The statistics of the data, by which a
    `tf_resflow.bijectors.Normalize` in the flow and the model standardize, are saved with the weights. So are the
    settings of all layers and bijectors: to load the weights of another model is an error that names what differs.

    Args:
      flow: `Flow` or `MultiscaleFlow`, data to latent.
      event_shape: shape of an example.
      condition_shape: shape of the condition of an example, such as `[3]`, for a flow that was built with
        `condition_size=3`.
      num_classes: instead of it: the condition is a label 0, ..., num_classes - 1. The flow takes it one-hot, and
        was built with `condition_size=num_classes`.
      condition_mean: with `condition_std`, statistics by which the model standardizes conditions.
      condition_std: see `condition_mean`.
      levels: number of integer values of the data; `None` for continuous data.
      dequantizer: a `tf_resflow.models.Dequantizer` of integer data, such as a
        `tf_resflow.models.FlowDequantizer`, which is trained with the flow; `None` for uniform noise.
      base: distribution of the latent; standard normal by default.
      evaluation_log_det: estimator for evaluation; by default `AdaptiveRoulette`, with a number of
        terms for each example.
      seed: `int`: with the number of steps taken, the seed of each step of `fit`; each of the batches over which an
        optimizer accumulates gradients is a step.
      name: `str`.

    Attributes:
      flow: the flow.
      event_shape: shape of an example.
      condition_shape: shape of the condition of an example, `()` for a label, `None` without a condition.
      num_classes: as given.
      levels: as given.
      dequantizer: as given.
      seed: as given.
      evaluation_log_det: the estimator for evaluation.
      statistics: variables by which data and conditions are standardized, saved and not trained: a dict.
      distribution: `tfd.TransformedDistribution` with the training estimator, over the flow's input space.
      evaluation_distribution: the same, with the evaluation estimator.

    Raises:
      ValueError: when the flow takes events of another shape or another condition than the model, a variable of the
        distribution is not a Keras variable (`fit` would neither train nor save it), the flow is one of TFP's
        compositions of blocks, or there is a dequantizer of continuous data, or one that Keras would not train.
    """

    def __init__(
        self,
        flow: tfp.bijectors.Bijector,
        event_shape: Sequence[int],
        *,
        condition_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
        condition_mean: TensorLike | None = None,
        condition_std: TensorLike | None = None,
        levels: int | None = None,
        dequantizer: Dequantizer | None = None,
        base: tfp.distributions.Distribution | None = None,
        evaluation_log_det: Callable[..., Any] | None = None,
        seed: int = 0,
        name: str = "flow_model",
    ):
        super().__init__(name=name)
        self.autocast = False  # of the data, to the policy's dtype: the flow has its own
        self._condition = make_condition(flow, condition_shape, num_classes, condition_mean, condition_std)
        self.condition_shape = None if self._condition is None else self._condition.shape
        self.num_classes = num_classes
        _check_takes_seed(flow)
        check_sequence("event_shape", event_shape, f"[{event_shape}]")
        self.event_shape = tuple(event_shape)
        self.levels = levels
        self.seed = seed
        self.flow = flow
        self.distribution = _density(flow, _latent_shape(flow, self.event_shape), base)
        if evaluation_log_det is None:
            evaluation_log_det = logdet.AdaptiveRoulette(per_example=True)
        self.evaluation_log_det = evaluation_log_det
        self.evaluation_distribution = bijectors.with_log_det(self.distribution, evaluation_log_det)
        self._keras_parts = keras_parts(flow)
        _check_covered(self.weights, self.statistics.values(), self.distribution)
        _check_dequantizer(dequantizer, levels)
        self.dequantizer = dequantizer
        self._means = [keras.metrics.Mean("loss")]
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means of an epoch, for `fit` and `evaluate`; "loss" is the mean of the `objective`."""
        return self._means

    @property
    def unit(self) -> str:
        """Unit of the density's loss, "bits_per_dim" or "nats"."""
        return "nats" if self.levels is None else "bits_per_dim"

    @property
    def nats_per_unit(self) -> float:
        """Nats of an example's log-likelihood in one `unit` of its loss."""
        return 1.0 if self.levels is None else self.num_dimensions * math.log(2.0)

    @property
    def objective(self) -> str:
        """Name of the score whose mean is minimized, see `scores`."""
        return self.unit

    @property
    def has_density(self) -> bool:
        """Whether the density is trained."""
        return True

    @property
    def has_classifier(self) -> bool:
        """Whether the model learns from pairs of examples and labels, and has a method `classify`."""
        return False

    @property
    def is_conditional(self) -> bool:
        """Whether the density is that of examples given a condition, which stands beside each of them."""
        return self._condition is not None

    @property
    def num_dimensions(self) -> int:
        """Number of coordinates of an example."""
        return math.prod(self.event_shape)

    @property
    def dequantization(self) -> str | None:
        """The density of the noise of integer data: "uniform", or "variational" if it is learned; else None."""
        if self.levels is None:
            return None
        return "uniform" if self.dequantizer is None else "variational"

    @property
    def lipschitz_parts(self) -> list[Any]:
        """What holds Lipschitz layers, whose norms are to be kept up to date: the flow, and a dequantizer."""
        return [self.flow, *([self.dequantizer] if isinstance(self.dequantizer, keras.Layer) else [])]

    @property
    def inverse_atol(self) -> float:
        """The residual at which `decode` and `sample` stop to invert a block that was given no solver.

        It is 1/32 of a level of integer data, on the scale of the flow's input. The levels of few pixels differ
        from those of a precise inverse. Continuous data show every digit: it is 0, and the rounding of the type
        decides.
        """
        return 0.0 if self.levels is None else _OF_A_LEVEL / self.levels

    @property
    def log_num_cells(self) -> float:
        r"""Logarithm of the number of cells of integer data in the flow's input space, \\(D \log L\\); else 0.

        With uniform noise the log-likelihood of the data is the log-density of the flow's input minus this number.
        """
        return self.num_dimensions * math.log(self.levels or 1)

    def call(self, x: Any) -> tf.Tensor:
        """`log_prob` with fresh randomness, of examples; of a conditional model `(examples, condition)`."""
        x, condition = self.examples_and_condition(x)
        return self.log_prob(x, condition=condition)

    def examples_and_condition(self, batch: Any) -> tuple[Any, Any]:
        """The examples and the condition of a batch: of a pair of them if the model is conditional, else None."""
        if not self.is_conditional:
            return batch, None
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ValueError(f"A batch of {self._conditional_name} is a pair (x, condition); got {batch!r:.80}.")
        return batch

    def _with_condition(self, x, condition):
        """A batch of examples, in a pair with their condition if the model is conditional."""
        if condition is None or self._condition is None:
            self.flow_arguments(condition, 1)  # which raises if only one of the two is None
            return x
        return x, condition

    def networks(self, *, training: bool = False) -> bijectors.Networks:
        """The `tf_resflow.bijectors.Networks` of the flow and of a dequantizer, bound for several calls."""
        noise = [self.dequantizer.flow] if isinstance(self.dequantizer, FlowDequantizer) else []
        return bijectors.Networks(self.flow, *noise, training=training)

    def flow_arguments(
        self, condition: TensorLike | None, num: TensorLike, networks: bijectors.Networks | None = None
    ) -> dict[str, Any]:
        """The arguments by which the flow takes the condition of `num` examples; none without a condition.

        Args:
          condition: as for `log_prob`.
          num: number of examples.
          networks: as for `log_prob`.

        Returns:
          `{"conditional_input": tensor}`, of rows as the flow takes them, or `{}`; and the networks, if given.

        Raises:
          ValueError: when the condition is missing or does not fit, or there should be none.
        """
        given = {} if networks is None else {"networks": networks}
        if self._condition is None:
            if condition is not None:
                raise ValueError(
                    f"{self.name} has no condition: leave out condition=, or build the model with condition_shape= "
                    "or num_classes=."
                )
            return given
        if condition is None:
            raise ValueError(
                f"{self.name} is conditional: give condition=, for each example {self._condition.description}."
            )
        return {"conditional_input": self._condition.rows(condition, num, self.distribution.dtype), **given}

    def prepare(self, x: TensorLike, seed: tf.Tensor, *, sets: int | None = None) -> tf.Tensor:
        """Data as values of the flow's input space, in its dtype: integers dequantized.

        Args:
          x: as for `log_prob`.
          seed: integer tensor of shape `[2]`.
          sets: see `tf_resflow.data.dequantize`.
        """
        return self.dequantize(x, seed, sets=sets).value

    def dequantize(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        *,
        evaluation: bool = False,
        log_det: LogDet | None = None,
        sets: int | None = None,
        networks: bijectors.Networks | None = None,
    ) -> Dequantized:
        r"""`prepare`, with the density q of what was drawn: \\(\log P(x) \ge E[\log p(z) - \log q(z \mid x)]\\).

        Args:
          x: as for `log_prob`.
          seed: integer tensor of shape `[2]`.
          evaluation: as for `log_prob`, of a dequantizer's log-determinants.
          log_det: as for `log_prob`. Plans and dicts are of the flow's blocks: the log-determinants of a
            dequantizer then have the evaluation estimator.
          sets: see `tf_resflow.data.dequantize`.
          networks: as for `log_prob`.
        """
        z, dtype = self._checked(x), self.distribution.dtype
        log_q: TensorLike = self.log_num_cells
        if self.dequantizer is not None and self.levels is not None:
            if evaluation and log_det is None or isinstance(log_det, (Mapping, LikelihoodPlan)):
                log_det = self.evaluation_log_det
            bound = {"networks": networks} if isinstance(self.dequantizer, FlowDequantizer) else {}
            u, log_q = self.dequantizer.sample_and_log_prob(
                self._centers(x), seed, log_det=log_det, sets=sets, **bound
            )
            z = place_in_cells(z, tf.cast(u, dtype), self.levels)
            log_q = tf.cast(log_q, dtype) - self.num_dimensions * math.log(cell_width(self.levels))
        elif self.levels is not None:
            z = dequantize(z, self.levels, seed, sets=sets)
        return Dequantized(tf.identity(tf.cast(z, dtype)), log_q)  # a new tensor, for which no cache holds values

    def encode(
        self,
        x: TensorLike,
        *,
        condition: TensorLike | None = None,
        networks: bijectors.Networks | None = None,
    ) -> tf.Tensor:
        """The latents `[batch, *latent]` of examples. Integers stand for the centers of their cells.

        Args:
          x: as for `log_prob`.
          condition: as for `log_prob`.
          networks: as for `log_prob`.
        """
        x = self._centers(x)
        arguments = self.flow_arguments(condition, tf.shape(x)[0], networks)
        return bijectors.forward_features(self.flow, x, log_det=False, **arguments).latent

    def decode(self, z: TensorLike, *, condition: TensorLike | None = None, precise: bool = False) -> tf.Tensor:
        """The examples that have latents, in the form that `to_data` returns.

        Args:
          z: `[batch, *latent]`.
          condition: as for `log_prob`.
          precise: whether the blocks are inverted to the rounding of their type, not to `inverse_atol`.
        """
        return self.to_data(self.flow_input(z, condition=condition, precise=precise))

    def flow_input(self, z: TensorLike, *, condition: TensorLike | None = None, precise: bool = False) -> tf.Tensor:
        """The values of the flow's input space that have latents; arguments as for `decode`."""
        z = tf.cast(z, self.distribution.dtype)
        arguments = self.flow_arguments(condition, tf.shape(z)[0])
        context = Context(arguments, log_det=False, atol=0.0 if precise else self.inverse_atol)
        return pass_through(self.flow, z, context, inverse=True).value

    def to_data(self, x: tf.Tensor) -> tf.Tensor:
        """Values of the flow's input space as data: for integer data their levels, uint8; otherwise unchanged."""
        return x if self.levels is None else quantize(x, self.levels)

    def density(self, log_det: LogDet | None = None) -> tfp.distributions.Distribution:
        """The density of the flow's input under an estimator; `None` for the training estimator.

        A `LikelihoodPlan` gives its estimators, each for one of its samples.
        """
        if log_det is None:
            return self.distribution
        by_block = log_det.log_det if isinstance(log_det, LikelihoodPlan) else log_det
        return bijectors.with_log_det(self.distribution, by_block)

    def log_prob(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        condition: TensorLike | None = None,
        evaluation: bool = False,
        log_det: LogDet | None = None,
        networks: bijectors.Networks | None = None,
    ) -> tf.Tensor:
        """Log-likelihood of the data, in nats, of shape `[batch]`.

        Args:
          x: `[batch, *event_shape]`: integers 0, ..., levels - 1, or floats.
          seed: of the dequantization and the log-determinants, see `tf_resflow.stateless_seed`.
          condition: of a conditional model: `[batch, *condition_shape]`, or one condition for all examples.
          evaluation: whether to use the evaluation estimator.
          log_det: another estimator of the log-determinants, such as `tf_resflow.logdet.Exact()`, a dict of them
            by block (`tf_resflow.bijectors.with_log_det`), or a `LikelihoodPlan`.
          networks: what `networks` returned, for several calls, or for a training step of your own; by default
            they are bound for this one.

        Raises:
          ValueError: when `x` has another shape or type than the data, or the condition does not fit.
        """
        if isinstance(log_det, LikelihoodPlan):
            return self.estimate_log_prob(x, seed, condition=condition, plan=log_det).log_prob
        noise_seed, flow_seed = self.split_seed(seed)
        density = self._density(evaluation, log_det)
        x = self.dequantize(x, noise_seed, evaluation=evaluation, log_det=log_det, networks=networks)
        arguments = self.flow_arguments(condition, tf.shape(x.value)[0], networks)
        return self.log_prob_under(density, x, flow_seed, arguments)

    def log_prob_by_class(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        evaluation: bool = False,
        log_det: LogDet | None = None,
    ) -> tf.Tensor:
        r"""Log-likelihood of the data under each class, of a model whose condition is a label.

        The classes share the random numbers of an example. By Bayes' rule softmax over the classes is
        \\(p(y \mid x)\\) for classes that are equally frequent; add the logarithms of other frequencies.

        Args:
          x: as for `log_prob`.
          seed: as for `log_prob`.
          evaluation: as for `log_prob`.
          log_det: as for `log_prob`.

        Returns:
          `[batch, num_classes]`, in nats.

        Raises:
          ValueError: when the condition is no label; as `log_prob`.
        """
        if self.num_classes is None:
            raise ValueError(f"{self.name} has no classes: build the model with num_classes=.")
        x, seed = tf.convert_to_tensor(x), stateless_seed(seed)

        def of_class(label):
            return self.log_prob(x, seed, condition=label, evaluation=evaluation, log_det=log_det)

        spec = tf.TensorSpec(x.shape[:1], self.distribution.dtype)
        classes = tf.range(self.num_classes)
        return tf.transpose(tf.map_fn(of_class, classes, parallel_iterations=1, fn_output_signature=spec))

    def estimate_log_prob(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        condition: TensorLike | None = None,
        stderr: float | None = None,
        plan: LikelihoodPlan | None = None,
    ) -> LogProbEstimate:
        """The log-likelihood and its standard error, of the accuracy that is asked for.

        ```python
        import tf_resflow as resflow
        model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,)), event_shape=[2])
        log_prob, stderr = model.estimate_log_prob([[0.1, 0.2]], seed=1, stderr=0.01)
        print(log_prob.shape, stderr.numpy())
        # (1,) [0.]
        ```

        Args:
          x: as for `log_prob`.
          seed: as for `log_prob`.
          condition: as for `log_prob`.
          stderr: the standard error wanted, in nats: a plan is made for x, eagerly, which takes seconds to minutes.
          plan: the plan of `tf_resflow.models.plan_likelihood`, for several calls.

        Returns:
          A `LogProbEstimate`. Its `stderr` is measured for each example by repetition.

        Raises:
          ValueError: unless either `stderr` or a plan is given; as `plan_likelihood`; for a `stderr` in a graph.
        """
        if (stderr is None) == (plan is None):
            raise ValueError("estimate_log_prob takes either stderr= or plan=.")
        if stderr is not None:
            if not tf.executing_eagerly():
                raise ValueError("A plan is made eagerly: call plan_likelihood before, and pass the plan.")
            plan = plan_likelihood(self, x, stderr, condition=condition)
        samples = LogProbSamples(self, plan)
        return mean_and_stderr(samples(self._with_condition(x, condition), seed), samples.is_noisy)

    def log_prob_under(
        self,
        density: tfp.distributions.Distribution,
        x: Dequantized,
        seed: tf.Tensor,
        arguments: Mapping[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """`log_prob` by a density of the flow's input.

        Args:
          density: as from `density`.
          x: as from `dequantize`.
          seed: integer tensor of shape `[2]`, of the log-determinants.
          arguments: as from `flow_arguments`.
        """
        return density.log_prob(x.value, bijector_kwargs={"seed": seed, **(arguments or {})}) - x.log_q

    def loss_per_example(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        condition: TensorLike | None = None,
        evaluation: bool = False,
        log_det: LogDet | None = None,
        networks: bijectors.Networks | None = None,
    ) -> tf.Tensor:
        """Bits per dimension of integer data, nats of continuous data: `[batch]`; arguments as for `log_prob`."""
        log_prob = self.log_prob(
            x, seed, condition=condition, evaluation=evaluation, log_det=log_det, networks=networks
        )
        return self.to_loss(log_prob)

    def to_loss(self, log_prob: TensorLike) -> tf.Tensor:
        """The loss, in `unit`s, of a log-likelihood in nats."""
        return -log_prob if self.levels is None else -log_prob / self.nats_per_unit

    def scores(
        self,
        batch: Any,
        seed: Seed = None,
        *,
        evaluation: bool = False,
        networks: bijectors.Networks | None = None,
    ) -> dict[str, tf.Tensor]:
        """What a training step minimizes and reports of each example.

        Args:
          batch: what a step takes: examples `[batch, *event_shape]`; of a conditional model a pair of them and
            their conditions.
          seed: as for `log_prob`.
          evaluation: as for `log_prob`.
          networks: as for `log_prob`.

        Returns:
          A dict of tensors `[batch]`; the mean of `objective` is minimized.
        """
        x, condition = self.examples_and_condition(batch)
        loss = self.loss_per_example(x, seed, condition=condition, evaluation=evaluation, networks=networks)
        return {self.unit: loss}

    def total(self, scores: Mapping[str, Any]) -> Any:
        """The value of `objective`, from the other `scores` or from their means."""
        return scores[self.unit]

    def ood_scores(
        self,
        x: TensorLike,
        seed: Seed = None,
        *,
        condition: TensorLike | None = None,
        log_det: LogDet | None = None,
    ) -> dict[str, tf.Tensor]:
        r"""Scores that should be higher for examples like the training data than for others.

        The score of an example whose condition is a label, and not given, is that of the mixture of the K classes,
        equally frequent as in `log_prob_by_class`: \\(\log p(x) = \log \frac{1}{K} \sum_y p(x \mid y)\\). The noise
        of the estimates raises it, by about half of their variance at most.

        Args:
          x: as for `log_prob`.
          seed: as for `log_prob`.
          condition: as for `log_prob`; a label may be left out.
          log_det: as for `log_prob`; the default is the evaluation estimator.

        Returns:
          A dict of tensors `[batch]`: "log_prob" if the density is trained; "max_probability" of a classifier.

        Raises:
          ValueError: as `log_prob`.
        """
        if not self.has_density:
            return {}
        if self.num_classes is not None and condition is None:
            by_class = self.log_prob_by_class(x, seed, evaluation=True, log_det=log_det)
            return {"log_prob": tf.reduce_logsumexp(by_class, axis=1) - math.log(self.num_classes)}
        return {"log_prob": self.log_prob(x, seed, condition=condition, evaluation=True, log_det=log_det)}

    def parts_around_flow(self) -> tuple[dict[str, list[tf.Variable]], dict[str, list[tf.Variable]]]:
        """The variables of the model's parts before and behind the flow; the keys name the parts in messages."""
        if not isinstance(self.dequantizer, keras.Layer):
            return {}, {}
        return {"the dequantizer": [weight.value for weight in self.dequantizer.weights]}, {}

    def sample(
        self,
        num: TensorLike,
        seed: Seed = None,
        temperature: TensorLike = 1.0,
        *,
        condition: TensorLike | None = None,
        precise: bool = False,
    ) -> tf.Tensor:
        """Draws examples.

        Args:
          num: number of examples.
          seed: see `tf_resflow.stateless_seed`.
          temperature: the latent's deviation from its mean is multiplied by it.
          condition: of a conditional model: one for each example, or one for all.
          precise: as for `decode`.

        Returns:
          `[num, *event_shape]`: uint8 for integer data, floats otherwise.

        Raises:
          InvalidArgumentError: for another temperature than 1, if the base distribution has no mean.
        """
        z = self.sample_latent(num, seed, temperature)
        return self.decode(z, condition=condition, precise=precise)

    def sample_latent(self, num: TensorLike, seed: Seed = None, temperature: TensorLike = 1.0) -> tf.Tensor:
        """The latents that `sample` decodes, `[num, *latent]`; arguments as there."""
        base = self.distribution.distribution
        z = base.sample(num, seed=stateless_seed(seed))
        if not tf.is_tensor(temperature) and temperature == 1.0:
            return z
        temperature = tf.cast(temperature, z.dtype)
        mean = _mean(base)
        known = tf.math.is_finite(mean)
        message = (
            f"The temperature scales the latent's deviation from its mean, and the base distribution {base.name} "
            "has no known mean: sample at temperature 1. It is"
        )
        check = tf.debugging.Assert(tf.equal(temperature, 1.0) | tf.reduce_all(known), [message, temperature])
        with tf.control_dependencies([check] if check is not None else []):
            mean = tf.where(known, mean, z)
        return mean + temperature * (z - mean)

    def reconstruct(self, x: TensorLike, *, condition: TensorLike | None = None) -> tf.Tensor:
        """`f^-1(f(x))` in the flow's input space, to full precision, to see how well the flow inverts."""
        arguments = self.flow_arguments(condition, tf.shape(x)[0])
        return self.flow.inverse(tf.identity(self.flow.forward(tf.identity(x), **arguments)), **arguments)

    def initialize(self, batch: TensorLike, seed: int = 0, *, condition: TensorLike | None = None) -> None:
        """Initializes the ActNorms from a batch of data, and brings the norms of the layers up to date."""
        x = self.prepare(batch, stateless_seed(seed))
        arguments = self.flow_arguments(condition, len(x))
        layers.converge_norms(self.lipschitz_parts)
        bijectors.initialize(self.flow, x, seed, **arguments)

    def compile(self, optimizer: Any = "rmsprop", *, jit_compile: bool | str = False, **kwargs: Any) -> None:
        """Like `keras.Model.compile`; it also builds the optimizer.

        XLA compiles no whole step by default, not even with a GPU. With `jit_compile=True` it does, and cannot
        raise: a step whose loss or gradient is NaN or infinite is not taken either, but `fit` goes on and shows it
        as the loss of the epoch (`keras.callbacks.TerminateOnNaN` ends it).

        The weight decay of Keras' optimizers reaches all variables, ActNorms too, unless its
        `exclude_from_weight_decay` was called. With `use_ema` the average of the weights is warmed up: at step t of
        a fit its momentum is `min(ema_momentum, (1 + t) / (10 + t))`. Keras' constant one would hold 0.37 of the
        first weights after 100 steps. The optimizer is otherwise used unchanged.

        Raises:
          ValueError: for a loss or metrics: the model has its own; for an optimizer that scales the loss, as Keras
            makes one of any optimizer under the policy "mixed_float16"; for layers that compute in float16; for
            `jit_compile=True` under a strategy of several replicas that are not GPUs.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(f"{type(self).__name__} has its own loss and reports its parts: leave out {name}.")
        if jit_compile is True:
            check_compiles(self.distribute_strategy)
        super().compile(optimizer, jit_compile=jit_compile, **kwargs)
        if self.optimizer.loss_scale_factor or isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            self.compiled = False
            raise ValueError(
                f"The optimizer {self.optimizer.name!r} divides gradients by a scale of the loss, which "
                f"{type(self).__name__} does not apply: training would stand still. Compute in 'mixed_bfloat16', "
                "which needs no scale, and leave out loss_scale_factor and LossScaleOptimizer."
            )
        if halves := [layer.name for layer in leaves(self) if layer.weights and lowest_dtype(layer) == "float16"]:
            self.compiled = False
            raise ValueError(
                f"Layer {halves[0]!r} computes in float16, whose gradients need a loss that is scaled, which "
                f"{type(self).__name__} does not do: small ones would become 0. Compute in 'mixed_bfloat16'."
            )
        self.optimizer.build(self.trainable_variables)
        warm_up_average(self.optimizer)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Like `keras.Model.fit`; it leaves the norms of the layers up to date.

        With `use_ema` it ends by replacing the weights with their averages. The validation and the callbacks at the
        end of an epoch see the averages, too: what `EarlyStopping` restores, and `ModelCheckpoint` saves, has the
        score that was found. The average of each fit is a new one, of its steps alone. A model whose ActNorms are
        still the identity causes a warning.

        A conditional model takes `fit(x, condition)`, `fit((x, condition))`, or a `tf.data.Dataset` of pairs; for
        the condition of labels these are the labels. Labels beside the examples of other models are ignored, but
        for `class_weight`.

        By `sample_weight`, one number for each example, or `class_weight`, a dict of the weight of each label, the
        loss is the mean of the weighted losses of a batch. Other scores are not weighted. Weights of
        `validation_data` come last in its tuple: `(x, None, weights)`, or `(x, condition, weights)`.

        Raises:
          ValueError: when there is no condition although the model is conditional, or the arrays do not fit.
        """
        x, y = self._arrays(x, y, kwargs.get("sample_weight"), kwargs.get("class_weight"))
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = self._validation_arrays(kwargs["validation_data"])
        self._warn_of_initialization()
        callbacks = callbacks_under_average(self, callbacks)
        history = super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)
        layers.converge_norms(self.lipschitz_parts)
        return history

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Like `keras.Model.evaluate`, of what `fit` takes."""
        x, y = self._arrays(x, y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of `fit`."""
        step = num_gradients(self.optimizer)
        seed = stateless_seed(tf.stack([self.seed, tf.cast(step, tf.int32)]))
        batch, weights = self._batch(data)
        num = tf.shape(tf.nest.flatten(batch)[0])[0]
        return self._update_means(train_step(self, batch, seed, weights), num)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of `evaluate`, with the evaluation estimator."""
        batch, weights = self._batch(data)
        return self._update_means(weigh(self.scores(batch, evaluation=True), self.objective, weights))

    def split_seed(self, seed: Seed) -> list[tf.Tensor]:
        """The seeds of the dequantization and of the flow, from one seed."""
        return tf.unstack(split_seed(stateless_seed(seed), 2))

    def get_config(self) -> dict[str, Any]:
        """Raises NotImplementedError: the architecture is Python code."""
        raise NotImplementedError(
            f"The architecture of a {type(self).__name__} is Python code: use save_weights, or "
            "ModelCheckpoint(..., save_weights_only=True)."
        )

    def _density(self, evaluation, log_det=None):
        """The density of the flow's input, under `log_det` if it is given."""
        if log_det is None and evaluation:
            return self.evaluation_distribution
        return self.density(log_det)

    @property
    def _conditional_name(self):
        return f"{self.name}, a conditional model,"

    def _batch(self, data):
        """The batch for `scores` and the weights of the examples, from what `fit` and `evaluate` take."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        x, y = self._pair(x, y)
        return self._joined(x, y), weights

    def _joined(self, x, y):
        """The batch for `scores`, from examples and what stands beside them."""
        if self._condition is None:
            return x
        if y is None:
            raise ValueError(
                f"{self._conditional_name} takes examples and their condition, {self._condition.description}: call "
                "fit(x, condition) or evaluate(x, condition)."
            )
        return x, y

    def _pair(self, x, y):
        """Examples and what stands beside them, from the arguments `x` and `y` of `fit`."""
        if not isinstance(x, (tuple, list)):
            return x, y
        if not self.is_conditional:
            raise ValueError(
                f"{self.name} takes examples alone, in one array; got a {type(x).__name__} of {len(x)}. Labels go "
                "to y; a condition needs a model that is built with condition_shape= or num_classes=."
            )
        if isinstance(x, list) or len(x) != 2 or y is not None:
            raise ValueError(
                f"{self._conditional_name} takes fit(x, condition) or fit((x, condition)), a tuple of two; got a "
                f"{type(x).__name__} of {len(x)} as x{'' if y is None else ', and y besides'}."
            )
        return x

    def _arrays(self, x, y, sample_weight, class_weight=None):
        """The arguments `x` and `y` of `fit`, checked if they are arrays.

        Keras drops the weights of examples without labels: these get zeros.
        """
        x, y = self._pair(x, y)
        is_array, has_labels = hasattr(x, "shape"), self.num_classes is not None or not self.is_conditional
        if class_weight is not None and not (has_labels and (y is not None or not is_array)):
            raise ValueError("class_weight is by labels, and there are none: give sample_weight.")
        if not is_array:
            of_dataset = keras.utils.unpack_x_y_sample_weight(getattr(x, "element_spec", None))
            self._check_shape(getattr(self._pair(*of_dataset[:2])[0], "shape", None))
            return x, y
        self._joined(x, y)
        self._check_shape(x.shape)
        sizes = {
            name: len(array)
            for name, array in {"x": x, "y": y, "sample_weight": sample_weight}.items()
            if hasattr(array, "shape")
        }
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            raise ValueError(f"Each example needs its own condition, label or weight: {found}.")
        if self.is_conditional and hasattr(y, "shape"):
            self.flow_arguments(y, len(x))
        return x, np.zeros(len(x)) if y is None and sample_weight is not None else y

    def _validation_arrays(self, data):
        """What `fit` takes as `validation_data`, checked as its `x` and `y` are."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        try:
            return *self._arrays(x, y, weights), weights
        except ValueError as error:
            raise ValueError(f"validation_data: {error}") from None

    def _update_means(self, values, num=None):
        """Takes the values of examples, or with `num` their means over so many."""
        for mean in self._means:
            mean.update_state(values[self.objective if mean.name == "loss" else mean.name], num)
        return {mean.name: mean.result() for mean in self._means}

    def _warn_of_initialization(self):
        norms = [part for part in (self.flow, *self.flow.submodules) if isinstance(part, bijectors.ActNorm)]
        if norms and not any(np.any(variable) for norm in norms for variable in norm.variables):
            warnings.warn(
                "The ActNorms of the flow are still the identity. Call model.initialize(batch) with a batch of the "
                "data before fit, or training has to find their scale.",
                stacklevel=3,
            )

    def _centers(self, x):
        """Data in the flow's input space without randomness: the centers of the cells of integers."""
        x = tf.cast(self._checked(x), self.distribution.dtype)
        return x if self.levels is None else (x + 0.5) / self.levels

    def _checked(self, x):
        try:
            x = tf.convert_to_tensor(x)
        except (TypeError, ValueError):
            raise ValueError(
                f"The model takes an array of examples of shape {self.event_shape}; got {x!r:.80}. A condition "
                "goes to condition=."
            ) from None
        self._check_shape(x.shape)
        if x.dtype.is_integer != (self.levels is not None):
            wanted = "floats" if self.levels is None else f"integers 0, ..., {self.levels - 1}"
            raise ValueError(f"The model takes {wanted}; got {x.dtype.name}.")
        return self._with_static_shape(x)

    def _check_shape(self, shape):
        """Raises a ValueError unless batches of examples may have the shape, as far as it is known."""
        if not tf.TensorShape(shape)[1:].is_compatible_with(self.event_shape):
            raise ValueError(f"The model takes batches of examples of shape {self.event_shape}; got {shape}.")

    def _with_static_shape(self, x):
        """Checked examples with a known shape. After one error Keras traces its step for examples of any shape."""
        if x.shape[1:].is_fully_defined():
            return x
        same = tf.raw_ops.Equal(x=tf.shape(x)[1:], y=self.event_shape, incompatible_shape_error=False)
        message = f"The model takes batches of examples of shape {self.event_shape}; got another shape:"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(same), [message, tf.shape(x)])]):
            return tf.ensure_shape(x, [None, *self.event_shape])


def _latent_shape(flow, event_shape):
    try:
        return flow.forward_event_shape(event_shape)
    except ValueError as error:
        raise ValueError(f"The flow takes no events of event_shape={event_shape}. {error}") from None


def _density(flow, shape, base):
    if base is None:
        # A Flow that begins with a Logit takes any dtype, and has none.
        dtype = flow.dtype or next((v.dtype for v in flow.variables), tf.float32)
        zeros = tf.zeros(shape, dtype)
        base = tfd.Independent(tfd.Normal(zeros, tf.ones([], dtype)), len(shape))
    return tfd.TransformedDistribution(base, tfp.bijectors.Invert(flow), name="density")


def _mean(base):
    """The mean of a distribution, NaN where it is undefined or not implemented."""
    try:
        return base.mean()
    except NotImplementedError:
        return tf.fill(base.event_shape, tf.constant(math.nan, base.dtype))


def _check_takes_seed(flow):
    if bijectors.flow.residual_blocks(flow) and "seed" not in route(flow, {"seed": 0}):
        raise ValueError(
            f"{flow.name} ({type(flow).__name__}) drops a seed silently, and the model could not repeat its draws: "
            "put it in a tf_resflow.bijectors.Flow, which hands seeds to its blocks."
        )


def _check_dequantizer(dequantizer, levels):
    if dequantizer is None:
        return
    if levels is None:
        raise ValueError("Continuous data are not dequantized: leave out dequantizer=, or give levels=.")
    if isinstance(dequantizer, type) or not callable(getattr(dequantizer, "sample_and_log_prob", None)):
        raise ValueError(
            "dequantizer must have a method sample_and_log_prob, as tf_resflow.models.FlowDequantizer "
            f"does; got {dequantizer!r:.80}."
        )
    if not isinstance(dequantizer, keras.Layer) and getattr(dequantizer, "variables", None):
        raise ValueError(
            f"The dequantizer ({type(dequantizer).__name__}) has variables and is no keras.Layer: fit would "
            "neither train nor save them. Hold them in a Keras layer."
        )


def _check_covered(weights, statistics, distribution):
    """Raises unless the model's weights are the distribution's variables, each once, but for the statistics."""
    seen = [id(weight.value) for weight in weights]
    others = {id(variable) for variable in statistics}
    advice = {
        "base distribution": "let the flow end in an ActNorm, which learns a location and a scale",
        "distribution": "hold them in a Keras layer",
    }
    for part, owner in zip((distribution.distribution, distribution), advice, strict=True):
        missing = [variable.name for variable in part.variables if id(variable) not in {*seen, *others}]
        if missing:
            raise ValueError(
                f"These variables of the {owner} are no Keras variables, and fit would neither train nor save "
                f"them: {', '.join(missing)}. Make them constants, or {advice[owner]}."
            )
    extra = set(seen) - {id(variable) for variable in distribution.variables}
    if extra:
        names = [weight.path for weight in weights if id(weight.value) in extra]
        raise ValueError(f"These weights are not variables of the distribution: {', '.join(names)}.")
