"""How log-likelihoods are estimated: plans, and the measurement of the blocks behind one."""

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
from tf_resflow.layers.program import bind
from tf_resflow.logdet.power_series import power_series_log_det
from tf_resflow.logdet.probes import coloring, draw_probes
from tf_resflow.logdet.term_distributions import TermDistribution
from tf_resflow.models import FlowModel
from tf_resflow.models.dequantization import on_grid, points_per_set
from tf_resflow.progress import track
from tf_resflow.seeds import random_integers, split_seed
from tf_resflow.typing import LogDet, TensorLike

MEGABYTES = 500  # of values that a branch computes at once

_EXAMPLES = 16  # of the measurement
_DRAWS = 8  # of the dequantization of each; in cells, sets of draws
_MAX_POINTS = 64  # measured points of a set; the error of more is extrapolated
_ROWS = 128  # at which a block is measured at once, at most
_MARGIN = 0.85  # of the standard error that is planned for: what was chosen looked better than it is
_RTOLS = (1e-1, 1e-2, 1e-3)
_CHANCE = 0.1  # of terms after the exact ones: large enough for a short measurement to see their noise
_MAX_PROBES = 512
_SLOW = 0.9  # ratio of terms above which a series decays slowly
_MIN_SAMPLES = 4  # of noisy estimates, for a standard error with 3 degrees of freedom
_NUMBERS = [4, 5, 6, 7, *(k * 2**i for i in range(10) for k in (8, 9, 10, 12, 14)), 8192]  # of samples


class BlockPlan(NamedTuple):
    """The estimator of a block, and the noise in nats and the time of one estimate of an example."""

    log_det_estimator: logdet.LogDetEstimator
    std: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    r"""How the log-likelihood of an example is estimated: the mean of K = `num_samples` independent estimates.

    `tf_resflow.evaluation.plan_likelihood` measures a plan for a given standard error. The square of that error is
    \\((d^2 + \sum_b \sigma_b^2) / K\\), with the noise d of the dequantization and \\(\sigma_b\\) of the blocks.
    For vectors with `cells`, the estimate is the logarithm of the mean of K probabilities.

    Attributes:
      log_det_estimator: the estimator of the log-determinants, or a dict of them by block
        (`tf_resflow.bijectors.with_log_det_estimator`); by default the model's evaluation estimator.
      num_samples: K, at least 1.
      stderr: of a measured plan, the standard error that was asked for, in nats.
      dequantization_std: of a measured plan, d in nats.
      blocks: of a measured plan, a dict of each block's name to its estimator, `std` in nats and `seconds`.
    """

    log_det_estimator: LogDet | None = None
    num_samples: int = 1
    stderr: float | None = None
    dequantization_std: float = math.nan
    blocks: Mapping[str, BlockPlan] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {self.num_samples}.")

    @property
    def log_det_stderr(self) -> float:
        """The contribution of the log-determinants to the expected standard error, in nats."""
        return math.sqrt(_variance(self.blocks) / self.num_samples)

    @property
    def expected_stderr(self) -> float:
        """The expected standard error in nats: the root mean square over examples."""
        return math.hypot(self.log_det_stderr, self.dequantization_std / math.sqrt(self.num_samples))

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as numbers and text, for JSON."""
        blocks = {name: block._asdict() for name, block in self.blocks.items()}
        blocks = {name: describe_estimator(own.pop("log_det_estimator")) | own for name, own in blocks.items()}
        names = ("stderr", "expected_stderr", "log_det_stderr", "num_samples", "dequantization_std")
        return {name: getattr(self, name) for name in names} | {"blocks": blocks}


def default_num_samples(model: Any) -> int:
    """The number of estimates of a scored or served log-likelihood, if no plan says it."""
    return 8 if model.data_space.cells is None else 32


def held_out_plan(model: Any, log_det_estimator: Any = None) -> LikelihoodPlan:
    """The plan for the score of a data set."""
    num_samples = 1 if model.data_space.cells is None else default_num_samples(model)
    return LikelihoodPlan(log_det_estimator=log_det_estimator, num_samples=num_samples)


def describe_estimator(log_det_estimator: Any) -> dict[str, Any]:
    """An estimator, or a dict of them by block, for JSON."""
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
    """Measures which number of samples and which estimators reach a standard error in the least time.

    Each block is measured on its inputs for the first 16 examples: the noise and the time of `AdaptiveRoulette`
    with different numbers of probes and `rtol`, and the time of `Exact` if it fits into memory. Another run may
    choose other estimators, because times vary.

    ```python
    import tf_resflow as resflow
    flow = resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,))
    model = resflow.FlowModel(flow, event_shape=[2])
    x = [[0.1, 0.2], [1.0, -1.0]]
    plan = resflow.evaluation.plan_likelihood(model, x, stderr=0.01)
    print(plan.expected_stderr <= 0.01, resflow.evaluation.estimate_log_prob(model, x, plan=plan).log_prob.shape)
    # True (2,)
    ```

    Args:
      model: a `FlowModel`.
      x: examples `[batch, *event_shape]`, similar to the data that the plan is for.
      stderr: in nats, of each example's log-likelihood: the root mean square over examples. To convert from
        bits/dim, multiply by `model.data_space.nats_per_unit`.
      condition: of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K, if it is given; then `stderr` is the contribution of the log-determinants alone, and the noise
        of the dequantization does not count.
      seed: integer, of the measurement.

    Raises:
      ValueError: if `stderr` is not positive, is below the rounding of the dtype, or needs more than 8,192 samples;
        or x is not finite or not in its cells.

    Warns:
      UserWarning: if the series of a block decays slowly.
    """
    if not 0 < stderr < math.inf:
        raise ValueError(f"stderr must be positive and finite, in nats; got {stderr}.")
    x = tf.convert_to_tensor(x)
    arguments = {name: rows[:_EXAMPLES] for name, rows in model.condition.arguments(condition, len(x)).items()}
    x, cells = x[:_EXAMPLES], model.data_space.cells
    prepared = model.prepare(x, tf.constant([seed, 0]))
    valid = tf.math.is_finite(prepared)
    if cells is not None:
        valid &= on_grid(tf.cast(x, model.distribution.dtype), cells)
    if not bool(tf.reduce_all(valid)):
        raise ValueError("x holds values that are NaN, infinite or not in the middle of their cells.")
    _check_rounding(model, prepared, arguments, stderr)
    noise = _dequantization_std(model, x, arguments, seed)
    counted = noise if num_samples is None else lambda num: 0.0  # the part that the standard error includes
    useful = 0.3 * max(math.sqrt(num_samples or _MIN_SAMPLES) * stderr, counted(_MIN_SAMPLES))
    if cells is not None:
        useful = min(useful, math.sqrt(0.3 * stderr))
    choices = _choices_by_block(model, prepared, arguments, useful, seed)
    numbers = _NUMBERS if num_samples is None else [num_samples]
    rests = {num: (_MARGIN * stderr) ** 2 - counted(num) ** 2 / num for num in numbers}
    allowed = {num: _allowed_variance(num, rest, cells is not None) for num, rest in rests.items() if rest > 0}
    if num_samples is None and not noise(_MIN_SAMPLES):
        allowed[1] = 0.0  # a single sample has a standard error only if it is 0
    chosen = {num: blocks for num in allowed if (blocks := _cheapest(choices, allowed[num])) is not None}
    if not chosen:
        most = max(numbers)
        least = {name: min(of_block, key=lambda choice: choice.std) for name, of_block in choices.items()}
        reached = math.sqrt((_variance(least) + counted(most) ** 2) / most) / _MARGIN
        raise ValueError(
            f"stderr={stderr:.3g} nats needs more than {most} samples, which reach about {reached:.2g} nats. "
            "Ask for a larger standard error."
        )
    num = min(chosen, key=lambda num: num * sum(block.seconds for block in chosen[num].values()))
    log_det, std = {name: block.log_det_estimator for name, block in chosen[num].items()}, noise(num)
    return LikelihoodPlan(
        log_det_estimator=log_det, num_samples=num, stderr=stderr, dequantization_std=std, blocks=chosen[num]
    )


def _variance(blocks):
    return sum(block.std**2 for block in blocks.values())


def _allowed_variance(num_samples, squared_error, in_cells):
    """The variance S of the blocks for which S / K, or in cells S / K + (S / 2)^2, is the squared error."""
    if not in_cells:
        return num_samples * squared_error
    return 2 * (math.sqrt(1 / num_samples**2 + squared_error) - 1 / num_samples)


def _cheapest(choices, allowed):
    """Chooses a `BlockPlan` for each block within the allowed variance, or returns None.

    From the fastest of each block, the choice that removes most variance per second is next.
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
    """The noise d of the dequantization in nats, as a function of K; the draws share their probes."""
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

    def of_mean(num):
        num = min(points_per_set(num), num_points)
        return math.sqrt(num) * _std(draws.reshape([_DRAWS, num_points // num, num, -1]).mean(2))

    return of_mean


def _std(draws):
    """The root mean square over examples of the standard deviation over draws, the first axis."""
    return math.sqrt(np.var(draws, axis=0, ddof=1).mean())


def _choices_by_block(model, x, arguments, useful, seed):
    """A dict of the name of each block to its `BlockPlan`s; less noise than `useful` of all blocks never pays."""
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
    """Raises a ValueError for a standard error that the rounding of the sum of a log-likelihood exceeds."""
    latent = bijectors.forward_features(model.flow, x, compute_log_det=False, **arguments).latent
    base = model.distribution.distribution
    terms = tf.reduce_mean(tf.abs(base.log_prob(latent))) + 2 * abs(model.data_space.log_num_cells)
    dtype = model.distribution.dtype
    rounding = 4 * np.finfo(dtype.as_numpy_dtype).eps * float(terms)
    if stderr < rounding:
        raise ValueError(
            f"stderr={stderr:.3g} nats is below the rounding of {dtype.name}, about {rounding:.2g} nats for this "
            "model. Ask for a larger stderr, or build the flow in float64."
        )


def _warn_of_slow_decay(name, block, inputs, seed):
    """Warns if the terms of a block's series decay slowly."""
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
            f"The series of {name} decays by only {decay:.2f} per term, so its log-determinant is expensive to "
            "estimate. A lower coefficient of the Lipschitz layers (config.model.coefficient) makes it decay "
            "faster.",
            stacklevel=4,
        )


def _exact(block, inputs, most_rows):
    """The `BlockPlan` of `Exact`, in a list that is empty if its rows do not fit into memory."""
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
    """The `BlockPlan`s of colored probes, measured until the noise is below `enough`, and of independent probes."""
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
            rtols = rtols[1:]  # more probes show the noise of the roulette even more
        if measured[-1].std <= enough:
            break
    return found


def _numbers_of_probes(x):
    """Powers of 2; of images, those for each channel that keep pixels of a color 1, 2, ... 5 apart."""
    size, channels = x.shape[1:].num_elements(), x.shape[-1]
    is_image = x.shape.rank > 2
    numbers = {1, *(k * channels for k in (1, 4, 5, 9, 16, 25))} if is_image else {2**k for k in range(10)}
    return sorted(number for number in numbers if number <= min(size, _MAX_PROBES))


def _roulette(rtol, num_probes, **kwargs):
    return logdet.AdaptiveRoulette(rtol, per_example=True, chance=_CHANCE, num_probes=num_probes, **kwargs)


def _series(block):
    """The estimate of each row from its own probe, traced once for all numbers of rows and all `rtol`."""
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
    """Random signs for rows of examples, each twice with the same color; a seed; and the inputs of these rows."""
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
    """The noise and the seconds of an estimate: its variance is that of one color, times their number."""
    measured = [_timed(estimate, v, seed, tf.constant(rtol), *inputs) for v, seed, inputs in draws]
    pairs = np.concatenate([np.reshape(value, [2, -1]) for value, _ in measured], axis=1).astype(np.float64)
    seconds = min(seconds for _, seconds in measured) / len(measured[0][0])
    return math.sqrt(num_probes * np.mean((pairs[0] - pairs[1]) ** 2) / 2), num_probes * seconds


def _timed(function, *arguments):
    start = time.perf_counter()
    value = function(*arguments).numpy()
    return value, time.perf_counter() - start


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """The bytes that a branch computes for one row: all values of its graph with a row axis."""
    shapes = [block.event_shape, *([block.condition_shape] if block.has_condition else [])]
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.has_condition else specs[0]
    traced = tf.function(block.branch, autograph=False).get_concrete_function(inputs)
    values = [value for operation in traced.graph.get_operations() for value in operation.outputs]
    rows = [value for value in values if value.shape.rank and value.shape[0] is None]
    return sum((value.shape[1:].num_elements() or 0) * value.dtype.size for value in rows)
