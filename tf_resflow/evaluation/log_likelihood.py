"""Estimates log-likelihoods and their standard errors, of examples and of data sets."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors
from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.typing import LogDet, Seed, TensorLike
from tf_resflow.evaluation.log_prob_samples import LogProbSamples
from tf_resflow.evaluation.scores import PerExample
from tf_resflow.logdet import Exact, default_estimator
from tf_resflow.models import FlowModel

NUM_SAMPLES = 8
"""The default number of estimates for a scored or served log-likelihood."""

_MOST_SAMPLES = 8192


class LogProbEstimate(NamedTuple):
    """The estimated log-likelihood of each example, in nats, and its standard error.

    The standard error is measured from `num` estimates, 8 by default. The 95 % interval therefore extends
    `scipy.stats.t.ppf(0.975, num - 1)` standard errors to each side: 2.36 for 8.
    """

    log_prob: tf.Tensor
    stderr: tf.Tensor


class Score(NamedTuple):
    """A mean over examples, its standard error, and the root mean square of the examples' standard errors."""

    mean: float
    stderr: float
    num_examples: int
    example_stderr: float | None = None


class LogLikelihood:
    r"""Estimates the log-likelihood of a data set, or of each of its examples.

    The log-likelihood of an example is the mean of K estimates of log p(x). With `importance_weighted`,
    it is instead an estimate of the bound

        log P(x) >= E log (1 / K) sum_k p((x + u_k) / L) / (L^D q(u_k | x)),

    with q = 1 for uniform noise. At K = 1 this is the usual bound. As K grows, it never loosens in expectation, and
    tends to log P(x). It holds only for exact log-determinants: noise with variance \\(\sigma^2\\), in nats, raises
    it by up to about \\(\sigma^2 / 2\\).

    ```python
    import numpy as np, tf_resflow as resflow

    model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,)), 2)
    likelihood = resflow.evaluation.LogLikelihood(model)
    x = np.zeros([5, 2], "float32")
    log_prob, stderr = likelihood.estimate(x, seed=0)
    score = likelihood.score([x[:3], x[3:]], seed=0)
    print(log_prob.shape, stderr.numpy(), score.num_examples)
    # (5,) [0. 0. 0. 0. 0.] 5
    ```

    Args:
      model: A `FlowModel`.
      num_samples: K. The default is 1 for `score` and `by_class`, and 8 for `estimate` and `score_examples`.
      stderr: The standard error that an example should have, in nats, instead of `num_samples`. Each call of
        `estimate`, `by_class`, `score` or `score_examples` uses the number of `required_samples`. To convert from
        bits/dim, multiply by `model.data_space.nats_per_unit`.
      log_det_estimator: An estimator of log-determinants, or a dict of estimators by block
        (`tf_resflow.bijectors.with_log_det_estimator`): {} keeps the blocks' own estimators, those of training. The
        default is the model's evaluation estimator. With `stderr`, it is `Exact` for vectors of up to 256
        coordinates, because many estimates would cost more.
      importance_weighted: Whether to estimate the bound. Requires integer data.
      strategy: `tf.distribute.Strategy` whose replicas share a batch; by default, the current strategy.

    Attributes:
      num_samples: As given, or None.
      log_det_estimator: The estimator of log-determinants in use.

    Raises:
      ValueError: If both `num_samples` and `stderr` are given, if `stderr` is not positive and finite, or if
        `importance_weighted` is set and the data are not dequantized.

    References:
      Burda et al., "Importance Weighted Autoencoders" (2016), Theorem 1.
      Ho et al., "Flow++" (2019), section 3.1: the same bound with a learned dequantization.
    """

    def __init__(
        self,
        model: FlowModel,
        *,
        num_samples: int | None = None,
        stderr: float | None = None,
        log_det_estimator: LogDet | None = None,
        importance_weighted: bool = False,
        strategy: tf.distribute.Strategy | None = None,
    ):
        if stderr is not None and num_samples is not None:
            raise ValueError(f"Got both num_samples={num_samples} and stderr={stderr}. Pass only one of them.")
        if stderr is not None and not 0 < stderr < math.inf:
            raise ValueError(f"stderr={stderr} is not a positive, finite number of nats. Pass one, such as 0.1.")
        if importance_weighted and stderr is not None:
            raise ValueError(
                f"Got stderr={stderr}, but the importance-weighted bound depends on the number of samples. Pass "
                "num_samples instead."
            )
        if importance_weighted and model.data_space.levels is None:
            raise ValueError(
                "Continuous data are not dequantized, so they have no importance-weighted bound. "
                "Leave out importance_weighted."
            )
        self._model = model
        self.num_samples = num_samples
        self._stderr = stderr
        if log_det_estimator is None:
            log_det_estimator = model.evaluation_log_det_estimator if stderr is None else _precise_estimator(model)
        self.log_det_estimator: Any = log_det_estimator
        self._importance_weighted = importance_weighted
        self._strategy = strategy
        self._score_functions: dict[int, PerExample] = {}  # by the number of estimates

    def estimate(self, x: TensorLike, seed: Seed = None, condition: TensorLike | None = None) -> LogProbEstimate:
        """Estimates the log-likelihood of each example of a batch, and the standard error of each estimate.

        Args:
          x: Examples `[batch, *event_shape]`.
          seed: An integer or a seed `[2]`.
          condition: Condition of a conditional model, as for `FlowModel.log_prob`.

        Returns:
          A `LogProbEstimate` with `log_prob` and `stderr`, each `[batch]`. The standard error is measured by
          repetition. It is 0 without noise, and NaN for a single noisy estimate or where `log_prob` is -inf.
        """
        self._model.condition.check_given(condition)
        samples = self._samples(self._num_samples(NUM_SAMPLES, x, condition))
        return self._mean(samples, samples(x, seed, condition))

    def by_class(self, x: TensorLike, seed: Seed = None) -> tf.Tensor:
        r"""Estimates the log-likelihood of each example under each class, for a model whose condition is a label.

        By Bayes' rule, softmax over the classes gives \\(p(y \mid x)\\) if all classes are equally frequent.
        Otherwise, add the logarithms of their frequencies first.

        Args:
          x: Examples `[batch, *event_shape]`.
          seed: An integer or a seed `[2]`.

        Returns:
          Log-likelihoods `[batch, num_classes]`, in nats.

        Raises:
          ValueError: If the model's condition is not a label.
        """
        if self._model.condition.num_classes is None:
            raise ValueError(
                f"The model {self._model.name!r} has no classes. Pass a model that was built with num_classes=."
            )
        samples = self._samples(self._num_samples(1, x))
        return tf.transpose(tf.reduce_mean(samples.by_class(x, seed), axis=1))

    def score(self, batches: Iterable[Any], seed: int) -> Score:
        """Returns the mean loss of a data set, and its standard error.

        Args:
          batches: As for `score_examples`.
          seed: Integer seed of the dequantization and the estimator.

        Returns:
          A named tuple: `mean`, the negative log-likelihood in bits/dim (integer data) or nats; `stderr`, its
          standard error over examples, including the noise of the estimates; `num_examples`; and `example_stderr`,
          the root mean square of the examples' standard errors (None for a single noisy estimate).
        """
        space = self._model.data_space
        scores = self._score_all(batches, seed, 1)
        losses = space.to_loss(scores["log_prob"]).astype(np.float64)
        stderrs = (scores["stderr"] / space.nats_per_unit).astype(np.float64)
        num_examples = len(losses)
        stderr = losses.std(ddof=1) / np.sqrt(num_examples) if num_examples > 1 else math.nan
        finite = stderrs[np.isfinite(stderrs)]
        example_stderr = float(np.sqrt(np.mean(finite**2))) if len(finite) else None
        return Score(float(losses.mean()), float(stderr), num_examples, example_stderr)

    def score_examples(self, batches: Iterable[Any], seed: int) -> dict[str, np.ndarray]:
        """Returns the log-likelihood of each example and its standard error, in nats.

        Args:
          batches: Finite stream of arrays or tensors `[<= batch, *event_shape]`, or for a conditional model, of
            pairs with their conditions. The first batch must be the largest. Examples without labels are scored by
            an equal mixture of all classes.
          seed: Integer seed of the estimates.

        Returns:
          A dict of arrays `[num]`: "log_prob" and "stderr", which is NaN for a single noisy estimate.
        """
        return self._score_all(batches, seed, NUM_SAMPLES)

    def required_samples(self, x: TensorLike, condition: TensorLike | None = None, seed: Seed = 0) -> int:
        """Returns the number of estimates per example whose mean reaches the standard error `stderr`.

        The number starts at 8 and doubles until the root mean square of the standard errors of the examples is at
        most `stderr`. The result depends only on the arguments. It is 1 without noise. Use several examples,
        because the standard error of one is imprecise. To keep the mean unbiased, draw new estimates with another
        seed, as `estimate` does.

        Args:
          x: Examples `[batch, *event_shape]` that resemble the data to evaluate.
          condition: See `estimate`. By default, examples of a model of labels have the labels 0, 1, ... in turn.
          seed: An integer or a seed `[2]`.

        Raises:
          ValueError: If there is no `stderr`, or if it needs more than 8,192 estimates; or if a log-likelihood is
            NaN.
        """
        if self._stderr is None:
            raise ValueError(
                "required_samples needs a standard error. Pass stderr=, such as 0.1, to LogLikelihood."
            )
        x = tf.convert_to_tensor(x)
        if condition is None and self._model.condition.num_classes is not None:
            condition = np.arange(len(x)) % self._model.condition.num_classes
        seed = stateless_seed(seed)
        samples = self._samples(NUM_SAMPLES)
        draw = tf.function(samples, autograph=False)

        def draw_next(index):
            return draw(x, tf.random.experimental.stateless_fold_in(seed, index), condition)

        estimates = draw_next(0)
        while True:
            num_samples = len(estimates)
            reached = _root_mean_square_stderr(mean_and_stderr(estimates, samples.is_noisy))
            if reached <= self._stderr:
                return num_samples
            is_too_far = num_samples * (reached / self._stderr) ** 2 > 4 * _MOST_SAMPLES
            if 2 * num_samples > _MOST_SAMPLES or is_too_far:
                raise ValueError(
                    f"stderr={self._stderr:.3g} nats is out of reach: {num_samples} samples reach {reached:.2g} "
                    f"nats, and more than {_MOST_SAMPLES:,} would be necessary. Pass a larger stderr, or for "
                    "vectors log_det_estimator=tf_resflow.logdet.Exact()."
                )
            indices = range(num_samples // NUM_SAMPLES, 2 * num_samples // NUM_SAMPLES)
            estimates = tf.concat([estimates, *map(draw_next, indices)], 0)

    def noise(self, x: TensorLike, seed: int, condition: TensorLike | None = None) -> float:
        """Measures the noise of an example's loss that is due to the estimates of the log-determinants.

        The result is the standard deviation of the loss for a given dequantization, measured from 8 estimates per
        example, as the root mean square over examples. It is in bits/dim for integer data and otherwise in nats.

        Args:
          x: Examples `[batch, *event_shape]`.
          seed: Integer seed of the dequantization and the estimates.
          condition: See `estimate`.
        """
        arguments = self._model.condition.arguments(condition, len(x))
        z = self._model.prepare(x, tf.constant([seed, 0], tf.int32))
        seeds = [tf.constant([seed, 1 + index], tf.int32) for index in range(NUM_SAMPLES)]
        log_probs = np.stack([self._log_prob_of_z(z, arguments, seed) for seed in seeds]).astype(np.float64)
        losses = self._model.data_space.to_loss(log_probs - log_probs[0])  # exactly 0 without noise
        return float(np.sqrt(np.var(losses, axis=0, ddof=1).mean()))

    @functools.cached_property
    def _log_prob_of_z(self) -> Callable:
        density = bijectors.with_log_det_estimator(self._model.distribution, self.log_det_estimator)

        @tf.function(autograph=False)
        def log_prob(z, arguments, seed):
            return density.log_prob(tf.identity(z), bijector_kwargs={"seed": seed, **arguments})

        return log_prob

    def _num_samples(self, default, x, condition=None):
        if self.num_samples is not None:
            return self.num_samples
        return default if self._stderr is None else self.required_samples(x, condition)

    def _samples(self, num_samples):
        return LogProbSamples(self._model, num_samples, log_det_estimator=self.log_det_estimator)

    def _mean(self, samples, estimates):
        if self._importance_weighted:
            return mean_of_probabilities(estimates)
        return mean_and_stderr(estimates, samples.is_noisy)

    def _score_all(self, batches, seed, default):
        batches = (tf.nest.map_structure(np.asarray, batch) for batch in batches)
        num_samples = default if self.num_samples is None else self.num_samples
        if self._stderr is not None:
            first = list(itertools.islice(batches, 1))
            for batch in first:
                num_samples = self.required_samples(*self._split(batch))
            batches = itertools.chain(first, batches)
        if num_samples not in self._score_functions:
            self._score_functions[num_samples] = PerExample(self._score_function(num_samples), self._strategy)
        return self._score_functions[num_samples](batches, seed)

    def _split(self, batch):
        """Returns the examples and the condition of a batch. Examples without labels have the condition None."""
        has_labels = self._model.condition.num_classes is None or isinstance(batch, tuple)
        return self._model.condition.split(batch) if has_labels else (batch, None)

    def _score_function(self, num_samples):
        """Returns a function of a batch and a seed that estimates each example from K samples."""
        num_classes = self._model.condition.num_classes
        samples = self._samples(num_samples)
        if self._importance_weighted and not samples.is_exact:
            warnings.warn(
                "The log-determinants are estimated, so the log of the mean probability is too large by up to half "
                "the variance of an example's log-determinants, in nats. Use exact ones, or more probes.",
                stacklevel=4,
            )

        def estimate(batch, seed):
            x, condition = self._split(batch)
            if num_classes is not None and condition is None:
                estimates = tf.reduce_logsumexp(samples.by_class(x, seed), axis=0) - math.log(num_classes)
            else:
                estimates = samples(x, seed, condition)
            return self._mean(samples, estimates)._asdict()

        return estimate


def estimate_log_prob(
    model: FlowModel,
    x: TensorLike,
    seed: Seed = None,
    *,
    condition: TensorLike | None = None,
    num_samples: int | None = None,
    stderr: float | None = None,
    log_det_estimator: LogDet | None = None,
) -> LogProbEstimate:
    """Estimates the log-likelihood of each example of a batch, and the standard error of each estimate.

    The result is `LogLikelihood(model, ...).estimate(x, seed, condition)`, the mean of K independent estimates,
    which is unbiased.

    Args:
      model: A `FlowModel`.
      x: Examples `[batch, *event_shape]`.
      seed: An integer or a seed `[2]`.
      condition: Condition of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K. The default is 8.
      stderr: Standard error to reach instead, in nats. Requires eager mode.
      log_det_estimator: See `LogLikelihood`.

    Returns:
      A `LogProbEstimate` with `log_prob` and `stderr`, each `[batch]`. The standard error is measured by
      repetition. It is 0 without noise, and NaN for a single noisy estimate or where `log_prob` is -inf.

    Raises:
      ValueError: If both `num_samples` and `stderr` are given, or as for `LogLikelihood.required_samples`.
    """
    likelihood = LogLikelihood(model, num_samples=num_samples, stderr=stderr, log_det_estimator=log_det_estimator)
    return likelihood.estimate(x, seed, condition)


def mean_and_stderr(estimates: tf.Tensor, is_noisy: bool = True) -> LogProbEstimate:
    """Returns the mean of independent estimates `[num, batch]` of each example, and its standard error."""
    mean = tf.reduce_mean(estimates, 0)
    num = estimates.shape[0]
    if not is_noisy:
        return LogProbEstimate(mean, tf.where(tf.abs(mean) < math.inf, tf.zeros_like(mean), math.nan))
    if num == 1:
        return LogProbEstimate(mean, tf.fill(tf.shape(mean), tf.constant(math.nan, mean.dtype)))
    variance = tf.reduce_sum((estimates - mean) ** 2, 0) / (num - 1)
    return LogProbEstimate(mean, tf.sqrt(variance / num))


def mean_of_probabilities(estimates: tf.Tensor) -> LogProbEstimate:
    """Returns the log of the mean probability of independent estimates `[num, batch]`, and its standard error."""
    largest = tf.reduce_max(estimates, 0)
    largest = tf.where(tf.math.is_finite(largest), largest, 0.0)
    mean, stderr = mean_and_stderr(tf.exp(estimates - largest))
    return LogProbEstimate(largest + tf.math.log(mean), stderr / mean)


def _root_mean_square_stderr(estimate):
    """Returns the root mean square of the standard errors of the examples that have a finite one."""
    num_nan = int(np.isnan(estimate.log_prob).sum())
    if num_nan:
        raise ValueError(
            f"The log-likelihood of {num_nan} of {len(estimate.log_prob)} examples is NaN. Check the examples and "
            "the weights of the model."
        )
    finite = estimate.stderr[tf.math.is_finite(estimate.stderr)].numpy()
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else 0.0


def _precise_estimator(model):
    """Returns the default estimator for a standard error, because many estimates would cost more than `Exact`."""
    event_shape = model.data_space.event_shape
    if len(event_shape) == 1 and isinstance(default_estimator(event_shape[0], "scores"), Exact):
        return Exact()
    return model.evaluation_log_det_estimator
