r"""Estimators of log|det(I + J)|: their number of terms, the weights of these, and the probes.

With \\(\mathrm{Lip}(g) < 1\\), \\(\log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \mathrm{tr}(J^k)\\), and
\\(\mathrm{tr}(J^k) = E[v^T J^k v]\\) for probes with \\(E[v v^T] = I\\).
"""

import abc
import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tf_resflow.layers import LearnedOrder, lipschitz_constant
from tf_resflow.layers.lipschitz_constants import lipschitz_order
from tf_resflow.layers.operator_norms import dual_order, lp_norm
from tf_resflow.layers.program import bind
from tf_resflow.layers.tracing import settings_key, traced_once
from tf_resflow.logdet.elimination import log_abs_det, log_det_and_inverse
from tf_resflow.logdet.power_series import Terms, power_series_log_det
from tf_resflow.logdet.probes import PROBES, draw_probes
from tf_resflow.logdet.term_distributions import Geometric, Poisson, TermDistribution
from tf_resflow.private_api import silence_retracing
from tf_resflow.seeds import random_uniform, split_seed, stateless_seed
from tf_resflow.typing import Seed

__all__ = [
    "AdaptiveRoulette",
    "AdaptiveSeries",
    "Exact",
    "LogDetEstimator",
    "PowerSeries",
    "RussianRoulette",
    "reverse_jacobian",
]


class LogDetEstimator(abc.ABC):
    """Computes `y = x + g(x)` together with `log|det(I + dg/dx)|`, for a `ResidualBlock`.

    Attributes:
      is_random: whether the result depends on the seed.
    """

    is_random = True

    @abc.abstractmethod
    def __call__(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates the residual map and its log-determinant.

        Args:
          branch: callable `g`: `branch(x)`, or `branch([x, conditional_input])`.
          x: tensor of shape `[batch, *event]`.
          conditional_input: `None` or a tensor of shape `[batch, ...]`.
          seed: see `tf_resflow.stateless_seed`.

        Returns:
          `y` like `x`, and `log_det` of shape `[batch]` (nats), both differentiable.
        """

    def log_det_ratio(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tf.Tensor:
        r"""The log-determinant of a `MonotoneBlock`: \\(\log|\det(I - J)| - \log|\det(I + J)|\\) at x.

        Its series has the odd powers only, \\(-2 \sum_{k\ \mathrm{odd}} \mathrm{tr}(J^k) / k\\): the term n of an
        estimator is that of the power 2 n - 1, and takes two products. The arguments are those of the call; the
        result is `[batch]` (nats), differentiable.

        Raises:
          NotImplementedError: for an estimator that has none.

        References:
          Ahn et al., Invertible Monotone Operators for Normalizing Flows, 2022.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not estimate the log-determinant of a MonotoneBlock: give it a method "
            "log_det_ratio, or choose an estimator of tf_resflow.logdet."
        )

    def with_sets(self, num: int) -> "LogDetEstimator":
        """The estimator for batches of `num` equal parts whose examples share all random numbers.

        The estimate of an example then does not depend on the others of its part.
        """
        return self

    def num_rows(self, size: int) -> int:
        """The rows for each example, of `size` coordinates, at which the branch is evaluated at once."""
        return 1


def _inputs(x, conditional_input):
    return [x] if conditional_input is None else [x, conditional_input]


@dataclasses.dataclass(eq=False)
class _SeriesEstimator(LogDetEstimator):
    """A weighted, finite power series with random probes."""

    _: dataclasses.KW_ONLY
    probes: str = "rademacher"
    num_probes: int = 1
    probe_sets: int | None = None

    def __post_init__(self):
        if self.probes not in PROBES:
            raise ValueError(f"probes must be one of {', '.join(PROBES)}; got {self.probes!r}.")
        if self.num_probes < 1:
            raise ValueError(f"num_probes must be at least 1; got {self.num_probes}.")
        if self.probe_sets is not None and self.probe_sets < 1:
            raise ValueError(f"probe_sets must be None or at least 1; got {self.probe_sets}.")

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        return self.probes != "basis" or isinstance(self, _RandomLength)

    @abc.abstractmethod
    def terms(self, branch: Callable, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """The `Terms` for the probe vectors `v`, `[rows, *event]`."""

    def __call__(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`x + g(x)` and the estimate, `[batch]`."""
        return self._estimate(branch, x, conditional_input, seed)

    def log_det_ratio(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tf.Tensor:
        """The estimate, `[batch]`."""
        return self._estimate(branch, x, conditional_input, seed, odd=True)[1]

    def _estimate(self, branch, x, conditional_input, seed, odd=False):
        num_probes = self.num_rows(x.shape[1:].num_elements())

        def draw(branch, x, seed):
            probe_seed, term_seed = tf.unstack(split_seed(seed, 2))
            v = draw_probes(self.probes, num_probes, x, probe_seed, sets=self.probe_sets)
            return v, self.terms(branch, v, term_seed)

        return power_series_log_det(
            bind(branch),
            _inputs(x, conditional_input),
            num_probes,
            draw,
            stateless_seed(seed),
            odd=odd,
            key=settings_key(self, _KNOWN) if self._is_of_the_program else None,
        )

    _is_of_the_program = True  # whether the terms depend on the program and the weights of the branch alone

    def with_sets(self, num: int) -> LogDetEstimator:
        """See `LogDetEstimator`."""
        return dataclasses.replace(self, probe_sets=num)

    def num_rows(self, size: int) -> int:
        """The number of probes, of which D make the trace exact."""
        if self.probes == "basis":
            return size
        return min(self.num_probes, size or self.num_probes) if self.probes == "colored" else self.num_probes


@dataclasses.dataclass(eq=False)
class _RandomLength(_SeriesEstimator):
    """A series with a random number of terms."""

    _: dataclasses.KW_ONLY
    per_example: bool = False

    def with_sets(self, num: int) -> LogDetEstimator:
        """See `LogDetEstimator`."""
        return dataclasses.replace(self, probe_sets=num, per_example=True)

    def _lengths(self, v, draw):
        """What `draw` makes of a shape: one number, or one for each row of v, shared as the probes are."""
        if not self.per_example:
            return draw([])
        rows = tf.shape(v)[0]
        if self.probe_sets is None:
            return draw([rows])
        num = self.num_rows(v.shape[1:].num_elements()) * self.probe_sets
        return tf.repeat(draw([num]), rows // num)


@dataclasses.dataclass(eq=False)
class RussianRoulette(_RandomLength):
    r"""Unbiased: exact terms, then a random number of terms, each divided by the probability that it is taken.

    With m exact terms the weights are \\(w_k = 1\\) for \\(k \le m\\) and
    \\(w_k = 1 / P(N \ge k - m)\\) for \\(m < k \le m + N\\). The variance is guaranteed finite if
    \\(\sum_k L^{2k} / P(N \ge k)\\) is (see `finite_variance`).

    ```python
    import tf_resflow as resflow
    estimator = resflow.logdet.RussianRoulette(num_exact_terms=2, distribution=resflow.logdet.Geometric(0.5))
    print(estimator.finite_variance(0.7), estimator.finite_variance(0.98**3))
    # True False
    ```

    Args:
      num_exact_terms: at least 0.
      distribution: of the number N of further terms, `Geometric` or `Poisson`. By default 4 terms are taken in
        expectation.
      per_example: whether every example draws its own N. For evaluation: errors within a batch are independent, but
        all examples take as many terms as the largest N of the batch. Otherwise the batch shares one N. For
        training: it takes fewer terms, but errors are correlated, and std / sqrt(batch) is not a standard error.
      probes: "rademacher" (independent random signs), "colored" (signs whose cross terms cancel between colors of
        coordinates: far less noise for convolutional branches, and exact for D probes), "gaussian", or "basis" (all
        D basis vectors: the exact trace).
      num_probes: number of probes of each example, over which the estimate is averaged.
      probe_sets: `None` if every example has its own probes. Otherwise the batch has that many equal parts, one
        after the other, and all examples of a part share their probes and, with `per_example`, their N: the
        estimate of an example does not depend on the others, for serving.

    Raises:
      ValueError: if a number is out of range, or the distribution is another object.

    References:
      Chen et al. 2019, Theorem 1; Kahn 1955 (Russian roulette).
    """

    num_exact_terms: int = 2
    distribution: TermDistribution = Geometric(0.5)

    def __post_init__(self):
        super().__post_init__()
        if self.num_exact_terms < 0:
            raise ValueError(f"num_exact_terms must be at least 0; got {self.num_exact_terms}.")
        if isinstance(self.distribution, type) or not hasattr(self.distribution, "survival"):
            raise ValueError(
                "distribution must be one of numbers of terms, such as tf_resflow.logdet.Geometric(0.5); got "
                f"{self.distribution!r}."
            )

    def finite_variance(self, lipschitz_constant: float) -> bool:
        """Whether the variance is guaranteed finite for `Lip(g) <= lipschitz_constant`."""
        return self.distribution.finite_variance(lipschitz_constant)

    def terms(self, branch: Callable, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """The exact terms and N more, with N from the distribution."""
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


@dataclasses.dataclass(eq=False)
class PowerSeries(_SeriesEstimator):
    """The series cut after `num_terms` terms: biased, the baseline of i-ResNet.

    Its gradient is that of its value, in expectation over the probes (exactly for basis probes): the Neumann series
    stops one term earlier.

    Args:
      num_terms: at least 1.
      probes: see `RussianRoulette`, as for `num_probes` and `probe_sets`.

    References:
      Behrmann et al., Invertible Residual Networks, 2019, Section 3.
    """

    num_terms: int = 10

    def __post_init__(self):
        super().__post_init__()
        if self.num_terms < 1:
            raise ValueError(f"num_terms must be at least 1; got {self.num_terms}.")

    def terms(self, branch: Callable, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """The first `num_terms`, with weight 1."""
        one = tf.ones([], v.dtype)

        def weigh(k, w, state):
            return one, tf.cast(k < self.num_terms, v.dtype), state

        return Terms(lambda k, state: k <= self.num_terms, weigh)


@dataclasses.dataclass(eq=False)
class AdaptiveSeries(_SeriesEstimator):
    r"""Takes terms until the rest of the series is guaranteed below `tolerance`, for the probes drawn.

    With \\(w_k = (J^T)^k v\\), the rest after k terms is at most
    \\(\|v\|_p \|w_k\|_{p^*} \sum_{j \ge 1} L^j / (k + j)\\), and so at most
    \\(\|v\|_p \|w_k\|_{p^*} L / ((k + 1)(1 - L))\\), if L bounds the induced p-norm of J. This certifies the
    truncation only: the noise of the probes remains. Several probes reduce it, and `probes="basis"` has none.

    Args:
      tolerance: positive, in nats per example.
      lipschitz_constant: a bound that is known. By default a rigorous one is computed from the kernels of the
        branch at each call, which takes seconds for images of thousands of dimensions.
      order: order p of the norm in which the bound holds. By default that of the layers of the branch, with the
        current value of a learned one.
      probes: see `RussianRoulette`, as for `num_probes` and `probe_sets`.

    Raises:
      ValueError: if a number is out of range or the Lipschitz constant is not below 1; when called, if the branch
        is not bounded, or is bounded by its layers in another norm than that of `order`.
      InvalidArgumentError: if a computed bound is not below 1.
    """

    tolerance: float = 1e-4
    lipschitz_constant: float | None = None
    _: dataclasses.KW_ONLY
    order: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive; got {self.tolerance}.")
        if self.lipschitz_constant is not None and not 0 <= self.lipschitz_constant < 1:
            raise ValueError(f"AdaptiveSeries needs a Lipschitz constant below 1; got {self.lipschitz_constant}.")
        self.order = None if self.order is None else float(self.order)

    @property
    def _is_of_the_program(self):  # type: ignore[override]
        return self.lipschitz_constant is not None and self.order is not None  # not on settings of its layers

    def _bound(self, branch, dtype):
        """The bound of the branch, and the order p of the norm in which it holds."""
        given = self.lipschitz_constant
        order = self.order if self._is_of_the_program else self._order_of(branch)
        if given is not None:
            return tf.constant(given, dtype), order
        bound = tf.cast(lipschitz_constant(branch, certified=True), dtype)
        check = tf.debugging.assert_less(
            bound,
            tf.ones([], dtype),
            "AdaptiveSeries: the certified Lipschitz bound of the branch is not below 1. Run "
            "resflow.layers.update_norms to a tight tolerance, or lower the layers' coefficient.",
        )
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(bound), order

    def _order_of(self, branch):
        """The order of the norm in which its layers bound a branch; raises if `order` is another."""
        try:
            order = lipschitz_order(branch)
        except ValueError as error:
            raise ValueError(
                f"AdaptiveSeries needs a branch whose Lipschitz constant is certified. {error} Or use another "
                "estimator, or pass it a lipschitz_constant= and the order= of its norm."
            ) from error
        if self.order not in (None, order):
            name = order.name if isinstance(order, LearnedOrder) else f"{order:g}"
            raise ValueError(
                f"AdaptiveSeries needs a bound in the norm of order {self.order:g} (order=), but the layers of the "
                f"branch bound it in the norm of order {name}: leave order out, or pass a lipschitz_constant of "
                "the branch in the norm of that order."
            )
        return tf.stop_gradient(order.order()) if isinstance(order, LearnedOrder) else order

    def terms(self, branch: Callable, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """As many as the tolerance needs, with weight 1."""
        bound, order = self._bound(branch, v.dtype)
        one = tf.ones([], v.dtype)
        factor = bound / (1.0 - bound) * lp_norm(v, order)

        def is_large(k, w):
            """Whether the rest of the series after term k may exceed the tolerance, for any row."""
            rest = factor / (tf.cast(k, v.dtype) + 1.0) * lp_norm(w, dual_order(order))
            return tf.reduce_any(rest > self.tolerance)

        def weigh(k, w, state):
            return one, one, (is_large(k, w),)

        return Terms(lambda k, state: state[0], weigh, (is_large(tf.constant(0), v),))


@dataclasses.dataclass(eq=False)
class AdaptiveRoulette(_RandomLength):
    r"""Unbiased: exact terms while they are large, then a roulette whose survival follows their decay.

    The term n is the last exact one of a probe v if \\(\|w_n\| \le \mathrm{rtol} \|v\|\\), with
    \\(w_k = (J^T)^k v\\), and in any case if \\(n = \mathrm{max\_exact\_terms}\\). Of the rest, term \\(n + j\\) is
    taken with the chance \\(P(N \ge j) = c q^{j - 1}\\), and divided by it. Given v, n is known, and N
    does not depend on v otherwise: the estimate is unbiased. q is the root of \\(\|w_n\| / \|w_{n - 1}\|\\), or 0.5
    if that is less, or 0.99 if it is more: the variance is finite wherever that of `Geometric(0.5)` is, and if q is
    above the square of the ratio that the series tends to.

    A series that decays by 1/5 a term, which is common in trained flows, takes 2 to 4 terms at 1e-2.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    estimator = resflow.logdet.AdaptiveRoulette(rtol=1e-3, num_probes=2)
    y, log_det = estimator(lambda x: 0.5 * x, tf.ones([1, 2]), seed=1)  # two probes of two coordinates: exact
    print(abs(log_det[0] - 2 * tf.math.log(1.5)) < 2e-3)
    # tf.Tensor(True, shape=(), dtype=bool)
    ```

    Args:
      rtol: the relative size at which exact terms stop, in (0, 1).
      max_exact_terms: at least 1; for series that decay slowly.
      chance: c, that any term after the exact ones is taken, in (0, 1). By default 0.01 if each example draws its
        N, since all take as many terms as the largest of the batch; 0.5 if one N is shared, as in training, where
        rare terms of a large weight would be outliers.
      per_example: whether each probe draws its own number of terms. They have their own n in any case.
      probes: see `RussianRoulette`, as for `num_probes` and `probe_sets`.
    """

    rtol: float = 1e-2
    max_exact_terms: int = 50
    _: dataclasses.KW_ONLY
    chance: float | None = None
    probes: str = "colored"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol must be in (0, 1); got {self.rtol}.")
        if self.chance is not None and not 0 < self.chance < 1:
            raise ValueError(f"chance must be in (0, 1); got {self.chance}.")
        if self.max_exact_terms < 1:
            raise ValueError(f"max_exact_terms must be at least 1; got {self.max_exact_terms}.")

    def terms(self, branch: Callable, v: tf.Tensor, seed: tf.Tensor) -> Terms:
        """Exact terms until the rule of the class holds, and N more."""
        first = (0.01 if self.per_example else 0.5) if self.chance is None else self.chance
        uniform = self._lengths(v, lambda shape: _below_1(random_uniform(shape, seed, tf.float64)))
        size = _norm(v)

        def survival(k, state):
            """The chance that term k of each row is taken."""
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


def _below_1(uniform):
    """Numbers in [0, 1) in float32, none of them rounded to 1."""
    return tf.minimum(tf.cast(uniform, tf.float32), 1.0 - 2.0**-24)


def _norm(w):
    return tf.sqrt(tf.reduce_sum(tf.square(tf.cast(w, tf.float32)), axis=list(range(1, w.shape.rank))))


@dataclasses.dataclass(eq=False)
class Exact(LogDetEstimator):
    """The log-determinant of the full Jacobian: D vector-Jacobian products and O(D^3) work for D coordinates.

    For dense layers and elementwise activations the products are carried forward, layer by layer, also beside a
    condition. Differentiable any number of times.
    """

    is_random = False

    def __call__(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`x + g(x)` and the log-determinant, `[batch]`; the seed is not used."""
        branch = bind(branch)
        gx, eye, jacobian = self._jacobian(branch, x, conditional_input)
        log_det = log_abs_det(eye + jacobian, fused=branch.training)
        return x + tf.cast(gx, x.dtype), tf.cast(log_det, x.dtype)

    def with_gradient(self, branch: Callable, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The log-determinant, `[batch]`, its gradient in x, and the inverses of I + J, `[D, D, batch]`."""
        branch = bind(branch)

        def compute(x, parameters):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                _, eye, jacobian = self._jacobian(branch.with_parameters(parameters), x, None)
                log_det, inverse = log_det_and_inverse(eye + jacobian, fused=branch.training)
                log_det = tf.cast(log_det, x.dtype)
            return log_det, tape.gradient(log_det, x, unconnected_gradients="zero"), tf.cast(inverse, x.dtype)

        key = None if branch.key is None else ("gradient", branch.key)
        return traced_once(key, compute, x, branch.tensors(), fused=branch.training)

    def log_det_ratio(
        self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None, *, seed: Seed = None
    ) -> tf.Tensor:
        """The difference of two log-determinants of one Jacobian, `[batch]`; the seed is not used."""
        branch = bind(branch)
        _, eye, jacobian = self._jacobian(branch, x, conditional_input)
        less, more = (log_abs_det(eye + sign * jacobian, fused=branch.training) for sign in (-1.0, 1.0))
        return tf.cast(less - more, x.dtype)

    def jacobian(self, branch: Callable, x: tf.Tensor, conditional_input: tf.Tensor | None = None) -> tf.Tensor:
        """The Jacobian of the branch, `[batch, D, D]`."""
        return tf.transpose(self._jacobian(bind(branch), x, conditional_input)[2], [2, 0, 1])

    def _jacobian(self, branch, x, conditional_input):
        """g(x), the identity matrix `[D, D, 1]` and the Jacobian `[D, D, batch]`."""
        if branch.program.knows_jacobian:
            gx, jacobian = branch.jacobian(_inputs(x, conditional_input))
        else:
            rows = tf.shape(x)[0]
            given, *conditions = map(_at_least_one_row, _inputs(x, conditional_input))
            gx, jacobian = reverse_jacobian(lambda x: tf.cast(branch([x, *conditions]), x.dtype), given)
            gx, jacobian = gx[:rows], tf.transpose(jacobian[:rows], [1, 2, 0])
        jacobian = tf.cast(jacobian, tf.float64 if x.dtype == tf.float64 else tf.float32)
        return gx, tf.eye(jacobian.shape[0], dtype=jacobian.dtype)[..., tf.newaxis], jacobian

    def num_rows(self, size: int) -> int:
        """One for each coordinate."""
        return size


_KNOWN = (AdaptiveRoulette, AdaptiveSeries, Geometric, Poisson, PowerSeries, RussianRoulette)


def reverse_jacobian(g: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """g(x) and its Jacobians `[batch, size, size]`, a row at a time, all in one batch, for x `[batch, *event]`."""
    size = x.shape[1:].num_elements()
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        gx = g(x)

    def row(unit):
        upstream = tf.zeros_like(gx) + tf.reshape(unit, x.shape[1:])
        return tf.reshape(tape.gradient(gx, x, upstream, unconnected_gradients="zero"), [-1, size])

    def rows_of(units):
        return tf.transpose(tf.vectorized_map(row, units), [1, 0, 2])

    if tf.executing_eagerly():  # it is traced at each call, of which TensorFlow would warn
        rows_of = silence_retracing(tf.function(rows_of, autograph=False))
    return gx, rows_of(tf.eye(size, dtype=gx.dtype))


def _at_least_one_row(tensor):
    """`tensor`, or a row of zeros for an empty batch, on which TensorFlow's vectorized gradients fail."""
    missing = tf.cast(tf.equal(tf.shape(tensor)[0], 0), tf.int32)
    padded = tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])
    padded.set_shape([None, *tensor.shape[1:]])  # a check, as of ensure_shape, is not in TFLite
    return padded
