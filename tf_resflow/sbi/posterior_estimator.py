"""Neural posterior estimation: the posterior of a simulator's parameters for any observation."""

import math
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors import ConditionalAffine, Flow, Normalize, with_log_det_estimator
from tf_resflow.evaluation.calibration import Calibration
from tf_resflow.flows import vector_flow
from tf_resflow.logdet import Exact
from tf_resflow.messages import counted
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.optimizers import Adam
from tf_resflow.sbi.posterior import EqualMixture, ParameterDistribution, RestrictedVectors
from tf_resflow.sbi.summaries import compressed, vector_summary
from tf_resflow.seeds import stateless_seed
from tf_resflow.serialization import Serializable, deserialize
from tf_resflow.solvers import Anderson
from tf_resflow.typing import Seed, TensorLike
from tf_resflow.vi.neutra import frozen
from tf_resflow.vi.surrogate_posteriors import from_vectors

tfb, tfd = tfp.bijectors, tfp.distributions

_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
_STEPS_PER_EXECUTION = 16
_STEPS, _MOST_STEPS = 30, 4000  # a training has _STEPS sqrt(pairs) steps, but at most _MOST_STEPS
_LEAST_VARIANCE = 1e-6  # added to the residual variances of the regression
_PENALTIES = 10.0 ** np.arange(-2, 6)  # of the ridge regression
_MEMBERS, _FEW_PAIRS = 5, 20_000  # default size of an ensemble, and largest number of pairs for it
_CHECKED, _CHECK_DRAWS, _CHECK_LEVEL = 500, 30, 1e-4  # held-out pairs, draws and p-value for the warning of `fit`
_AT_ONCE = 200_000  # coordinates of posterior draws, whose Jacobians need memory
_FAR = 2.0  # times the largest distance in the training: observations beyond are far
_TOLERANCE = 1e-5  # of a block's inverse; sufficient for posterior samples
_INITIAL = 1000  # number of pairs that initialize the ActNorms
_MOST_REGRESSED = 10_000  # largest number of pairs in the ridge regression


class PosteriorModel(FlowModel):
    """The `model` of a `PosteriorEstimator`, saved with the Keras config of the estimator."""

    def __init__(self, estimator: "PosteriorEstimator", *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.estimator = estimator

    @property
    def parameters(self) -> dict[str, Any]:
        """The estimator."""
        return {"estimator": self.estimator}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FlowModel:
        """Builds the estimator of a config, and returns its model."""
        return deserialize(config["estimator"]).model

    def get_compile_config(self) -> None:
        """Returns None, because each training compiles the model."""

    @property
    def statistics(self) -> dict[str, tf.Variable]:
        """Like `FlowModel.statistics`, with the state of the estimator."""
        estimator = getattr(self, "estimator", None)  # missing until the end of the construction
        return super().statistics | ({} if estimator is None else estimator.state)


class PosteriorEstimator(Serializable):
    r"""The posterior \\(q(\theta | x)\\) of a simulator's parameters, learned from simulations.

    The bijector of the prior's support maps parameters \\(\theta \sim p(\theta)\\) to unconstrained vectors. A
    conditional flow of these vectors maximizes the mean of \\(\log q(\theta_i | x_i)\\) over pairs with
    \\(x_i \sim p(x | \theta_i)\\). All posterior samples lie in the support of the prior.

    ```python
    import tensorflow as tf, tensorflow_probability as tfp
    import tf_resflow as resflow

    tfd = tfp.distributions
    prior = tfd.Independent(tfd.Uniform([-1.0, 0.0], [1.0, 5.0]), 1)
    theta = prior.sample(500, seed=0)
    x = theta + 0.1 * tf.random.stateless_normal([500, 2], [0, 1])  # the simulator

    estimator = resflow.PosteriorEstimator(prior, [2], num_blocks=1, hidden=(16,), ensemble=1)
    estimator.fit(theta, x, epochs=2, verbose=0)
    posterior = estimator.posterior([0.5, 2.0])
    draws = posterior.sample(100, seed=1)
    print(draws.shape, posterior.log_prob(draws).shape)
    # (100, 2) (100,)
    ```

    The flow consists of an affine map whose matrix and shift depend on the observation, affine autoregressive
    layers, and residual blocks with CPila activations. All receive the output of the `summary`, a network of the
    observation, which is trained with them. The input of the summary is standardized: each element has the median 0
    and the quartiles of a normal distribution. Training starts from a ridge regression on the summary.

    Args:
      prior: `tfd.Distribution` of the parameters, with events of any shape, or a joint distribution. Its
        `experimental_default_event_space_bijector` defines the support.
      condition_shape: shape of an observation, such as `[100]`; `[None, *shape]` for sets of observations.
      summary: a built Keras layer or model from standardized observations to vectors, such as
        `tf_resflow.sbi.set_summary`. It is always called in inference mode: without dropout, and with the stored
        statistics of batch normalization. By default, two hidden layers of 64 units, 32 outputs, and
        a linear function with the size of the parameters.
      affine_layers: number of affine autoregressive layers before the blocks.
      hidden: widths of the inner layers of a block and of an autoregressive network.
      coefficient: Lipschitz bound of each layer of a block, below 1.
      ensemble: number of networks with different initial weights (except for a given summary), whose posteriors
        are mixed. By default, 5 for up to 20,000 pairs, where a single network is often overconfident, otherwise 1.
      seed: `int` seed for the initial weights and `fit`.

    Attributes:
      model: the conditional `FlowModel` of the vectors given the observation; of an ensemble, the first one.

    References:
      Papamakarios and Murray, Fast epsilon-free inference of simulation models, 2016.
      Greenberg, Nonnenmacher and Macke, Automatic posterior transformation, 2019.
      Hermans et al., A trust crisis in simulation-based inference?, 2022, on ensembles.
    """

    def __init__(
        self,
        prior: tfp.distributions.Distribution,
        condition_shape: Sequence[int | None],
        *,
        summary: keras.Layer | None = None,
        num_blocks: int = 3,
        affine_layers: int = 2,
        hidden: Sequence[int] = (64, 64),
        coefficient: float = 0.97,
        ensemble: int | None = None,
        seed: int = 0,
        name: str = "posterior_estimator",
    ):
        self.parameters = {key: value for key, value in locals().items() if key != "self"}
        shape = tuple(condition_shape)
        if not shape or (ensemble is not None and ensemble < 1):
            raise ValueError(f"Got condition_shape={shape} and ensemble={ensemble}. Give at least [1] and 1.")
        self.prior, self._seed, self._ensemble = prior, seed, ensemble
        size, self._bijector, dtype = _from_vectors(prior)
        self._linear = None
        if summary is None:
            summary = vector_summary(shape, num_linear=size, seed=seed, dtype=dtype)
            self._linear = summary.get_layer("linear")
        num_features = summary.compute_output_shape((None, *shape))[-1]
        layer = keras.layers.Dense(size * (size + 3) // 2, kernel_initializer="zeros", dtype=dtype)
        network = keras.Sequential([keras.Input([num_features], dtype=dtype), layer], name="affine")
        options: dict[str, Any] = {"activation": "cpila", "coefficient": coefficient, "seed": seed, "dtype": dtype}
        options |= {"condition_size": num_features, "inverse_solver": Anderson(atol=_TOLERANCE)}
        blocks = vector_flow(size, num_blocks, hidden, affine_layers=(affine_layers, 0), **options)
        scale = Normalize(np.zeros(size), np.ones(size), dtype, name="scale")
        flow = Flow([scale, ConditionalAffine(network), blocks])
        condition: dict[str, Any] = {"condition_shape": shape, "condition_network": summary}
        each = [num or 1 for num in shape]  # the observations of a set share their statistics
        condition |= {"condition_mean": np.zeros(each), "condition_std": np.ones(each)}
        self.model = PosteriorModel(self, flow, [size], seed=seed, name=name, **condition)
        self._given: Any = None  # the initial weights of a given summary
        self._optimizer: Any = None  # of the compiled model, which all trainings of all fits share
        state = {"farthest": np.full(each, np.inf), "others": np.zeros(0)}  # "others": weights of an ensemble
        self.state = {key: tf.Variable(value, shape=tf.TensorShape(None)) for key, value in state.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the estimator as a `.keras` file for `tf_resflow.load`. Pickling works, too."""
        self.model.save(path)

    def __reduce__(self):
        return operator.attrgetter("estimator"), (self.model,)

    def fit(
        self,
        theta: Any,
        x: TensorLike,
        *,
        batch_size: int = 128,
        epochs: int | None = None,
        learning_rate: float = 1e-2,
        weight_decays: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
        validation_fraction: float = 0.1,
        drop_invalid: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Any = "auto",
    ) -> keras.callbacks.History:
        """Trains with increasing weight decay while this helps, and keeps the weights with the best held-out loss.

        The parameters must be draws of the prior, or of `proposal(x)`, or both. Then the posterior of x is right.
        Draws of the posterior would count the likelihood twice.

        Each call starts from the initial weights, so give it the pairs of all rounds. Weight decay blurs sharp
        posteriors, such as crescents. Without it, long observations and many parameters overfit. The optimizer is
        AdamW. Its learning rate increases over the first quarter of the steps, and then decays to zero along a
        cosine. A training stops when the held-out loss has not decreased for half of the epochs, or, with a
        warning, when it diverges. The other networks of an ensemble use the best weight decay. A warning says if
        the posteriors of held-out pairs are clearly miscalibrated.

        Args:
          theta: parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: observations `[num, *condition_shape]` that were simulated with `theta`. Sets of different sizes are
            filled up with NaN.
          batch_size: number of pairs of a step.
          epochs: maximum number of passes over the training pairs. By default, chosen to give about
            30 sqrt(num) steps, but at most 4,000.
          learning_rate: maximum learning rate.
          weight_decays: weight decays of AdamW. A training is the last if its loss exceeds that of the one before.
          validation_fraction: fraction of the pairs that is held out.
          drop_invalid: whether to leave out pairs whose observation contains NaN or infinity, with a warning.
            Otherwise, they are an error. Without them, the posterior is that given that the simulation succeeds.
          callbacks: additional callbacks of `keras.Model.fit` for each training.
          verbose: as in `keras.Model.fit`.

        Returns:
          The history of the best training of the first network.
        """
        x, is_valid = self._shaped(x, extra_ranks=(1,))
        theta = self._vectors(theta, len(x))
        if not is_valid.all():
            if not (drop_invalid and is_valid.any()):
                raise ValueError(f"{_first_invalid(is_valid)} Leave them and their parameters out.")
            warnings.warn(f"{_first_invalid(is_valid)} fit leaves them and their parameters out.", stacklevel=2)
            theta, x = theta[is_valid], x[is_valid]
        num_held_out = int(validation_fraction * len(x))
        if not 1 <= num_held_out < len(x) - 1:
            raise ValueError(
                f"validation_fraction={validation_fraction} of {len(x)} pairs holds out {num_held_out}. Hold out "
                "at least one pair, and keep at least two."
            )
        order = np.random.default_rng(self._seed).permutation(len(x))
        theta, x = theta[order], x[order]
        held_out, kept = (theta[:num_held_out], x[:num_held_out]), (theta[num_held_out:], x[num_held_out:])
        steps_per_epoch = -(-len(kept[0]) // batch_size)
        if epochs is None:
            epochs = math.ceil(min(_STEPS * math.sqrt(len(x)), _MOST_STEPS) / steps_per_epoch)
        steps = epochs * steps_per_epoch
        if self._optimizer is None or self._optimizer is not self.model.optimizer:
            self._schedule = {"decay_steps": tf.Variable(1), "warmup_steps": tf.Variable(0)}
            self._schedule["warmup_target"] = tf.Variable(0.0)
            rate = keras.optimizers.schedules.CosineDecay(0.0, **self._schedule)
            self._optimizer = Adam(rate, weight_decay=tf.Variable(0.0), global_clipnorm=1.0)
            self.model.compile(self._optimizer, steps_per_execution=_STEPS_PER_EXECUTION)
        values = {"decay_steps": steps - steps // 4, "warmup_steps": steps // 4, "warmup_target": learning_rate}
        for name, value in values.items():
            self._schedule[name].assign(value)
        options = {"epochs": epochs, "batch_size": batch_size, "callbacks": callbacks, "verbose": verbose}
        others: list[np.ndarray] = []
        first: Any = None
        num_members = self._ensemble or (_MEMBERS if len(x) <= _FEW_PAIRS else 1)
        axes = tuple(i for i, size in enumerate((None, *self.model.condition.shape)) if size is None)
        try:
            for member in range(num_members):
                self._initialize(member, kept, held_out)
                self.state["farthest"].assign(np.nanmax(np.abs(self._standardized(x)), axis=axes, keepdims=True)[0])
                best, history = self._train(weight_decays, kept, held_out, self._seed + member, **options)
                if member == 0:
                    first, weight_decays = (self.model.get_weights(), history), [best]
                else:
                    others.append(np.concatenate([weight.ravel() for weight in self.model.get_weights()]))
        finally:
            if first is not None:
                self.model.set_weights(first[0])
            self.state["others"].assign(np.concatenate([np.zeros(0), *others]))
        self._warn_of_miscalibration(*held_out)
        return first[1]

    def _train(self, weight_decays, kept, held_out, seed, *, epochs, batch_size, callbacks, verbose):
        """Trains the model with weight decays until one is worse. Returns the best one and its history."""
        options = {"epochs": epochs, "verbose": verbose, "shuffle": False}
        options["validation_data"] = check = _batches(held_out, 1000, seed)
        start, optimizer = self.model.get_weights(), self.model.optimizer
        best, trainings = (self._loss(check), start), []
        try:
            for weight_decay in weight_decays:
                self.model.set_weights(start)
                optimizer.weight_decay.assign(weight_decay)
                for variable in optimizer.variables:
                    variable.assign(keras.ops.zeros_like(variable))
                pairs = _batches(kept, batch_size, seed)  # in the same order for all trainings
                stop = keras.callbacks.EarlyStopping(patience=max(1, epochs // 2), restore_best_weights=True)
                try:
                    self.model.fit(pairs, callbacks=[*callbacks, stop], **options)
                except tf.errors.InvalidArgumentError as error:
                    if stop.best_weights is None:
                        raise
                    message = f"The training with the weight decay {weight_decay} stopped early: {error}"
                    warnings.warn(message, stacklevel=3)
                    self.model.set_weights(stop.best_weights)
                loss = self._loss(check)
                trainings.append((loss, weight_decay, self.model.history))
                if loss < best[0]:
                    best = loss, self.model.get_weights()
                if len(trainings) > 1 and loss > trainings[-2][0]:
                    break
        finally:
            self.model.set_weights(best[1])
        return min(trainings, key=lambda training: training[0])[1:]

    def _loss(self, pairs):
        loss = self.model.evaluate(pairs, verbose=0, return_dict=True)["loss"]
        return loss if np.isfinite(loss) else np.inf

    def posterior(self, x: TensorLike) -> ParameterDistribution:
        """Returns the posterior for an observation `[*condition_shape]` or a batch `[batch, *condition_shape]`.

        It is a `tfd.Distribution` with the methods `map_estimate` and `to_arviz`. Later training does not change
        it. An observation that is much farther from the median than those of the training gives a warning.
        """
        x = self._observations(x, extra_ranks=(0, 1))
        self._warn_of_far_observations(x)
        weights = self.model.weights
        ends = np.cumsum([math.prod(weight.shape) for weight in weights])[:-1]
        members = [self._member(x)]
        for vector in np.reshape(self.state["others"], [-1, sum(math.prod(weight.shape) for weight in weights)]):
            parts = zip(weights, np.split(vector, ends), strict=True)
            values = [(weight, tf.constant(part.reshape(weight.shape), weight.dtype)) for weight, part in parts]
            with keras.StatelessScope(state_mapping=values):
                members.append(self._member(x))
        distributions, conditions = zip(*members, strict=True)
        mixture = EqualMixture(distributions, conditions)
        return ParameterDistribution(mixture, self._bijector, self.prior, "posterior")

    def _member(self, x):
        """Returns the distribution of vectors with the present weights, and the conditions of its flow."""
        condition, (scale, *others) = self.model.condition, self.model.flow.bijectors
        is_batch = x.ndim > len(condition.shape)
        features = condition.rows(x, len(x) if is_batch else 1)
        given = features if is_batch else features[0]
        mean, std = (value.numpy() for value in scale.statistics.values())
        scale = Normalize(mean, std, scale.dtype.name)  # a copy, because `fit` changes the statistics
        flow = frozen(with_log_det_estimator(Flow([scale, *others]), Exact()), condition=given)
        base = self.model.distribution.distribution
        base = tfd.BatchBroadcast(base, given.shape[:-1]) if is_batch else base
        return tfd.TransformedDistribution(base, tfb.Invert(flow)), features

    def proposal(self, x: TensorLike, tail: float = 1e-4, seed: Seed = 0) -> ParameterDistribution:
        r"""Returns the prior, restricted to a region that holds all but about `tail` of the posterior of x.

        Use it to spend simulations where they help to find the posterior of one observation: draw parameters from
        the proposal, simulate, `fit` to the pairs of all rounds, and repeat. Within the region, the density of the
        parameters is proportional to the prior, so the posterior of x stays right; those of other observations do
        not. Of the regions of this probability, it has nearly the smallest prior probability.

        Args:
          x: an observation `[*condition_shape]`.
          tail: posterior probability outside the region, at least 1e-4.
          seed: seed of the posterior samples that determine the region.

        Raises:
          ValueError: if the region is so small that it takes too long to draw from it.

        References:
          Deistler, Goncalves and Macke, "Truncated proposals for scalable and hassle-free simulation-based
          inference" (2022).
        """
        posterior = self.posterior(x)
        if posterior.batch_shape.rank:
            raise ValueError("x is a batch of observations. A proposal is for one observation, such as x[0].")
        vectors = RestrictedVectors(posterior, tail, seed)
        return ParameterDistribution(vectors, posterior.bijector, self.prior, "proposal")

    def calibrate(self, theta: Any, x: TensorLike, *, num_draws: int = 100, seed: int = 0) -> Calibration:
        """Checks the posteriors on new pairs, prints what the tests show, and returns the `Calibration`.

        Args:
          theta: parameters `[num, *event_shape]` that were drawn like those of `fit`, but not used there; a few
            hundred.
          x: observations `[num, *condition_shape]` that were simulated with `theta`.
          num_draws: number of posterior samples per observation.
          seed: seed of the samples.
        """
        theta, x = self._pairs(theta, x)
        if num_draws < 1:
            raise ValueError(f"num_draws={num_draws} is too small. Draw at least 1 sample, or better 100.")
        calibration = self._calibration(theta, x, num_draws, seed)
        print(calibration)
        return calibration

    def score(self, theta: Any, x: TensorLike) -> float:
        """Returns the mean log-density of pairs in nats, which is minus infinity for parameters on a bound.

        Args:
          theta: parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: observations `[num, *condition_shape]` that were simulated with `theta`.
        """
        parts = [posterior.log_prob(own) for posterior, own in self._posteriors(*self._pairs(theta, x))]
        return float(np.mean(np.concatenate(parts), dtype=np.float64))

    def _pairs(self, theta, x):
        """Returns checked pairs, with parameters in the structure of the prior's events."""
        x = self._observations(x, extra_ranks=(1,))
        self._vectors(theta, len(x))  # raises for wrong parameters
        return tf.nest.pack_sequence_as(self.prior.dtype, tf.nest.flatten(theta)), x

    def _posteriors(self, theta, x, num_draws=1):
        """Generates the posterior of a part of the observations, and their parameters."""
        num = max(1, _AT_ONCE // (num_draws * self.model.data_space.event_shape[0]))
        theta = tf.nest.map_structure(lambda part: tf.cast(part, self.model.distribution.dtype), theta)
        for start in range(0, len(x), num):
            rows = slice(start, start + num)
            yield self.posterior(x[rows]), tf.nest.map_structure(lambda part, rows=rows: part[rows], theta)

    def _calibration(self, theta, x, num_draws, seed):
        parts = []
        for place, (posterior, own) in enumerate(self._posteriors(theta, x, num_draws)):
            draws = posterior.sample(num_draws, seed=stateless_seed([seed, place]))
            parts.append((draws, posterior.log_prob(draws), posterior.log_prob(own)))
        draws, sample_log_probs, log_probs = zip(*parts, strict=True)
        draws = tf.nest.map_structure(lambda *group: np.concatenate(group, axis=1), *draws)
        sample_log_probs = np.concatenate(sample_log_probs, axis=1)
        return Calibration(draws, theta, sample_log_probs, np.concatenate(log_probs), seed=seed)

    def _warn_of_miscalibration(self, theta, x):
        events = self._bijector.forward(tf.constant(theta[:_CHECKED]))
        calibration = self._calibration(events, x[:_CHECKED], _CHECK_DRAWS, self._seed)
        if calibration.p_value < _CHECK_LEVEL:
            warnings.warn(
                f"The posteriors of held-out pairs are miscalibrated. {calibration} Fit to more pairs, train "
                "longer, or use a larger ensemble.",
                stacklevel=3,
            )

    def _warn_of_far_observations(self, x):
        distances = np.abs(np.nan_to_num(self._standardized(x)))
        ratios = distances / np.maximum(self.state["farthest"].numpy(), 1.0)
        if ratios.max(initial=0.0) > _FAR:
            place = np.unravel_index(ratios.argmax(), ratios.shape)
            warnings.warn(
                f"The observation is far outside of the training data: x{[int(i) for i in place]} is "
                f"{distances[place]:.3g} standard deviations from the median, {ratios[place]:.3g} times as far as "
                "in the training. The posterior is unreliable. Check the simulator and the prior.",
                stacklevel=3,
            )

    def _standardized(self, x):
        """Returns the difference of each element from the median, in robust standard deviations."""
        statistics = self.model.condition.statistics
        return (x - statistics["mean"].numpy()) / statistics["std"].numpy()

    def _initialize(self, member, kept, held_out):
        """Sets the initial weights of a member of the ensemble. All members share those of a given summary."""
        if (summary := self.parameters["summary"]) is not None:
            self._given = self._given or summary.get_weights()  # of the first fit, after weights were loaded
            summary.set_weights(self._given)
        other = type(self)(**{**self.parameters, "seed": self._seed + member})
        self.model.set_weights(other.model.get_weights())
        self._begin_at_regression(kept, held_out)

    def _begin_at_regression(self, kept, held_out):
        """Sets the statistics and the ActNorms, and sets linear and affine maps to ridge regressions."""
        theta, x = kept
        for name, value in _statistics(x, self.model.condition.shape).items():
            self.model.condition.statistics[name].assign(value)
        scale, affine, _ = self.model.flow.bijectors
        deviation = theta.std(axis=0)
        scale.statistics["mean"].assign(theta.mean(axis=0))
        scale.statistics["std"].assign(np.where(deviation > 0, deviation, 1.0))
        self.model.initialize(theta[:_INITIAL], self._seed, condition=x[:_INITIAL])
        observations = [part[:_MOST_REGRESSED] for _, part in (kept, held_out)]
        values = [np.float64(scale.forward(part[:_MOST_REGRESSED])) for part, _ in (kept, held_out)]
        if self._linear is not None:
            flat = [np.reshape(compressed(self._standardized(x)), [len(x), -1]) for x in observations]
            self._linear.kernel.assign(_regression(*zip(flat, values, strict=True))[0])
        features = map(self._features, observations)
        matrix, shift, covariance = _regression(*zip(features, values, strict=True))
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        triangle = np.tril(whitening, -1) + np.diag(np.log(np.diag(whitening)))
        kernel, bias = affine.network.layers[-1].weights
        entries = tfp.math.fill_triangular_inverse(triangle)
        kernel.assign(np.pad(-matrix @ whitening.T, [(0, 0), (0, len(entries))]))
        bias.assign(np.concatenate([-whitening @ shift, entries]))

    def _features(self, x):
        parts = [x[i : i + _INITIAL] for i in range(0, len(x), _INITIAL)]
        return np.concatenate([self.model.condition.rows(part, len(part)) for part in parts]).astype(np.float64)

    def _vectors(self, theta, num):
        """Maps parameters to unconstrained vectors `[num, size]`, those on bounds to the most extreme others."""
        tf.nest.assert_same_structure(self.prior.dtype, theta, check_types=isinstance(self.prior.dtype, Mapping))
        theta = tf.nest.map_structure(lambda part: tf.cast(part, self.model.distribution.dtype), theta)
        shapes = [part.shape for part in tf.nest.flatten(theta)]
        if shapes != [[num, *event] for event in tf.nest.flatten(self.prior.event_shape)]:
            raise ValueError(f"theta has the shapes {shapes}. Give parameters [num, *event_shape] with num={num}.")
        z = self._bijector.inverse(theta).numpy()
        back = self._bijector.forward(tf.constant(z))
        moved = [*map(_moved, tf.nest.flatten(theta), tf.nest.flatten(back))]
        if bad := np.count_nonzero(np.isnan(z).any(axis=1) | np.any(moved, axis=0)):
            raise ValueError(
                f"Found NaN or values outside the prior's support in {counted(int(bad), 'row')} of theta. "
                "Leave them out."
            )
        finite = np.where(np.isinf(z), np.nan, z)
        return np.clip(z, np.nanmin(finite, axis=0), np.nanmax(finite, axis=0))

    def _observations(self, x, extra_ranks):
        """Returns observations in float64, after checking that they are finite in the model's dtype."""
        x, is_valid = self._shaped(x, extra_ranks)
        if not is_valid.all():
            raise ValueError(f"{_first_invalid(is_valid)} Leave them out.")
        return x

    def _shaped(self, x, extra_ranks):
        """Returns observations in float64 after checking their shape, and which are finite in the model's dtype."""
        x, shape = np.asarray(x, np.float64), self.model.condition.shape
        rank = x.ndim - len(shape)
        if rank not in extra_ranks or not tf.TensorShape(x.shape[rank:]).is_compatible_with(shape):
            axis = "a batch axis" if extra_ranks == (1,) else "an optional batch axis"
            raise ValueError(f"x has the shape {x.shape}. Give observations of shape {shape} after {axis}.")
        if not x.size:
            raise ValueError("x is empty. Give at least one observation.")
        is_valid = np.abs(x) <= self.model.distribution.dtype.max
        if shape[0] is None:
            is_absent = np.isnan(x).all(axis=tuple(range(rank + 1, x.ndim)), keepdims=True)
            is_valid |= is_absent & ~is_absent.all(axis=rank, keepdims=True)
        return x, is_valid.all(axis=tuple(range(rank, x.ndim)))


def _first_invalid(is_valid):
    """Returns the beginning of a message about invalid observations."""
    if not is_valid.ndim:
        return "Found NaN or infinity in the observation."
    where = f"{np.count_nonzero(~is_valid):,} of {counted(len(is_valid), 'observation')}"
    return f"Found NaN or infinity in {where}, starting with x[{np.argmin(is_valid)}]."


def _from_vectors(prior):
    """Returns the size of unconstrained vectors, the bijector from them to parameters, and the dtype."""
    dtype, *others = {*tf.nest.flatten(prior.dtype)}
    is_joint = isinstance(prior, tfd.JointDistribution)
    members = tf.nest.flatten(prior.sample_distributions(seed=[0, 0])[0]) if is_joint else [prior]
    discrete = [member.name for member in members if member.experimental_default_event_space_bijector() is None]
    if discrete:
        raise ValueError(
            f"No bijector maps real numbers to the support of {', '.join(discrete)} in the prior. Parameters must "
            "be continuous; discrete parameters are not supported."
        )
    is_batch = any(shape.rank for shape in tf.nest.flatten(prior.batch_shape))
    if is_batch or others or not dtype.is_floating:
        raise ValueError(
            f"The prior has the batch shape {prior.batch_shape} and the dtype {prior.dtype}. Give one distribution "
            "of real numbers of one dtype."
        )
    constraint = prior.experimental_default_event_space_bijector()
    size, into_events = from_vectors(prior.event_shape, constraint)
    return size, tfb.Chain(into_events[::-1]), dtype.name


def _moved(theta, back):
    """Returns which parameters are infinite or change in a round trip, which may turn values on bounds into NaN."""
    rounding = np.cbrt(np.finfo(theta.dtype.as_numpy_dtype).eps)
    tolerance = rounding * (1 + tf.reduce_max(tf.abs(theta), axis=0))
    moved = tf.math.is_inf(theta) | (tf.abs(back - theta) > tolerance)
    return tf.reduce_any(moved, axis=range(1, moved.shape.rank))


def _batches(pairs, batch_size, seed):
    """Returns shuffled batches of pairs in their own dtype. Keras would round arrays to float32."""
    permutation = np.random.default_rng(seed).permutation  # tf.data would also use TensorFlow's global seed
    with tf.device("CPU"):
        theta, x = map(tf.constant, pairs)
    ends, spec = range(batch_size, len(x), batch_size), tf.TensorSpec([None], tf.int64)
    rows = tf.data.Dataset.from_generator(lambda: np.split(permutation(len(x)), ends), output_signature=spec)
    batches = rows.map(lambda rows: (tf.gather(theta, rows), tf.gather(x, rows)))
    return batches.apply(tf.data.experimental.assert_cardinality(len(ends) + 1))


def _regression(kept, held_out):
    """Returns the matrix, shift and residual covariance of a ridge regression on pairs (features, values).

    The penalty minimizes the squared error of the held-out pairs. The covariance is shrunk toward its diagonal, as
    if there were `size` more pairs, and scaled up if the held-out error exceeds the mean residual variance.
    """
    (x, z), (x_new, z_new) = kept, held_out
    center, shift = x.mean(axis=0), z.mean(axis=0)
    left, singular, right = np.linalg.svd(x - center, full_matrices=False)

    def solution(penalty):
        matrix = right.T @ ((singular / (singular**2 + penalty))[:, np.newaxis] * (left.T @ (z - shift)))
        return np.mean((z_new - shift - (x_new - center) @ matrix) ** 2), matrix

    error, matrix = min(map(solution, _PENALTIES), key=lambda found: found[0])
    residuals = z - shift - (x - center) @ matrix
    size, variances = z.shape[1], np.mean(residuals**2, axis=0) + _LEAST_VARIANCE
    covariance = (residuals.T @ residuals + size * np.diag(variances)) / (len(z) + size)
    covariance *= max(1.0, error / np.mean(variances))
    return matrix, shift - center @ matrix, covariance


def _statistics(x, shape):
    """Returns each element's median and scale: by quartiles, or the standard deviation if they are equal, or 1.

    The elements of a set, with the size None in `shape`, share them.
    """
    x = x.reshape([-1, *shape[1:]]) if shape[:1] == (None,) else x
    low, median, high = np.nanquantile(x, [0.25, 0.5, 0.75], axis=0)
    robust, spread = (high - low) / _QUARTILES, np.nanmax(x, axis=0) - np.nanmin(x, axis=0)
    scale = np.where(robust > 0, robust, np.nanstd(x, axis=0))
    found = {"mean": median, "std": np.where(spread > 0, scale, 1.0)}
    return {name: np.reshape(value, [num or 1 for num in shape]) for name, value in found.items()}
