r"""Estimators of log|det(I + J)|, and the choice of the default estimator.

With \\(\mathrm{Lip}(g) < 1\\), \\(\log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \mathrm{tr}(J^k)\\), and
\\(\mathrm{tr}(J^k) = E[v^T J^k v]\\) for probes with \\(E[v v^T] = I\\).

Each residual block has an estimator, which trains it, by default `RussianRoulette()`. A view of a flow with another
estimator (`bijectors.with_log_det_estimator`) evaluates a `FlowModel`. Builders such as `vector_flow`, and
`FlowModel`, ask `default_estimator`. `training.build_estimator` reads the estimators of a config.
"""

import abc
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_resflow._internal.private_api import without_retracing_warnings
from tf_resflow._internal.seeds import random_uniform, split_seed, stateless_seed
from tf_resflow._internal.serialization import Serializable, Settings, instance
from tf_resflow._internal.typing import Seed
from tf_resflow.layers.program import BoundNetwork, bind
from tf_resflow.layers.tracing import traced_once
from tf_resflow.logdet.elimination import log_abs_det, log_det_and_inverse
from tf_resflow.logdet.power_series import Terms, power_series_log_det
from tf_resflow.logdet.probes import PROBES, draw_probes
from tf_resflow.logdet.term_distributions import Geometric, TermDistribution

__all__ = [
    "AdaptiveRoulette",
    "Exact",
    "LogDetEstimator",
    "PowerSeries",
    "RussianRoulette",
    "UnseededEstimateWarning",
    "default_estimator",
]


class LogDetEstimator(Serializable, abc.ABC):
    """Computes `y = x + g(x)` and `log|det(I + dg/dx)|` for a `ResidualBlock`."""

    is_random = True  # whether the result depends on the seed

    @abc.abstractmethod
    def __call__(
        self, branch: Callable, x: tf.Tensor, condition: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates the residual map and its log-determinant.

        Args:
          branch: Callable g, called as `branch(x)` or `branch([x, condition])`.
          x: Tensor of shape `[batch, *event]`.
          condition: `None` or a tensor of shape `[batch, ...]`.
          seed: See `tf_resflow.stateless_seed`.

        Returns:
          `y` with the shape and dtype of `x`, and `log_det` of shape `[batch]` (nats). Both are differentiable.
        """

    def log_det_ratio(
        self, branch: Callable, x: tf.Tensor, condition: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tf.Tensor:
        r"""Returns the log-determinant of a `MonotoneBlock`, \\(\log|\det(I - J)| - \log|\det(I + J)|\\) at x.

        Its series \\(-2 \sum_{k\ \mathrm{odd}} \mathrm{tr}(J^k) / k\\) has only odd powers (Ahn et al. 2022). The
        arguments are the same as for `__call__`, and the result has shape `[batch]`.
        """
        name = type(self).__name__
        raise NotImplementedError(f"{name} does not support MonotoneBlock. Implement its method log_det_ratio.")

    def with_sets(self, num: int) -> "LogDetEstimator":
        """Returns an estimator for batches of `num` equal parts; the examples of a part share random numbers."""
        return self

    def num_rows(self, size: int) -> int:
        """Returns the number of rows per example of `size` coordinates in one evaluation of the branch."""
        return 1


class _Estimator(LogDetEstimator):
    """Base class that implements both log-determinants in one method."""

    def __call__(self, branch, x, condition=None, *, seed=None):
        return self._evaluate(branch, _inputs(x, condition), seed)

    def log_det_ratio(self, branch, x, condition=None, *, seed=None):
        return self._evaluate(branch, _inputs(x, condition), seed, odd=True)[1]

    @abc.abstractmethod
    def _evaluate(self, branch, inputs, seed, odd=False):
        """Returns `x + g(x)` and the log-determinant, or with `odd` the one of a `MonotoneBlock`."""


def _inputs(x, condition):
    return [x] if condition is None else [x, condition]


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "probes": (PROBES.__contains__, f"one of {', '.join(PROBES)}"),
    "num_exact_terms": (lambda num: num >= 0, "at least 0"),
    **dict.fromkeys(("num_probes", "num_terms", "max_exact_terms"), (lambda num: num >= 1, "at least 1")),
    **dict.fromkeys(("rtol", "chance"), (lambda share: share is None or 0 < share < 1, "in (0, 1)")),
}  # by setting: the check, and the expected values


@dataclasses.dataclass(frozen=True)
class _SeriesEstimator(_Estimator, Settings):
    """A weighted, finite power series with random probes."""

    _: dataclasses.KW_ONLY
    probes: str = "rademacher"
    num_probes: int = 1
    probe_sets: int | None = None

    def __post_init__(self):
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in settings.items():
            holds, expected = _RANGES.get(name, (lambda value: True, ""))
            if not holds(value):
                raise ValueError(f"Got {name}={value!r}; in {type(self).__name__} it must be {expected}.")

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        return self.probes != "basis" or isinstance(self, _RandomLength)

    @abc.abstractmethod
    def terms(self, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """Returns the `Terms` for the probe vectors `v`, `[rows, *event]`."""

    def _evaluate(self, branch, inputs, seed, odd=False):
        num_probes = self.num_rows(inputs[0].shape[1:].num_elements())

        def draw(x, seed):
            probe_seed, term_seed = tf.unstack(split_seed(seed, 2))
            v = draw_probes(self.probes, num_probes, x, probe_seed, sets=self.probe_sets)
            return v, self.terms(v, term_seed)

        return power_series_log_det(bind(branch), inputs, num_probes, draw, stateless_seed(seed), odd=odd, key=self)

    def with_sets(self, num: int) -> LogDetEstimator:
        return dataclasses.replace(self, probe_sets=num)

    def num_rows(self, size: int) -> int:
        if self.probes == "basis":
            return size
        return min(self.num_probes, size or self.num_probes) if self.probes == "colored" else self.num_probes


@dataclasses.dataclass(frozen=True)
class _RandomLength(_SeriesEstimator):
    _: dataclasses.KW_ONLY
    per_example: bool = False

    def with_sets(self, num: int) -> LogDetEstimator:
        return dataclasses.replace(self, probe_sets=num, per_example=True)

    def _lengths(self, v, draw):
        """Returns one number, or one per row of v, shared like the probes. `draw` is called with a shape."""
        if not self.per_example:
            return draw([])
        rows = tf.shape(v)[0]
        if self.probe_sets is None:
            return draw([rows])
        num = self.num_rows(v.shape[1:].num_elements()) * self.probe_sets
        return tf.repeat(draw([num]), rows // num)


@dataclasses.dataclass(frozen=True)
class RussianRoulette(_RandomLength):
    r"""Unbiased estimator: exact terms, then a random number of terms, each divided by its probability.

    With m exact terms, the weights are \\(w_k = 1\\) for \\(k \le m\\) and
    \\(w_k = 1 / P(N \ge k - m)\\) for \\(m < k \le m + N\\). The variance is guaranteed to be finite if
    \\(\sum_k L^{2k} / P(N \ge k)\\) is finite (see `finite_variance`).

    ```python
    import tf_resflow as resflow
    distribution = resflow.logdet.Geometric(0.5)
    estimator = resflow.logdet.RussianRoulette(num_exact_terms=2, distribution=distribution)
    print(estimator.finite_variance(0.7), estimator.finite_variance(0.98**3))
    # True False
    ```

    Args:
      num_exact_terms: Number of exact terms.
      distribution: Distribution of the number N of further terms, `Geometric` or `Poisson`. The defaults compute 4
        terms on average.
      per_example: Whether every example draws its own N. This suits evaluation: errors within a batch are
        independent, but the whole batch computes as many terms as the largest N. Otherwise, the batch shares one N.
        This suits training: fewer terms are computed, but errors are correlated, and std / sqrt(batch) is not a
        standard error.
      probes: "rademacher" (independent random signs), "colored" (signs whose cross terms cancel between coordinates
        of different colors: far less noise for convolutional branches, and exact for D probes), "gaussian", or
        "basis" (all D basis vectors: the exact trace).
      num_probes: Number of probes per example. The estimate is their average.
      probe_sets: By default, every example has its own probes. Otherwise, this number of equal, consecutive parts
        of the batch: all examples of a part share their probes and, with `per_example`, their N. The estimate of an
        example then does not depend on the other examples, as needed for serving.

    References:
      Chen et al. 2019, Theorem 1; Kahn 1955 (Russian roulette).
    """

    num_exact_terms: int = 2
    distribution: TermDistribution = Geometric(0.5)

    def finite_variance(self, lipschitz_constant: float) -> bool:
        """Returns whether the variance is guaranteed finite for `Lip(g) <= lipschitz_constant`."""
        return self.distribution.finite_variance(lipschitz_constant)

    def terms(self, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        drawn = self._lengths(v, lambda shape: self.distribution.sample(shape, seed))
        last = self.num_exact_terms + drawn
        stop = tf.reduce_max(last) if self.per_example else last

        def weigh(k, w, state):
            extra = k - self.num_exact_terms
            inverse_chance = 1.0 / self.distribution.survival(tf.maximum(extra, 1), v.dtype)
            roulette = tf.where(k <= last, inverse_chance, tf.zeros([], v.dtype))
            weight = tf.where(extra <= 0, tf.ones([], v.dtype), roulette)
            return weight, weight, state

        return Terms(lambda k, state: k <= stop, weigh)


@dataclasses.dataclass(frozen=True)
class PowerSeries(_SeriesEstimator):
    """Biased estimator of i-ResNet: the power series truncated after `num_terms` terms.

    The Neumann series of the gradient stops one term earlier. In expectation over the probes (exactly for basis
    probes), the gradient is therefore the gradient of the value.

    Args:
      num_terms: Number of terms.
      probes: See `RussianRoulette`, also for `num_probes` and `probe_sets`.

    References:
      Behrmann et al., Invertible Residual Networks, 2019, Section 3.
    """

    num_terms: int = 10

    def terms(self, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        one = tf.ones([], v.dtype)

        def weigh(k, w, state):
            return one, tf.cast(k < self.num_terms, v.dtype), state

        return Terms(lambda k, state: k <= self.num_terms, weigh)


@dataclasses.dataclass(frozen=True)
class AdaptiveRoulette(_RandomLength):
    r"""Unbiased estimator: exact terms while they are large, then Russian roulette that follows their decay.

    Term n is the last exact term of a probe v if \\(\|w_n\| \le \mathrm{rtol} \|v\|\\), with
    \\(w_k = (J^T)^k v\\), or if \\(n = \mathrm{max\_exact\_terms}\\). Term \\(n + j\\) is computed with probability
    \\(P(N \ge j) = c q^{j - 1}\\) and divided by it. q is the square root of \\(\|w_n\| / \|w_{n - 1}\|\\), clipped
    to [0.5, 0.99]. The estimate is unbiased, because v determines n and q, and N does not depend on v otherwise.
    The variance is finite if it is finite with `Geometric(0.5)`, or if q is above the square of the ratio's limit.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    estimator = resflow.logdet.AdaptiveRoulette(rtol=1e-3, num_probes=2)
    # Two probes of two coordinates are exact.
    y, log_det = estimator(lambda x: 0.5 * x, tf.ones([1, 2]), seed=1)
    print(abs(log_det[0] - 2 * tf.math.log(1.5)) < 2e-3)
    # tf.Tensor(True, shape=(), dtype=bool)
    ```

    Args:
      rtol: The relative size at which the exact terms end.
      max_exact_terms: The largest number of exact terms, for series that decay slowly.
      chance: c, the probability that any term after the exact ones is computed, in (0, 1). By default, 0.01 if each
        example draws its own N, because the whole batch computes as many terms as the largest N; 0.5 if the batch
        shares one N, as in training, where rare terms with a large weight would be outliers.
      per_example: Whether each probe draws its own N. Each probe has its own n in either case.
      probes: See `RussianRoulette`, also for `num_probes` and `probe_sets`.
    """

    rtol: float = 1e-2
    max_exact_terms: int = 50
    _: dataclasses.KW_ONLY
    chance: float | None = None
    probes: str = "colored"

    def terms(self, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        first = (0.01 if self.per_example else 0.5) if self.chance is None else self.chance
        size = _norm(v)

        def draw(shape):  # numbers in [0, 1) that float32 does not round to 1
            return tf.minimum(tf.cast(random_uniform(shape, seed, tf.float64), tf.float32), 1.0 - 2.0**-24)

        uniform = self._lengths(v, draw)

        def survival(k, state):
            last, ratio, _ = state
            chance = first * ratio ** tf.cast(tf.maximum(k - last - 1, 0), tf.float32)
            return tf.where((last == 0) | (k <= last), tf.ones_like(chance), chance)

        def more(k, state):
            return tf.reduce_any(uniform < survival(k, state))

        def weigh(k, w, state):
            last, ratio, before = state
            norm = _norm(w)
            stops = (last == 0) & ((norm <= self.rtol * size) | (k >= self.max_exact_terms))
            decay = tf.clip_by_value(tf.sqrt(tf.math.divide_no_nan(norm, before)), 0.5, 0.99)
            state = tf.where(stops, k, last), tf.where(stops, decay, ratio), norm
            chance = survival(k, state)
            weight = tf.cast(tf.where(uniform < chance, 1.0 / chance, tf.zeros_like(chance)), v.dtype)
            return weight, weight, state

        return Terms(more, weigh, (tf.zeros(tf.shape(size), tf.int32), tf.zeros_like(size), size))


def _norm(w):
    return tf.sqrt(tf.reduce_sum(tf.square(tf.cast(w, tf.float32)), axis=list(range(1, w.shape.rank))))


@dataclasses.dataclass(frozen=True)
class Exact(_Estimator, Settings):
    """Log-determinant of the full Jacobian: D vector-Jacobian products and O(D^3) work for D coordinates.

    For dense layers and elementwise activations, the Jacobian is computed in forward mode, layer by layer. The
    result is differentiable any number of times in x and in the condition, and once in the kernels of Lipschitz
    layers. A second derivative in these kernels raises a ValueError, unless their norms have a closed form.
    """

    is_random = False

    def _evaluate(self, branch, inputs, seed, odd=False):
        branch = bind(branch)

        def compute(inputs, parameters):
            gx, eye, jacobian = self._jacobian(branch.with_parameters(parameters), inputs)
            log_det = log_abs_det(eye + jacobian)
            if odd:
                log_det = log_abs_det(eye - jacobian) - log_det
            x = inputs[0]
            return x + tf.cast(gx, x.dtype), tf.cast(log_det, x.dtype)

        key = None if branch.key is None else ("exact", odd, branch.key)
        return traced_once(key, compute, inputs, branch.tensors())

    def with_gradient(self, branch: BoundNetwork, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the log-determinant `[batch]`, its gradient in x, and the inverses of I + J `[D, D, batch]`."""

        def compute(x, parameters):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                _, eye, jacobian = self._jacobian(branch.with_parameters(parameters), [x])
                log_det, inverse = log_det_and_inverse(eye + jacobian)
                log_det = tf.cast(log_det, x.dtype)
            return log_det, tape.gradient(log_det, x, unconnected_gradients="zero"), tf.cast(inverse, x.dtype)

        key = None if branch.key is None else ("gradient", branch.key)
        return traced_once(key, compute, x, branch.tensors())

    def jacobian(self, branch: Callable, x: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the Jacobian of the branch, `[batch, D, D]`."""
        return tf.transpose(self._jacobian(bind(branch), _inputs(x, condition))[2], [2, 0, 1])

    def _jacobian(self, branch, inputs):
        """Returns g(x), the identity matrix `[D, D, 1]` and the Jacobian `[D, D, batch]`."""
        x = inputs[0]
        if branch.program.supports_jacobian:
            gx, jacobian = branch.jacobian(inputs)
        else:
            padded, *conditions = map(_at_least_one_row, inputs)
            gx, jacobian = reverse_jacobian(lambda x: tf.cast(branch([x, *conditions]), x.dtype), padded)
            num_rows = tf.shape(x)[0]
            gx = gx[:num_rows]
            jacobian = tf.transpose(jacobian[:num_rows], [1, 2, 0])
        jacobian = tf.cast(jacobian, tf.float64 if x.dtype == tf.float64 else tf.float32)
        return gx, tf.eye(jacobian.shape[0], dtype=jacobian.dtype)[..., tf.newaxis], jacobian

    def num_rows(self, size: int) -> int:
        return size


def reverse_jacobian(g: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns g(x) and its Jacobians `[batch, size, size]` for x `[batch, *event]`, in one vectorized pass."""
    size = x.shape[1:].num_elements()
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        rows = tf.reshape(x, [-1, size])
        tape.watch(rows)
        gx = g(tf.reshape(rows, [-1, *x.shape[1:]]))
        flat = tf.reshape(gx, [-1, size])
    with without_retracing_warnings():
        return gx, tape.batch_jacobian(flat, rows, unconnected_gradients="zero")


def _at_least_one_row(tensor):
    """Returns the tensor, or a row of zeros for an empty batch, where TensorFlow's vectorized gradients fail."""
    missing = tf.cast(tf.equal(tf.shape(tensor)[0], 0), tf.int32)
    padded = tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])
    padded.set_shape([None, *tensor.shape[1:]])  # TFLite has no ensure_shape
    return padded


_LARGEST_EXACT = {"training": 6, "tables": 10, "evaluation": 16, "inference": 32, "scores": 256}  # coordinates


def default_estimator(event_size: int, purpose: str) -> LogDetEstimator:
    """Returns the default estimator of log-determinants: exact for small events, unbiased for larger events.

    | purpose | use | `Exact` up to | above |
    |---|---|---|---|
    | "training" | maximum likelihood | 6 coordinates | `RussianRoulette` |
    | "tables" | short trainings of `FlowDensity` | 10 coordinates | `RussianRoulette` |
    | "evaluation" | log-likelihoods, averaged over examples | 16 coordinates | `AdaptiveRoulette` |
    | "inference" | posteriors, coordinates of Markov chains | 32 coordinates | `RussianRoulette` |
    | "scores" | log-densities of rows that are compared with each other | 256 coordinates | `AdaptiveRoulette` |

    In training, `Exact` is the default up to the size where it costs about as much as the estimate for gradients of
    equal variance. It needs at most 2 times the processor time of the estimate in inference, and 5 times in
    evaluation (2 times for vector flows), as measured in `benchmarks/results/exact_crossover.json`. Scores are
    exact up to larger sizes, because noise would change the ranking and each row is scored only once.

    Args:
      event_size: Number of coordinates of an event.
      purpose: A key of the table.
    """
    if event_size <= _LARGEST_EXACT[purpose]:
        return Exact()
    if purpose in ("training", "tables", "inference"):
        return RussianRoulette(probes="colored")
    return AdaptiveRoulette(per_example=True)


class UnseededEstimateWarning(UserWarning):
    """Issued once per process for a random estimate without a seed. Pass `seed=None` to draw one silently."""


_has_warned = False


def warn_unseeded(name: str) -> None:
    """Warns about the block with this name, once per process."""
    global _has_warned
    if not _has_warned:
        warnings.warn(
            f"The block {name!r} estimated a log-determinant without a seed, so the value differs at each call. "
            'Pass a seed, for example log_prob(x, bijector_kwargs={"seed": 1}), or use exact log-determinants: '
            "tf_resflow.bijectors.with_log_det_estimator(density, tf_resflow.logdet.Exact()). This warning is "
            "issued once per process.",
            UnseededEstimateWarning,
            stacklevel=3,
        )
        _has_warned = True


def get_estimator(identifier: Any) -> Any:
    """Returns None, or an estimator that is given as an object or by its name in configs, such as "exact"."""
    kinds = [Exact, RussianRoulette, AdaptiveRoulette, PowerSeries]
    return None if identifier is None else instance("log_det_estimator", identifier, LogDetEstimator, kinds)
