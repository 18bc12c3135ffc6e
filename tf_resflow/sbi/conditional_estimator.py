"""The density of events given observations, learned from pairs: the core of posterior and likelihood estimators."""

import functools
import gc
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.typing import TensorLike
from tf_resflow.bijectors import with_log_det_estimator
from tf_resflow.evaluation.calibration import Calibration
from tf_resflow.logdet import Exact
from tf_resflow.models.ensemble import Ensemble
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.optimizers import Adam
from tf_resflow.models.repeated_training import RepeatedTraining, assign, values_of
from tf_resflow.sbi.observations import Observations, checked_shape
from tf_resflow.sbi.pair_training import Pairs, PairTraining, split_pairs
from tf_resflow.sbi.parameters import ParameterSpace
from tf_resflow.sbi.posterior import EqualMixture, ParameterDistribution
from tf_resflow.sbi.posterior_model import PosteriorModel, model_arguments
from tf_resflow.sbi.regression import begin_at_regression
from tf_resflow.vi.neutra import Decoder, frozen

tfb = tfp.bijectors
tfd = tfp.distributions

_STEPS = 30  # times the square root of the number of pairs: steps of a training
_MOST_STEPS = 4000
_WARM_SHARE = 0.3  # of these steps in a training from earlier weights
_MEMBERS = 5  # default size of an ensemble
_FEW_PAIRS = 20_000  # largest number of pairs for it
_CHECKED = 500  # held-out pairs whose calibration is checked after a fit
_CHECK_DRAWS = 30
_CHECK_LEVEL = 1e-4  # p-value below which there is a warning
_AT_ONCE = 200_000  # coordinates of draws, whose Jacobians need memory


class ConditionalEstimator:
    """The density of events, given observations, as an ensemble of conditional flows of unconstrained vectors.

    For a posterior, the events are parameters. For a likelihood, the events are observations of the simulator, and
    the parameters take the role of the observations here.

    Args:
      estimator: The estimator that users see. It is saved with the model.
      space: The `ParameterSpace` of the events.
      condition_shape: See `PosteriorEstimator`, also for the other arguments.

    Attributes:
      model: The conditional `FlowModel` of the vectors given the observation; of an ensemble, the first one.
      ensemble: The `Ensemble` with the weights of all members.
      observations: The `Observations`.
    """

    def __init__(
        self,
        estimator: Any,
        space: ParameterSpace,
        condition_shape: Sequence[int | None],
        *,
        summary: keras.Layer | None = None,
        num_blocks: int,
        affine_layers: int,
        hidden: Sequence[int],
        coefficient: float,
        ensemble: int | None,
        seed: int,
        name: str,
    ):
        shape = checked_shape(condition_shape, summary)
        if ensemble is not None and ensemble < 1:
            raise ValueError(f"Got ensemble={ensemble}. Give at least 1 network.")
        self.space = space
        self._num_members = ensemble
        self._seed = seed
        self._architecture = (space.size, shape, num_blocks, affine_layers, tuple(hidden), coefficient, space.dtype)
        self._model_arguments = model_arguments(*self._architecture, summary=summary, seed=seed)
        self.model = PosteriorModel(estimator, self, **self._model_arguments, name=name)
        self.ensemble = Ensemble(self.model)
        condition: Any = self.model.condition
        self.observations = Observations(condition, self.model.distribution.dtype)
        self._summary = summary  # None for the default summary
        self._initial_summary: Any = None  # the weights of a given summary at the first fit
        self._has_choice = summary is None and any(layer.name == "choice" for layer in condition.network.layers)
        self._training: Any = None  # of a given summary
        self._weight_decay: float | None = None  # the best one of the last fit
        self._decoder = Decoder(self.model.flow)

    def to_json(self) -> dict[str, Any]:
        """Returns the state of a fit that is not in the weights and the statistics of the model."""
        return {
            "farthest": self.observations.farthest.tolist(),
            "members": self.ensemble.to_json(),
            "weight_decay": self._weight_decay,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a result of `to_json`."""
        self.ensemble.restore(state["members"])
        self.observations.farthest = np.asarray(state["farthest"])
        self._weight_decay = state["weight_decay"]

    def fit(
        self,
        vectors: np.ndarray,
        x: np.ndarray,
        *,
        batch_size: int = 64,
        epochs: int | None = None,
        learning_rate: float = 1e-2,
        weight_decays: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Any = "auto",
    ) -> keras.callbacks.History:
        """Trains on checked pairs of unconstrained vectors and observations. See `PosteriorEstimator.fit`."""
        is_warm = warm_start and self.observations.is_fitted
        self.observations.warn_of_constants(x, is_warm=is_warm)
        kept, held_out = split_pairs(Pairs(vectors, x), validation_fraction, self._seed)
        batch_size = min(batch_size, len(kept.x))
        if epochs is None:
            num_steps = min(_STEPS * math.sqrt(len(x)), _MOST_STEPS) * (_WARM_SHARE if is_warm else 1)
            epochs = math.ceil(num_steps * batch_size / len(kept.x))
        repeated = self._repeated_training(batch_size, x.shape[1:])
        if is_warm:
            start = self._warm_start()
            num_members = len(self.ensemble.members)
            choices = [0.0]
            weight_decays = weight_decays if self._weight_decay is None else [self._weight_decay]
        else:
            start = functools.partial(self._cold_start, repeated, kept, held_out)
            num_members = self._num_members or (_MEMBERS if len(x) <= _FEW_PAIRS else 1)
            choices = [0.0, 1.0] if self._has_choice else [0.0]
        num_candidates = len(choices) * len(weight_decays)
        options: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "seed": self._seed}
        training = PairTraining(repeated, kept, held_out, **options)
        members: list[list[np.ndarray]] = []
        histories = []
        with repeated.lock, training.progress(num_candidates, num_members, bool(verbose)):
            try:
                choice, weight_decay = training.best_setting(start, choices, weight_decays)
                for index in range(num_members):
                    initial_weights = start(index, choice)
                    weights, history = training.train_member(initial_weights, weight_decay, index, callbacks)
                    members.append(weights)
                    histories.append(history)
            finally:
                if members:
                    self._keep(members, x)
        self._weight_decay = float(weight_decay)
        self._warn_of_miscalibration(held_out)
        return histories[0]

    def _warm_start(self):
        """Returns a function that returns the values of the variables of a member of the last fit."""
        members = self.ensemble.members
        statistics = values_of(self.model.statistics.values())
        return lambda index, choice: [*members[index], *statistics]

    def _cold_start(self, repeated, kept, held_out, index, choice):
        """Returns initial values of the variables. All members share those of a given summary, and the `choice`."""
        model = repeated.model
        network = model.condition.network
        is_given = self._summary is not None
        if is_given and self._initial_summary is None:  # at the first fit, after weights were loaded
            self._initial_summary = network.get_weights()
        model.set_weights(self.ensemble.initial_weights([self._seed, index]))
        if is_given:
            network.set_weights(self._initial_summary)
        if self._has_choice:
            network.get_layer("choice").is_second.assign([choice])
        begin_at_regression(model, kept, held_out, self._seed, has_default_summary=not is_given)
        return values_of(repeated.variables)

    def _repeated_training(self, batch_size, shape):
        """Returns the training of this architecture. Estimators share it unless they have a given summary."""
        if self._summary is None:
            return _shared_training(*self._architecture, batch_size)
        training = self._training
        if training is None or (training.batch_size, training.condition_shape) != (batch_size, shape):
            self._training = _make_training(FlowModel(**self._model_arguments), batch_size, shape)
        return self._training

    def _keep(self, members, x):
        """Keeps the values of the variables of trained members, and what is known of their observations."""
        num_weights = len(self.model.weights)
        statistics = members[0][num_weights:]
        self.ensemble.members = [values[:num_weights] for values in members]
        assign(self.model.statistics.values(), statistics)
        self.observations.learn_distances(x)

    def distribution(self, x: TensorLike, name: str) -> ParameterDistribution:
        """Returns the distribution of events for an observation or a batch of them. See `PosteriorEstimator`."""
        if not self.observations.is_fitted:
            raise ValueError("The estimator is not fitted. Call fit(theta, x), or load a fitted estimator.")
        x = self.observations.as_tensor(x)
        flow = with_log_det_estimator(self.model.flow, Exact())
        pairs = [self._distribution_of_member(flow, x, weights) for weights in self.ensemble.members]
        distributions, conditions = zip(*pairs, strict=True)
        mixture = EqualMixture(distributions, conditions)
        return ParameterDistribution(mixture, self.space.bijector, self.space.prior, name)

    def _distribution_of_member(self, flow, x, weights):
        """Returns the distribution of vectors with these weights, and the conditions of its flow."""
        condition: Any = self.model.condition
        base = self.model.distribution.distribution
        is_batch = x.shape.rank > len(condition.shape)
        with tf.init_scope():
            constants = [tf.constant(values) for values in weights]
        state = list(zip(self.model.weights, constants, strict=True))
        standardized = tf.cast(self.observations.standardized(x), base.dtype)
        with keras.StatelessScope(state_mapping=state):
            features = condition.network(standardized if is_batch else standardized[tf.newaxis])
            flow_condition = features if is_batch else features[0]
            flow = frozen(flow, self._decoder, condition=flow_condition)
        if is_batch:
            shape = features.shape[:-1]
            base = tfd.BatchBroadcast(base, shape if shape.is_fully_defined() else tf.shape(features)[:-1])
        return tfd.TransformedDistribution(base, tfb.Invert(flow)), features

    def chunks(self, events: Any, x: np.ndarray, num_draws: int = 1) -> Iterator[tuple[ParameterDistribution, Any]]:
        """Generates the distribution for the next observations, with their events, in chunks that fit in memory."""
        size = max(1, _AT_ONCE // (num_draws * self.space.size))
        events = tf.nest.map_structure(lambda values: tf.cast(values, self.model.distribution.dtype), events)
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            yield (
                self.distribution(x[rows], "posterior"),
                tf.nest.map_structure(lambda values, rows=rows: values[rows], events),
            )

    def calibration(self, events: Any, x: np.ndarray, num_draws: int, seed: int) -> Calibration:
        """Returns the `Calibration` of the distributions for checked observations, given the events."""
        draws = []
        log_probs_of_draws = []
        log_probs = []
        for index, (distribution, events_of_chunk) in enumerate(self.chunks(events, x, num_draws)):
            draws.append(distribution.sample(num_draws, seed=stateless_seed([seed, index])))
            log_probs_of_draws.append(distribution.log_prob(draws[-1]))
            log_probs.append(distribution.log_prob(events_of_chunk))
        all_draws = tf.nest.map_structure(lambda *chunks: np.concatenate(chunks, axis=1), *draws)
        all_log_probs_of_draws = np.concatenate(log_probs_of_draws, axis=1)
        return Calibration(all_draws, events, all_log_probs_of_draws, np.concatenate(log_probs), seed=seed)

    def _warn_of_miscalibration(self, held_out):
        events = self.space.bijector.forward(tf.constant(held_out.vectors[:_CHECKED]))
        calibration = self.calibration(events, held_out.x[:_CHECKED], _CHECK_DRAWS, self._seed)
        if calibration.p_value < _CHECK_LEVEL:
            warnings.warn(
                f"The posteriors of held-out pairs are miscalibrated. {calibration} Fit to more pairs, train "
                "longer, or use a larger ensemble.",
                stacklevel=4,
            )


def _make_training(model, batch_size, shape):
    optimizer = Adam(1.0, weight_decay=tf.Variable(0.0), global_clipnorm=1.0)
    return RepeatedTraining(model, optimizer, batch_size, shape, tf.float64)


@functools.lru_cache(maxsize=4)
def _shared_training(*arguments):
    """Returns the training that all estimators with this architecture and batch size in a process share."""
    *architecture, batch_size = arguments
    gc.collect()  # frees the graphs that are no longer shared, which are in reference cycles
    return _make_training(FlowModel(**model_arguments(*architecture)), batch_size, architecture[1])
