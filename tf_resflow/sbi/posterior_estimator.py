"""Neural posterior estimation: the posterior of a simulator's parameters for any observation."""

import functools
import gc
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

from tf_resflow import layers
from tf_resflow.bijectors import ConditionalAffine, Flow, Normalize, with_log_det_estimator
from tf_resflow.console import progress_bar
from tf_resflow.evaluation.calibration import Calibration
from tf_resflow.flows import vector_flow
from tf_resflow.functions import compressed
from tf_resflow.logdet import Exact
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.optimizers import Adam
from tf_resflow.models.repeated_training import (
    Best,
    RepeatedTraining,
    assign,
    draw_rows,
    learning_rates,
    member_variables,
    permuted,
    values_of,
)
from tf_resflow.sbi.parameters import ParameterSpace, as_array, check_varying, checked_rows
from tf_resflow.sbi.posterior import EqualMixture, ParameterDistribution, RestrictedVectors
from tf_resflow.sbi.summaries import vector_summary
from tf_resflow.seeds import stateless_seed
from tf_resflow.serialization import Serializable, deserialize
from tf_resflow.solvers import Anderson
from tf_resflow.typing import Seed, TensorLike
from tf_resflow.vi.neutra import Decoder, frozen

tfb, tfd = tfp.bijectors, tfp.distributions

_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
_STEPS, _MOST_STEPS = 30, 4000  # a training has _STEPS sqrt(pairs) steps, but at most _MOST_STEPS
_WARMUP, _PATIENCE, _WARM_SHARE = 0.25, 0.75, 0.3  # fractions of the steps of a training
_TRIAL = 3  # the trainings that choose the weight decay have 1 / _TRIAL of the epochs
_LEAST_VARIANCE = 1e-6  # added to the residual variances of the regression
_PENALTIES = 10.0 ** np.arange(-2, 6)  # of the ridge regression
_MEMBERS, _FEW_PAIRS = 5, 20_000  # default size of an ensemble, and largest number of pairs for it
_CHECKED, _CHECK_DRAWS, _CHECK_LEVEL = 500, 30, 1e-4  # held-out pairs, draws and p-value for the warning of `fit`
_AT_ONCE = 200_000  # coordinates of posterior draws, whose Jacobians need memory
_FAR = 2.0  # times the largest distance in the training: observations beyond are far
_TOLERANCE = 1e-5  # of a block's inverse; sufficient for posterior samples
_ROUNDING = 4 * np.finfo(np.float64).eps  # relative spread of a constant
_SAME = 1e-6  # relative difference between equal observations, such as 0.1 in float32 and float64
_INITIAL = 1000  # number of pairs that initialize the ActNorms
_MOST_REGRESSED = 10_000  # largest number of pairs in the ridge regression


class PosteriorModel(FlowModel):
    """The `model` of a `PosteriorEstimator`, saved with the Keras config of the estimator."""

    def __init__(self, estimator: Any, *args: Any, **kwargs: Any):
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
        shape = _checked_shape(condition_shape, summary)
        if ensemble is not None and ensemble < 1:
            raise ValueError(f"Got ensemble={ensemble}. Give at least 1 network.")
        self.prior, self._seed, self._ensemble = prior, seed, ensemble
        self.space = ParameterSpace(prior)
        size, dtype = self.space.size, self.space.dtype
        architecture = (size, shape, num_blocks, affine_layers, tuple(hidden), coefficient, dtype)
        self._architecture = None if summary is not None else architecture
        self.model = PosteriorModel(self, **_model_arguments(*architecture, summary=summary, seed=seed), name=name)
        network: Any = self.model.condition.network
        self._linear = None if summary is not None else network.get_layer("linear")
        self._choice = None  # the layer that selects the input of the default summary of series
        if summary is None and any(layer.name == "choice" for layer in network.layers):
            self._choice = network.get_layer("choice")
        self._initial_weights = self.model.get_weights()
        self._decoder = Decoder(self.model.flow)
        self._given: Any = None  # the initial weights of a given summary
        self._training: Any = None  # of the model, if it has a given summary
        self._weight_decays: Any = None  # a list of the best one, after a fit
        each = [num or 1 for num in shape]
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
        batch_size: int = 64,
        epochs: int | None = None,
        learning_rate: float = 1e-2,
        weight_decays: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
        validation_fraction: float = 0.1,
        drop_invalid: bool = True,
        warm_start: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Any = "auto",
    ) -> keras.callbacks.History:
        """Trains with increasing weight decay while this helps, and keeps the weights with the best held-out loss.

        The parameters must be draws of the prior, or of `proposal(x)`, or both. Then the posterior of x is right.
        Draws of the posterior would count the likelihood twice.

        Give it the pairs of all rounds. Weight decay blurs sharp posteriors, such as crescents. Without it, long
        observations and many parameters overfit. The first network chooses it in trainings with a third of the
        epochs. The optimizer is AdamW. Its learning rate increases over the first quarter of the steps, and then
        decays to zero along a cosine. A training stops when the held-out loss has not decreased for three quarters
        of the steps, or, with a warning, when it diverges. A warning says if the posteriors of held-out pairs are
        clearly miscalibrated.

        Args:
          theta: parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: observations `[num, *condition_shape]` that were simulated with `theta`. Sets of different sizes are
            filled up with NaN.
          batch_size: number of pairs of a step.
          epochs: maximum number of passes over the training pairs. By default, chosen to give about
            30 sqrt(num) steps, but at most 4,000.
          learning_rate: maximum learning rate.
          weight_decays: weight decays of AdamW to try, in this order, until one is worse.
          validation_fraction: fraction of the pairs that is held out.
          drop_invalid: whether to leave out pairs whose observation contains NaN or infinity, with a warning.
            Otherwise, they are an error. Without them, the posterior is that given that the simulation succeeds.
          warm_start: whether to continue from the weights and the weight decay of the last fit, for more pairs or
            epochs. By default, each call starts from initial weights. The statistics of the observations stay as
            they are, and `epochs` is smaller by default. Keep the order of the former pairs, and append the others:
            then the same pairs are held out.
          callbacks: Keras callbacks whose methods for the beginning and the end of a training and for the end of an
            epoch are called in the training of each network.
          verbose: 0 hides the progress bar, which counts the steps of all trainings.

        Returns:
          The history of the first network, a `keras.callbacks.History`.
        """
        x, is_valid = self._shaped(x, extra_ranks=(1,))
        theta = self.space.events(theta, len(x))
        self.space.check_drawn(theta)
        theta = self.space.vectors(theta, len(x))
        checked_rows(is_valid, drop_invalid)
        theta, x = theta[is_valid], x[is_valid]
        check_varying(theta, "theta")
        self._warn_of_constants(x, warm_start)
        is_held_out = _held_out(len(x), validation_fraction, self._seed)
        order = np.random.default_rng(self._seed).permutation(len(x))  # the first pairs initialize and check
        places = order[~is_held_out[order]], order[is_held_out[order]]
        kept, held_out = ((theta[own], x[own]) for own in places)
        networks, warm_start = self._networks(), warm_start and self._is_fitted()
        num_networks = self._ensemble or (_MEMBERS if len(x) <= _FEW_PAIRS else 1)
        if warm_start:
            num_networks, weight_decays = len(networks), self._weight_decays or weight_decays
        batch_size = min(batch_size, len(kept[0]))
        if epochs is None:
            num = min(_STEPS * math.sqrt(len(x)), _MOST_STEPS) * (_WARM_SHARE if warm_start else 1)
            epochs = math.ceil(num * batch_size / len(kept[0]))
        training, trained, history = self._repeated_training(batch_size, x.shape[1:]), [], None
        choices = (0.0,) if self._choice is None or warm_start else (0.0, 1.0)
        num_trials = len(choices) * len(weight_decays)
        num_trials, few = (num_trials if num_trials > 1 else 0), max(1, epochs // _TRIAL)
        steps = -(-len(kept[0]) // batch_size)
        total = (num_trials * few + num_networks * epochs) * steps
        with training.lock, progress_bar(bool(verbose), total=total, unit="step", leave=False) as bar:

            def train(seed, weight_decay, epochs, callbacks=()):
                training.model.optimizer.weight_decay.assign(weight_decay)
                rates = learning_rates(epochs * steps, learning_rate, _WARMUP)
                return self._train(training, kept, held_out, rates, epochs, [seed, epochs], callbacks, bar)

            def trials():
                for choice in choices:
                    if not warm_start:
                        self._initialize(0, kept, held_out, choice)
                    loss = lambda each: train(self._seed, each, few)[1].loss  # noqa: E731
                    yield *_first_best(weight_decays, loss), choice

            try:
                bar.set_description_str(f"network 1 of {num_networks}")
                choice = choices[0]
                if warm_start:
                    self.model.set_weights(networks[0])
                if num_trials:
                    _, weight_decay, choice = min(trials())
                    weight_decays = [weight_decay]
                for place in range(num_networks):
                    bar.set_description_str(f"network {place + 1} of {num_networks}")
                    if warm_start:
                        self.model.set_weights(networks[place])
                    else:
                        self._initialize(place, kept, held_out, choice)
                    seed = self._seed + place
                    *candidates, found = train(seed, weight_decays[0], epochs, callbacks)
                    best = min(candidates, key=lambda candidate: candidate.loss)
                    assign(member_variables(self.model)[: len(best.values)], best.values)
                    layers.converge_norms(self.model)
                    history = history or found
                    trained.append(self.model.get_weights())
            finally:
                if trained:
                    self._assign(trained, x)
        self._weight_decays = weight_decays
        self._warn_of_miscalibration(*held_out)
        return history

    def _train(self, training, kept, held_out, rates, epochs, seeds, callbacks, bar):
        """Trains from the weights of the model. Returns these and the best weights as `Best`, and the history."""
        start = values_of(member_variables(self.model)[: len(training.variables)])  # not the estimator's state
        steps, history, first, order = len(rates), keras.callbacks.History(), bar.n, np.random.default_rng(seeds)
        places = draw_rows(np.ones(len(kept[0])), steps * training.batch_size, order).reshape(steps, -1)
        each = keras.callbacks.CallbackList([*callbacks, history], model=training.model)

        def batches(chosen):
            draws = order.integers(2**31, size=[len(chosen), 2], dtype=np.int32)
            return *(part[places[chosen]] for part in kept), draws

        def held_out_loss():
            return float(np.nan_to_num(-training.log_probs(*held_out).mean(), nan=np.inf))

        def report(step, loss):
            each.on_epoch_end(len(history.epoch), {"val_loss": loss})
            bar.update(first + step - bar.n)
            return training.model.stop_training

        training.model.stop_training = False
        training.start(start)
        before = Best(held_out_loss(), 0, start)
        each.on_train_begin()
        rounds = np.array_split(np.arange(steps), epochs)
        best = training.run(rounds, batches, rates, held_out_loss, _PATIENCE * steps, report=report)
        each.on_train_end()
        bar.update(first + steps - bar.n)
        return before, best, history

    def _repeated_training(self, batch_size, shape):
        """Returns the training of the same architecture, or of the model, if it has a given summary."""
        if self._architecture is not None:
            return _shared_training(*self._architecture, batch_size)
        training = self._training
        if training is None or (training.batch_size, training.condition_shape) != (batch_size, shape):
            model = FlowModel(**super(PosteriorModel, self.model).parameters)
            self._training = _make_training(model, batch_size, shape)
        return self._training

    def _networks(self):
        """Returns the weights of the networks of the ensemble."""
        with tf.init_scope():
            weights, others = self.model.get_weights(), self.state["others"].numpy()
        ends = np.cumsum([weight.size for weight in weights])
        rows = np.reshape(others, [-1, ends[-1]])
        split = [np.split(row, ends[:-1]) for row in rows]
        members = [
            [np.reshape(v, w.shape).astype(w.dtype) for v, w in zip(row, weights, strict=True)] for row in split
        ]
        return [weights, *members]

    def _assign(self, networks, x):
        """Sets the weights of the networks of the ensemble, and how far the observations of their training are."""
        self.model.set_weights(networks[0])
        others = [np.concatenate([np.ravel(weight) for weight in weights]) for weights in networks[1:]]
        self.state["others"].assign(np.concatenate([np.zeros(0), *others]))
        axes = tuple(i for i, size in enumerate((None, *self.model.condition.shape)) if size is None)
        farthest = np.nanmax(np.abs(self._standardized(x)), axis=axes, keepdims=True)
        self.state["farthest"].assign(farthest[0])

    def posterior(self, x: TensorLike) -> ParameterDistribution:
        """Returns the posterior for an observation `[*condition_shape]` or a batch `[batch, *condition_shape]`.

        It is a `tfd.Distribution` with the methods `map_estimate` and `to_arviz`, and differentiable in x. Later
        training does not change it. An observation that is much farther from the median than those of the training
        gives a warning. In a `tf.function`, there is no such warning, the weights are those at the time of tracing,
        and NaN or infinity in x raises an InvalidArgumentError.
        """
        if not self._is_fitted():
            raise ValueError("The estimator is not fitted. Call fit(theta, x), or load a fitted estimator.")
        x = self._checked(x)
        flow = with_log_det_estimator(self.model.flow, Exact())
        parts = [self._network_posterior(flow, x, weights) for weights in self._networks()]
        distributions, conditions = zip(*parts, strict=True)
        mixture = EqualMixture(distributions, conditions)
        return ParameterDistribution(mixture, self.space.bijector, self.prior, "posterior")

    def _checked(self, x):
        """Returns observations as a tensor, after checks and warnings, or with an assertion in a graph."""
        shape = self.model.condition.shape
        value = tf.get_static_value(x) if tf.is_tensor(x) else x
        if value is not None:
            observations = self._observations(value, extra_ranks=(0, 1))
            self._warn_of_far_observations(observations)
            self._warn_of_changed_constants(observations)
            return tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.constant(observations)
        rank = (x.shape.rank or 0) - len(shape)
        if rank not in (0, 1) or not x.shape[rank:].is_compatible_with(shape):
            raise ValueError(_wrong_shape(x, shape, "an optional"))
        is_valid = tf.math.is_finite(x) | (shape[0] is None)
        check = tf.debugging.Assert(tf.reduce_all(is_valid), ["Found NaN or infinity in an observation:", x])
        with tf.control_dependencies([check]):
            return tf.cast(x, tf.float64)

    def _network_posterior(self, flow, x, weights):
        """Returns the distribution of vectors with these weights, and the conditions of its flow."""
        condition: Any = self.model.condition
        base, is_batch = self.model.distribution.distribution, x.shape.rank > len(condition.shape)
        with tf.init_scope():
            values = [*zip(self.model.weights, map(tf.constant, weights), strict=True)]
        mean, std = self._statistics()
        standardized = tf.cast((x - mean) / std, base.dtype)
        with keras.StatelessScope(state_mapping=values):
            features = condition.network(standardized if is_batch else standardized[tf.newaxis])
            given = features if is_batch else features[0]
            flow = frozen(flow, self._decoder, condition=given)
        if is_batch:
            shape = given.shape[:-1]
            base = tfd.BatchBroadcast(base, shape if shape.is_fully_defined() else tf.shape(given)[:-1])
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
        theta = self.space.events(theta, len(x))
        self.space.vectors(theta, len(x))  # raises for wrong parameters
        return theta, x

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
        events = self.space.bijector.forward(tf.constant(theta[:_CHECKED]))
        calibration = self._calibration(events, x[:_CHECKED], _CHECK_DRAWS, self._seed)
        if calibration.p_value < _CHECK_LEVEL:
            warnings.warn(
                f"The posteriors of held-out pairs are miscalibrated. {calibration} Fit to more pairs, train "
                "longer, or use a larger ensemble.",
                stacklevel=3,
            )

    def _warn_of_constants(self, x, warm_start):
        """Warns of elements without information: the network ignores them, because their scale is infinite."""
        if warm_start and self._is_fitted():
            self._warn_of_changed_constants(x)
            return
        place, count = _first(np.isinf(_statistics(x, self.model.condition.shape)["std"]))
        if count:
            warnings.warn(
                f"The element {place} of the observations has the same value in all pairs, like {count - 1:,} "
                "others. The network ignores it. Vary it in the simulations if it can have other values.",
                stacklevel=3,
            )

    def _warn_of_changed_constants(self, x):
        mean, std = self._statistics()
        place, count = _first(np.isinf(std) & ~np.isnan(x) & ~np.isclose(x, mean, rtol=_SAME, atol=0.0))
        if count:
            constant = np.broadcast_to(mean, x.shape)[tuple(place)]
            warnings.warn(
                f"x{place} is {x[tuple(place)]:.6g}, but was {constant:.6g} in all pairs of the training. The "
                "network ignores it. Simulate with other values of it, and fit again without warm_start.",
                stacklevel=4,
            )

    def _warn_of_far_observations(self, x):
        distances = np.abs(np.nan_to_num(self._standardized(x)))
        ratios = distances / np.maximum(self._farthest(), 1.0)
        if ratios.max(initial=0.0) > _FAR:
            place = np.unravel_index(ratios.argmax(), ratios.shape)
            warnings.warn(
                f"The observation is far outside of the training data: x{[int(i) for i in place]} is "
                f"{distances[place]:.3g} standard deviations from the median, {ratios[place]:.3g} times as far as "
                "in the training. The posterior is unreliable. Check the simulator and the prior.",
                stacklevel=4,
            )

    def _standardized(self, x):
        """Returns the difference of each element from the median, in robust standard deviations."""
        mean, std = self._statistics()
        return (x - mean) / std

    def _statistics(self):
        """Returns the medians and scales of the observations, also in a `tf.function`."""
        with tf.init_scope():
            return [self.model.condition.statistics[name].numpy() for name in ("mean", "std")]

    def _is_fitted(self):
        return bool(np.all(np.isfinite(self._farthest())))

    def _farthest(self):
        """Returns the largest standardized distance of each element in the training, infinite before a fit."""
        with tf.init_scope():
            return self.state["farthest"].numpy()

    def _initialize(self, place, kept, held_out, choice):
        """Sets the initial weights of a network. All networks share those of a given summary, and the `choice`."""
        summary = self.parameters["summary"]
        if summary is not None and self._given is None:  # at the first fit, after weights were loaded
            self._given = summary.get_weights()
        self.model.set_weights(permuted(self._initial_weights, np.random.default_rng([self._seed, place])))
        if summary is not None:
            summary.set_weights(self._given)
        if self._choice is not None:
            self._choice.is_second.assign([choice])
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

    def _observations(self, x, extra_ranks):
        """Returns observations in float64, after checking that they are finite in the model's dtype."""
        x, is_valid = self._shaped(x, extra_ranks)
        checked_rows(np.atleast_1d(is_valid), drop=False)
        return x

    def _shaped(self, x, extra_ranks):
        """Returns observations in float64 after checking their shape, and which are finite in the model's dtype."""
        x = np.asarray(as_array(x, "x"), np.float64)
        shape = self.model.condition.shape
        rank = x.ndim - len(shape)
        if rank not in extra_ranks or not tf.TensorShape(x.shape[rank:]).is_compatible_with(shape):
            raise ValueError(_wrong_shape(x, shape, "a" if extra_ranks == (1,) else "an optional"))
        if not x.size:
            raise ValueError("x is empty. Give at least one observation.")
        is_valid = np.abs(x) <= self.model.distribution.dtype.max
        if shape[0] is None:
            is_absent = np.isnan(x).all(axis=tuple(range(rank + 1, x.ndim)), keepdims=True)
            is_valid |= is_absent & ~is_absent.all(axis=rank, keepdims=True)
        return x, is_valid.all(axis=tuple(range(rank, x.ndim)))


def _checked_shape(shape, summary):
    """Returns the shape of an observation as a tuple, if it is one and fits the summary."""
    sizes = list(shape) if isinstance(shape, (list, tuple, tf.TensorShape)) else []
    is_set = sizes[:1] == [None]
    if not sizes[is_set:] or not all(isinstance(size, int) and size > 0 for size in sizes[is_set:]):
        raise ValueError(
            f"Got condition_shape={shape!r}. Give the shape of an observation, such as [100], or [None, *shape] "
            "for sets of observations."
        )
    if summary is None and is_set:
        raise ValueError("Sets of observations need a summary, such as tf_resflow.sbi.set_summary.")
    given = getattr(summary, "input_shape", None)
    if isinstance(given, tuple) and not tf.TensorShape(given[1:]).is_compatible_with(sizes):
        raise ValueError(f"The summary expects observations {given[1:]}, but condition_shape is {sizes}.")
    output = () if summary is None else summary.compute_output_shape((None, *sizes))[1:]
    if summary is not None and len(output) != 1:
        raise ValueError(f"The summary returns arrays {output} for observations {sizes}. It must return vectors.")
    return tuple(sizes)


def _first(mask):
    """Returns the index of the first true element, and the number of true elements."""
    return [int(i) for i in np.unravel_index(mask.argmax(), mask.shape)], np.count_nonzero(mask)


def _wrong_shape(x, shape, optional):
    return f"x has the shape {x.shape}. Give observations of shape {shape} after {optional} batch axis."


def _held_out(num, fraction, seed):
    """Returns which of `num` pairs are held out: one of each 1 / fraction, and the same ones if pairs are added."""
    num_held_out = int(fraction * num)
    if not 1 <= num_held_out < num - 1:
        raise ValueError(
            f"validation_fraction={fraction} of {num} pairs holds out {num_held_out}. Hold out at least one pair, "
            "and keep at least two."
        )
    ends = (np.arange(num_held_out + 1) / fraction).astype(int)
    draws = np.random.default_rng(seed).random(num_held_out)
    is_held_out = np.zeros(num, bool)
    is_held_out[(ends[:-1] + draws * np.diff(ends)).astype(int)] = True
    return is_held_out


def _first_best(values, loss):
    """Returns the least loss and its value, among those up to the first that is worse than the one before it."""
    losses: list[float] = []
    for value in values:
        losses.append(loss(value))
        if len(losses) > 1 and losses[-1] > losses[-2]:
            break
    return min(losses), values[int(np.argmin(losses))]


def _model_arguments(size, shape, num_blocks, affine_layers, hidden, coefficient, dtype, *, summary=None, seed=0):
    """Returns the arguments of a `FlowModel` of vectors given observations, see `PosteriorEstimator`."""
    if summary is None:
        summary = vector_summary(shape, num_linear=size, seed=seed, dtype=dtype)
    num_features = summary.compute_output_shape((None, *shape))[-1]
    layer = keras.layers.Dense(size * (size + 3) // 2, kernel_initializer="zeros", dtype=dtype)
    network = keras.Sequential([keras.Input([num_features], dtype=dtype), layer], name="affine")
    options: dict[str, Any] = {"activation": "cpila", "coefficient": coefficient, "seed": seed, "dtype": dtype}
    options |= {"condition_size": num_features, "inverse_solver": Anderson(atol=_TOLERANCE)}
    blocks = vector_flow(size, num_blocks, hidden, affine_layers=(affine_layers, 0), **options)
    scale = Normalize(np.zeros(size), np.ones(size), dtype, name="scale")
    each = [num or 1 for num in shape]  # the observations of a set share their statistics
    condition = {"condition_mean": np.zeros(each), "condition_std": np.ones(each), "condition_network": summary}
    flow = Flow([scale, ConditionalAffine(network), blocks])
    return {"flow": flow, "event_shape": [size], "condition_shape": shape, "seed": seed, **condition}


def _make_training(model, batch_size, shape):
    optimizer = Adam(1.0, weight_decay=tf.Variable(0.0), global_clipnorm=1.0)
    return RepeatedTraining(model, optimizer, batch_size, shape, tf.float64)


@functools.lru_cache(maxsize=4)
def _shared_training(*arguments):
    """Returns the training that all estimators with this architecture and batch size in a process share."""
    *architecture, batch_size = arguments
    gc.collect()  # frees the graphs that are no longer shared, which are in reference cycles
    return _make_training(FlowModel(**_model_arguments(*architecture)), batch_size, architecture[1])


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
    """Returns each element's median and scale: by quartiles, or the standard deviation if they are equal.

    The scale of a constant is infinite, so that the network ignores it.

    The elements of a set, with the size None in `shape`, share them.
    """
    x = x.reshape([-1, *shape[1:]]) if shape[:1] == (None,) else x
    low, median, high = np.nanquantile(x, [0.25, 0.5, 0.75], axis=0)
    robust, spread = (high - low) / _QUARTILES, np.nanmax(x, axis=0) - np.nanmin(x, axis=0)
    scale = np.where(robust > 0, robust, np.nanstd(x, axis=0))
    found = {"mean": median, "std": np.where(spread > _ROUNDING * np.abs(median), scale, np.inf)}
    return {name: np.reshape(value, [num or 1 for num in shape]) for name, value in found.items()}
