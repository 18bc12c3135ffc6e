"""Plans for estimating log-likelihoods, and the measurements that they are based on."""

import dataclasses
import itertools
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, logdet
from tf_resflow.console import track
from tf_resflow.layers.program import bind
from tf_resflow.logdet.power_series import power_series_log_det
from tf_resflow.logdet.probes import coloring, draw_probes
from tf_resflow.logdet.term_distributions import TermDistribution
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantization import on_grid, points_per_set
from tf_resflow.seeds import random_integers, split_seed
from tf_resflow.typing import LogDet, TensorLike

MEGABYTES = 500  # limit for the values that a branch computes at once

_EXAMPLES = 16  # measured examples
_DRAWS = 8  # dequantizations of each measured example; with cells, sets of dequantizations
_MAX_POINTS = 64  # largest measured set of points; the error of larger sets is extrapolated
_ROWS = 128  # maximum number of rows in one measurement of a block
_MARGIN = 0.85  # planned share of the standard error: choosing by a noisy measurement underestimates the noise
_RTOLS = (1e-1, 1e-2, 1e-3)
_CHANCE = 0.1  # chance of any term after the exact terms, so that a short measurement sees their noise
_MAX_PROBES = 512
_SLOW = 0.9  # a series decays slowly if the ratio of its terms is larger
_MIN_SAMPLES = 4  # fewest noisy estimates: a standard error with 3 degrees of freedom
_NUMBERS = [4, 5, 6, 7, *(k * 2**i for i in range(10) for k in (8, 9, 10, 12, 14)), 8192]  # candidates for K


class BlockPlan(NamedTuple):
    """The estimator of a block, with the noise in nats and the seconds of one estimate for an example."""

    log_det_estimator: logdet.LogDetEstimator
    std: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    r"""How to estimate the log-likelihood of an example: as the mean of K = `num_samples` independent estimates.

    `tf_resflow.evaluation.plan_likelihood` measures a plan for a given standard error. The square of that error is
    \\((d^2 + \sum_b \sigma_b^2) / K\\), where d is the noise of the dequantization and \\(\sigma_b\\) of block b.
    For vectors with `cells`, the estimate is the logarithm of the mean of K probabilities.

    Attributes:
      log_det_estimator: log-determinant estimator, or a dict of estimators by block
        (`tf_resflow.bijectors.with_log_det_estimator`). By default, the model's evaluation estimator.
      num_samples: K, at least 1.
      stderr: requested standard error in nats; None if the plan was not measured.
      dequantization_std: d in nats; NaN if the plan was not measured.
      blocks: dict of block name to estimator, `std` in nats and `seconds`; empty if the plan was not measured.
    """

    log_det_estimator: LogDet | None = None
    num_samples: int = 1
    stderr: float | None = None
    dequantization_std: float = math.nan
    blocks: Mapping[str, BlockPlan] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} is too small. Pass at least 1 sample.")

    @property
    def log_det_stderr(self) -> float:
        """The contribution of the log-determinants to the expected standard error, in nats."""
        return math.sqrt(_variance(self.blocks) / self.num_samples)

    @property
    def expected_stderr(self) -> float:
        """The expected standard error in nats, as the root mean square over examples."""
        return math.hypot(self.log_det_stderr, self.dequantization_std / math.sqrt(self.num_samples))

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as a dict of numbers and text, which JSON can store."""
        blocks = {name: block._asdict() for name, block in self.blocks.items()}
        blocks = {name: describe_estimator(own.pop("log_det_estimator")) | own for name, own in blocks.items()}
        names = ("stderr", "expected_stderr", "log_det_stderr", "num_samples", "dequantization_std")
        return {name: getattr(self, name) for name in names} | {"blocks": blocks}


def default_num_samples(model: Any) -> int:
    """Returns the number of estimates for a scored or served log-likelihood without a plan."""
    return 8 if model.data_space.cells is None else 32


def held_out_plan(model: Any, log_det_estimator: Any = None) -> LikelihoodPlan:
    """Returns the default plan for the score of a data set."""
    num_samples = 1 if model.data_space.cells is None else default_num_samples(model)
    return LikelihoodPlan(log_det_estimator=log_det_estimator, num_samples=num_samples)


def describe_estimator(log_det_estimator: Any) -> dict[str, Any]:
    """Returns the settings of an estimator, or of a dict of estimators by block, for JSON."""
    if isinstance(log_det_estimator, Mapping):
        blocks = {name: describe_estimator(part) for name, part in log_det_estimator.items()}
        return {"type": "by block", "blocks": blocks}

    def plain(value):
        if isinstance(value, TermDistribution):
            return describe_estimator(value)
        return value if isinstance(value, (bool, int, float, str)) else str(value)

    settings = {k: plain(v) for k, v in vars(log_det_estimator).items() if not k.startswith("_") and v is not None}
    return {"type": type(log_det_estimator).__name__, **settings}


def plan_likelihood(
    model: FlowModel,
    x: TensorLike,
    stderr: float,
    *,
    condition: TensorLike | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> LikelihoodPlan:
    """Finds the number of samples and the estimators that reach a standard error in the least time.

    Each block is measured on its inputs for the first 16 examples: the noise and time of `AdaptiveRoulette` with
    several numbers of probes and values of `rtol`, and the time of `Exact` if it fits into memory. Times vary, so
    another run may choose other estimators.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    model = resflow.FlowModel(flow, event_shape=[2])
    x = [[0.1, 0.2], [1.0, -1.0]]
    plan = resflow.evaluation.plan_likelihood(model, x, stderr=0.01)
    estimate = resflow.evaluation.estimate_log_prob(model, x, plan=plan)
    print(plan.expected_stderr <= 0.01, estimate.log_prob.shape)
    # True (2,)
    ```

    Args:
      model: a `FlowModel`.
      x: examples `[batch, *event_shape]` that resemble the data to evaluate.
      stderr: standard error of an example's log-likelihood in nats, as the root mean square over examples. To
        convert from bits/dim, multiply by `model.data_space.nats_per_unit`.
      condition: condition of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K, if it is fixed. Then `stderr` limits the contribution of the log-determinants alone.
      seed: integer seed of the measurement.

    Raises:
      ValueError: if `stderr` is not positive and finite, is below the rounding error, or needs more than 8,192
        samples; or if x is not finite or not at the centers of its cells.

    Warns:
      UserWarning: if the power series of a block decays slowly.
    """
    if not 0 < stderr < math.inf:
        raise ValueError(f"stderr={stderr} is not a positive, finite number of nats. Pass one, such as 0.1.")
    x = tf.convert_to_tensor(x)
    arguments = {name: rows[:_EXAMPLES] for name, rows in model.condition.arguments(condition, len(x)).items()}
    x, cells = x[:_EXAMPLES], model.data_space.cells
    prepared = model.prepare(x, tf.constant([seed, 0]))
    valid = tf.math.is_finite(prepared)
    if cells is not None:
        valid &= on_grid(tf.cast(x, model.distribution.dtype), cells)
    if not bool(tf.reduce_all(valid)):
        raise ValueError("x contains values that are NaN, infinite or not at the center of a cell. Remove them.")
    _check_rounding(model, prepared, arguments, stderr)
    noise = _dequantization_std(model, x, arguments, seed)
    counted = noise if num_samples is None else lambda num: 0.0  # the dequantization noise that counts
    useful = 0.3 * max(math.sqrt(num_samples or _MIN_SAMPLES) * stderr, counted(_MIN_SAMPLES))
    if cells is not None:
        useful = min(useful, math.sqrt(0.3 * stderr))
    choices = _choices_by_block(model, prepared, arguments, useful, seed)
    numbers = _NUMBERS if num_samples is None else [num_samples]
    rests = {num: (_MARGIN * stderr) ** 2 - counted(num) ** 2 / num for num in numbers}
    allowed = {num: _allowed_variance(num, rest, cells is not None) for num, rest in rests.items() if rest > 0}
    if num_samples is None and not noise(_MIN_SAMPLES):
        allowed[1] = 0.0  # one sample has a known standard error only if it has no noise
    chosen = {num: blocks for num in allowed if (blocks := _cheapest(choices, allowed[num])) is not None}
    if not chosen:
        most = max(numbers)
        least = {name: min(block_choices, key=lambda choice: choice.std) for name, block_choices in choices.items()}
        reached = math.sqrt((_variance(least) + counted(most) ** 2) / most) / _MARGIN
        raise ValueError(
            f"stderr={stderr:.3g} nats is out of reach: {most} samples reach about {reached:.2g} nats. "
            "Pass a larger stderr."
        )
    num = min(chosen, key=lambda num: num * sum(block.seconds for block in chosen[num].values()))
    log_det, std = {name: block.log_det_estimator for name, block in chosen[num].items()}, noise(num)
    return LikelihoodPlan(
        log_det_estimator=log_det, num_samples=num, stderr=stderr, dequantization_std=std, blocks=chosen[num]
    )


def _variance(blocks):
    return sum(block.std**2 for block in blocks.values())


def _allowed_variance(num_samples, squared_error, in_cells):
    """Solves S / K = squared error, or in cells S / K + (S / 2)^2, for the variance S of the blocks."""
    if not in_cells:
        return num_samples * squared_error
    return 2 * (math.sqrt(1 / num_samples**2 + squared_error) - 1 / num_samples)


def _cheapest(choices, allowed):
    """Chooses a `BlockPlan` for each block within the allowed variance, or returns None if there is none.

    Starts with the fastest choices, and repeatedly makes the change that removes the most variance per second.
    """
    chosen = {name: min(found, key=lambda choice: choice.seconds) for name, found in choices.items()}
    while _variance(chosen) > allowed:
        gains = [
            ((now.std**2 - choice.std**2) / max(choice.seconds - now.seconds, 1e-12), name, choice)
            for name, now in chosen.items()
            for choice in choices[name]
            if choice.std < now.std
        ]
        if not gains:
            return None
        _, name, choice = max(gains, key=lambda gain: gain[0])
        chosen[name] = choice
    return chosen


def _dequantization_std(model, x, arguments, seed):
    """Returns the dequantization noise d in nats as a function of K. All draws share their probes."""
    if not model.data_space.is_dequantized:
        return lambda num: 0.0
    density = bijectors.with_log_det_estimator(model.distribution, _roulette(_RTOLS[1], 1, probe_sets=1))
    in_cells = model.data_space.cells is not None
    num_points = _MAX_POINTS if in_cells else 1
    arguments = {name: tf.concat([rows] * num_points, 0) for name, rows in arguments.items()}

    def log_probs(draw):
        noise = {"log_det_estimator": model.evaluation_log_det_estimator, "point_sets": (1, num_points)}
        z, log_q = model.data_space.dequantize(tf.concat([x] * num_points, 0), tf.constant([seed, draw]), **noise)
        return density.log_prob(z, bijector_kwargs={"seed": tf.constant([seed, 0]), **arguments}) - log_q

    draws = np.reshape([log_probs(1 + draw) for draw in range(_DRAWS)], [_DRAWS, num_points, -1]).astype(np.float64)
    if not in_cells:
        std = _std(draws)
        return lambda num: std
    draws = np.exp(draws - draws.max((0, 1)))
    draws /= draws.mean((0, 1))

    def noise_of_mean(num):
        num = min(points_per_set(num), num_points)
        return math.sqrt(num) * _std(draws.reshape([_DRAWS, num_points // num, num, -1]).mean(2))

    return noise_of_mean


def _std(draws):
    """Returns the root mean square over examples of the standard deviation over draws (the first axis)."""
    return math.sqrt(np.var(draws, axis=0, ddof=1).mean())


def _choices_by_block(model, x, arguments, useful, seed):
    """Returns the `BlockPlan`s by block name. Reducing the total noise below `useful` is not worth the time."""
    blocks = bijectors.views.blocks_by_name(model.flow)
    inputs = bijectors.passes.block_inputs(model.flow, x, **arguments)
    enough = useful / math.sqrt(max(1, len(blocks)))
    exact, choices = {}, {}
    for name, block in track(blocks.items(), "noise of the blocks"):
        rows = [inputs[name], *(arguments.values() if block.has_condition else [])]
        rows[0] = block.expansion_point(*rows)
        _warn_of_slow_decay(name, block, rows, seed)
        most_rows = MEGABYTES * 2**20 // bytes_per_row(block)
        kind = (*inputs[name].shape, len(rows), most_rows)  # similar blocks need the same time
        if kind not in exact:
            exact[kind] = _exact(block, rows, most_rows)
        num_rows = 2 * max(1, min(_ROWS, most_rows) // 2)
        choices[name] = exact[kind] + _estimates(block, rows, num_rows, enough, seed)
    return choices


def _check_rounding(model, x, arguments, stderr):
    latent = bijectors.forward_features(model.flow, x, compute_log_det=False, **arguments).latent
    base = model.distribution.distribution
    terms = tf.reduce_mean(tf.abs(base.log_prob(latent))) + 2 * abs(model.data_space.log_num_cells)
    dtype = model.distribution.dtype
    rounding = 4 * np.finfo(dtype.as_numpy_dtype).eps * float(terms)
    if stderr < rounding:
        raise ValueError(
            f"stderr={stderr:.3g} nats is below the rounding error of {dtype.name}, about {rounding:.2g} nats for "
            "this model. Pass a larger stderr, or build the flow in float64."
        )


def _warn_of_slow_decay(name, block, inputs, seed):
    x = inputs[0]
    v = draw_probes("rademacher", 1, x, tf.constant([seed, 0]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        gx = block.branch(inputs if block.has_condition else x)
    w, num, ratio = v, 0, math.inf
    while ratio > _RTOLS[-1] and num < logdet.AdaptiveRoulette.max_exact_terms:
        w = tape.gradient(gx, x, w, unconnected_gradients="zero")
        num += 1
        norms = [tf.norm(tf.reshape(rows, [len(rows), -1]), axis=1) for rows in (w, v)]
        ratio = float(tf.reduce_max(norms[0] / norms[1]))
    decay = ratio ** (1 / num)
    if decay > _SLOW:
        warnings.warn(
            f"The power series of {name} shrinks only by a factor of {decay:.2f} per term, so its log-determinant "
            "is expensive to estimate. Lower the coefficient of the Lipschitz layers (config.model.coefficient).",
            stacklevel=4,
        )


def _exact(block, inputs, most_rows):
    """Returns a list with the `BlockPlan` of `Exact`, or an empty list if its rows do not fit into memory."""
    few = [rows[: most_rows // inputs[0].shape[1:].num_elements()] for rows in inputs]
    if not len(few[0]):
        return []
    exact = logdet.Exact()

    def log_det(*inputs):
        if block.has_odd_series:
            return exact.log_det_ratio(block.branch, *inputs)
        return exact(block.branch, *inputs)[1]

    compute = tf.function(log_det, autograph=False).get_concrete_function(*few)
    return [BlockPlan(exact, 0.0, min(_timed(compute, *few)[1] for _ in range(3)) / len(few[0]))]


def _estimates(block, inputs, num_rows, enough, seed):
    """Returns `BlockPlan`s of colored probes, until the noise is below `enough`, and of independent probes."""
    estimate, rtols, found = _series(block), list(_RTOLS), []
    for num_probes in _numbers_of_probes(inputs[0]):
        draws = [_draw(inputs, num_rows, num_probes, seed, draw) for draw in range(2)]
        measured: list[Any] = []
        for rtol in rtols[:2]:
            std, seconds = _measured(estimate, draws, num_probes, rtol)
            measured.append(BlockPlan(_roulette(rtol, num_probes, probes="colored"), std, seconds))
        found += measured
        if num_probes == 1:
            most = min(inputs[0].shape[1:].num_elements(), _MAX_PROBES)
            for choice, num in itertools.product(measured, [2**k for k in range(1, most.bit_length())]):
                several = dataclasses.replace(choice.log_det_estimator, probes="rademacher", num_probes=num)
                found.append(BlockPlan(several, choice.std / math.sqrt(num), choice.seconds * num))
        if measured[-1].std < 0.9 * measured[0].std:
            rtols = rtols[1:]  # with more probes, the noise of the roulette dominates even more
        if measured[-1].std <= enough:
            break
    return found


def _numbers_of_probes(x):
    """Returns powers of 2; for images, numbers of colors that keep equal colors 1, 2, ..., 5 pixels apart."""
    size, channels = x.shape[1:].num_elements(), x.shape[-1]
    is_image = x.shape.rank > 2
    numbers = {1, *(k * channels for k in (1, 4, 5, 9, 16, 25))} if is_image else {2**k for k in range(10)}
    return sorted(number for number in numbers if number <= min(size, _MAX_PROBES))


def _roulette(rtol, num_probes, **kwargs):
    return logdet.AdaptiveRoulette(rtol, per_example=True, chance=_CHANCE, num_probes=num_probes, **kwargs)


def _series(block):
    """Traces the estimate of each row from its own probe, once for all numbers of rows and all `rtol`."""
    dtype, roulette = block.dtype, _roulette(_RTOLS[0], 1)

    def estimate(v, seed, rtol, *inputs):
        roulette.rtol = rtol
        draw = lambda branch, x, seed: (v, roulette.terms(branch, v, seed))  # noqa: E731
        return power_series_log_det(bind(block.branch), inputs, 1, draw, seed, odd=block.has_odd_series)[1]

    rows = tf.TensorSpec([None, *block.event_shape], dtype)
    specs = [rows, tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.float32), rows]
    if block.has_condition:
        specs.append(tf.TensorSpec([None, *block.condition_shape], dtype))
    return tf.function(estimate, autograph=False).get_concrete_function(*specs)


def _draw(inputs, num_rows, num_probes, seed, draw):
    """Draws signs for rows of examples (each row twice, with one color), and returns a seed and the inputs too."""
    x = inputs[0]
    color_seed, sign_seed, term_seed = tf.unstack(split_seed([seed, draw], 3))
    num = num_rows // 2
    chosen = (draw * num + tf.range(num)) % len(x)
    colors = random_integers([num, *[1] * (x.shape.rank - 1)], color_seed, num_probes)
    mask = tf.cast(coloring(tf.shape(x)[1:], x.shape[1:], num_probes) == colors, x.dtype)
    v = tf.tile(mask, [2] + [1] * (x.shape.rank - 1))
    v *= draw_probes("rademacher", 2, tf.gather(x, chosen), sign_seed)
    return v, term_seed, [tf.gather(rows, tf.concat([chosen, chosen], 0)) for rows in inputs]


def _measured(estimate, draws, num_probes, rtol):
    """Returns the noise and seconds of an estimate, scaled from one measured color to all `num_probes` colors."""
    measured = [_timed(estimate, v, seed, tf.constant(rtol), *inputs) for v, seed, inputs in draws]
    pairs = np.concatenate([np.reshape(value, [2, -1]) for value, _ in measured], axis=1).astype(np.float64)
    seconds = min(seconds for _, seconds in measured) / len(measured[0][0])
    return math.sqrt(num_probes * np.mean((pairs[0] - pairs[1]) ** 2) / 2), num_probes * seconds


def _timed(function, *arguments):
    start = time.perf_counter()
    value = function(*arguments).numpy()
    return value, time.perf_counter() - start


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """Returns the bytes that a branch computes per row: all values of its graph that have a row axis."""
    shapes = [block.event_shape, *([block.condition_shape] if block.has_condition else [])]
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.has_condition else specs[0]
    traced = tf.function(bind(block.branch), autograph=False).get_concrete_function(inputs)
    values = [value for operation in traced.graph.get_operations() for value in operation.outputs]
    rows = [value for value in values if value.shape.rank and value.shape[0] is None]
    return sum((value.shape[1:].num_elements() or 0) * value.dtype.size for value in rows)
