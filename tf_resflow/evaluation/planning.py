"""How log-likelihoods are estimated: plans, and the measurement of the blocks behind one."""

import dataclasses
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
from tf_resflow.plurals import counted
from tf_resflow.progress import track
from tf_resflow.seeds import random_integers, split_seed
from tf_resflow.typing import LogDet, TensorLike

__all__ = [
    "LikelihoodPlan",
    "default_num_samples",
    "describe_estimator",
    "describe_plan",
    "held_out_plan",
    "plan_likelihood",
]

MEGABYTES = 500  # of values that a branch computes at once
_NUM_SAMPLES, _NUM_IN_CELLS = 8, 32  # estimates of a log-likelihood, if no plan says it

_EXAMPLES = 16  # of the measurement
_DRAWS = 8  # of the dequantization of each; in cells, sets of draws
_MAX_POINTS = 64  # measured points of a set; the error of more is extrapolated
_ROWS = 128  # at which a block is measured at once, at most
_MARGIN = 0.85  # of the standard error that is planned for: what was chosen looked better than it is
_RTOLS = (1e-1, 1e-2, 1e-3)
_CHANCE = 0.1  # of terms after the exact ones: large enough for a short measurement to see their noise
_MAX_PROBES = 512
_MIN_SAMPLES = 4  # of noisy estimates, for a standard error with 3 degrees of freedom
_NUMBERS = [4, 5, 6, 7, *(k * 2**i for i in range(10) for k in (8, 9, 10, 12, 14)), 8192]  # of samples
_SLOW = 0.9  # ratio of terms above which a series decays slowly


class BlockPlan(NamedTuple):
    """The estimator of a block, and the noise, in nats, and the time of one of its estimates of an example."""

    log_det: logdet.LogDetEstimator
    std: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodPlan:
    r"""How the log-likelihood of an example is estimated: the mean of K = `num_samples` independent estimates.

    `tf_resflow.evaluation.plan_likelihood` makes one for an asked-for standard error. Its square is then
    \\((d^2 + \sum_b \sigma_b^2) / K\\), with the noise d of the dequantization and \\(\sigma_b\\) of the blocks.
    For vectors with `cells`, the logarithm of the mean of K probabilities is estimated. Then \\(d^2 / K\\) is the
    squared relative error of this mean for exact log-determinants.

    Attributes:
      log_det: the estimator of the log-determinants, or a dict of them by block
        (`tf_resflow.bijectors.with_log_det`); by default the model's evaluation estimator.
      num_samples: K, at least 1.
      stderr: what was asked for, in nats, if the plan was measured.
      dequantization_std: then d, in nats.
      blocks: then a dict of the name of each block to its estimator, `std` in nats and `seconds`.
    """

    log_det: LogDet | None = None
    num_samples: int = 1
    stderr: float | None = None
    dequantization_std: float = math.nan
    blocks: Mapping[str, BlockPlan] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {self.num_samples}.")

    @property
    def log_det_stderr(self) -> float:
        """The part of the log-determinants in the expected standard error, in nats."""
        return math.sqrt(sum(block.std**2 for block in self.blocks.values()) / self.num_samples)

    @property
    def expected_stderr(self) -> float:
        """The standard error that it should give, in nats: the root mean square over examples."""
        return math.hypot(self.log_det_stderr, self.dequantization_std / math.sqrt(self.num_samples))

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers and text, for JSON."""
        blocks = {
            name: {**describe_estimator(block.log_det), "std": block.std, "seconds": block.seconds}
            for name, block in self.blocks.items()
        }
        names = ("stderr", "expected_stderr", "log_det_stderr", "num_samples", "dequantization_std")
        return {**{name: getattr(self, name) for name in names}, "blocks": blocks}

    def __str__(self) -> str:
        lines = [
            f"{counted(self.num_samples, 'sample')}: a standard error of {self.expected_stderr:.3g} nats, and "
            f"{self.log_det_stderr:.3g} of the log-determinants alone"
        ]
        width = max(map(len, self.blocks), default=0)
        for name, block in self.blocks.items():
            of_block = describe_estimator(block.log_det)
            arguments = ", ".join(f"{k}={v}" for k, v in of_block.items() if k in ("probes", "num_probes", "rtol"))
            lines.append(f"  {name:<{width}}  {of_block['type']}({arguments}): {block.std:.3g} nats")
        return "\n".join(lines)


def default_num_samples(model: Any) -> int:
    """The number of estimates of a scored or served log-likelihood, if no plan says it."""
    return _NUM_SAMPLES if model.data_space.cells is None else _NUM_IN_CELLS


def held_out_plan(model: Any, log_det: Any = None) -> LikelihoodPlan:
    """How held-out examples are scored: by one estimate, or in cells by the default number of a score."""
    num_samples = 1 if model.data_space.cells is None else default_num_samples(model)
    return LikelihoodPlan(log_det=log_det, num_samples=num_samples)


def describe_plan(plan: LikelihoodPlan) -> dict[str, Any]:
    """A plan for JSON: what was measured, or the estimator alone."""
    if plan.stderr is None:
        return describe_estimator(plan.log_det)
    return {"type": "LikelihoodPlan", **plan.as_dict()}


def describe_estimator(log_det: Any) -> dict[str, Any]:
    """What a model takes as `log_det`, for JSON: its "type" and its settings, or the estimators of "blocks"."""
    if isinstance(log_det, Mapping):
        return {"type": "by block", "blocks": {name: describe_estimator(part) for name, part in log_det.items()}}

    def plain(value):
        if isinstance(value, TermDistribution):
            return describe_estimator(value)
        return value if isinstance(value, (bool, int, float, str)) else str(value)

    settings = {k: plain(v) for k, v in vars(log_det).items() if not k.startswith("_") and v is not None}
    return {"type": type(log_det).__name__, **settings}


def plan_likelihood(
    model: FlowModel,
    x: TensorLike,
    stderr: float,
    *,
    condition: TensorLike | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> LikelihoodPlan:
    """Chooses the number of samples and the estimators of a standard error, those that took the least time.

    Each block is measured alone, on its inputs for the first 16 examples: the noise and the time of
    `AdaptiveRoulette` with more and more colored probes and some `rtol`, until less noise would not pay; and the
    time of `Exact`, if it fits into memory. The times are of this machine, and another run
    may choose other probes.

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
      x: examples as for `FlowModel.log_prob`, like those to come.
      stderr: in nats, of each example's log-likelihood: the root mean square over examples. A number of bits/dim
        times `model.data_space.nats_per_unit` is in nats.
      condition: of a conditional model, as for `FlowModel.log_prob`.
      num_samples: K, if it is given; then `stderr` is the part of the log-determinants alone, whatever the noise
        of the dequantization.
      seed: integer, of the measurement.

    Raises:
      ValueError: if `stderr` is not positive, below the rounding of the model's type, or beyond 8,192 samples; or
        if x is not finite.

    Warns:
      UserWarning: if the series of a block decays slowly.
    """
    if not 0 < stderr < math.inf:
        raise ValueError(f"stderr must be positive and finite, in nats; got {stderr}.")
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    x = tf.convert_to_tensor(x)
    arguments = {name: rows[:_EXAMPLES] for name, rows in model.condition.arguments(condition, len(x)).items()}
    x = x[:_EXAMPLES]
    cells = model.data_space.cells
    if cells is not None and not bool(tf.reduce_all(on_grid(tf.cast(x, model.distribution.dtype), cells))):
        raise ValueError("x holds values that are not in the middle of their cells, and have probability 0.")
    prepared = model.prepare(x, tf.constant([seed, 0]))
    if not bool(tf.reduce_all(tf.math.is_finite(prepared))):
        raise ValueError("x holds NaN or infinite values: plan for examples like those to come.")
    _check_rounding(model, prepared, arguments, stderr)
    blocks = bijectors.views.blocks_by_name(model.flow)
    most_rows = {name: MEGABYTES * 2**20 // bytes_per_row(block) for name, block in blocks.items()}
    noise = _dequantization_std(model, x, arguments, seed, max(1, min(most_rows.values(), default=_ROWS)))
    least_noise = 0.0 if num_samples else noise(_MIN_SAMPLES)
    useful = 0.3 * max(math.sqrt(num_samples or _MIN_SAMPLES) * stderr, least_noise)
    in_cells = model.data_space.cells is not None
    if in_cells:
        useful = min(useful, math.sqrt(0.3 * stderr))
    choices = _choices_by_block(model, prepared, arguments, most_rows, useful, seed)
    aim = _MARGIN * stderr
    rests = {num_samples: aim**2} if num_samples else {num: aim**2 - noise(num) ** 2 / num for num in _NUMBERS}
    allowed = {num: _allowed_variance(num, rest, in_cells) for num, rest in rests.items() if rest > 0}
    if not least_noise and num_samples is None:
        allowed[1] = 0.0  # a single sample has no standard error but 0
    found = [plan for item in allowed.items() if (plan := _cheapest(choices, *item))]
    if not found:
        best = {name: min(found, key=lambda choice: choice.std) for name, found in choices.items()}
        blocks_noise, most = math.sqrt(_variance(best)), num_samples or _NUMBERS[-1]
        of_noise = 0.0 if num_samples else noise(most)
        bias = 0.5 * blocks_noise**2 if in_cells else 0.0
        least = math.hypot(of_noise / math.sqrt(most), blocks_noise / math.sqrt(most), bias) / _MARGIN
        raise ValueError(
            f"stderr={stderr:.3g} nats takes more than {most} samples, which reach about {least:.2g} nats: one has "
            f"a noise of {of_noise:.2g} nats by the dequantization and {blocks_noise:.2g} by the blocks. Ask for "
            "more."
        )
    num, chosen = min(found, key=lambda plan: plan[0] * sum(block.seconds for block in plan[1].values()))
    return LikelihoodPlan(
        log_det={name: block.log_det for name, block in chosen.items()},
        num_samples=num,
        stderr=stderr,
        dequantization_std=noise(num),
        blocks=chosen,
    )


def _check_rounding(model, x, arguments, stderr):
    """Raises a ValueError for a standard error that the rounding of the sum of a log-likelihood exceeds."""
    latent = bijectors.forward_features(model.flow, x, log_det=False, **arguments).latent
    base = model.distribution.distribution
    terms = tf.reduce_mean(tf.abs(base.log_prob(latent))) + 2 * abs(model.data_space.log_num_cells)
    dtype = model.distribution.dtype
    rounding = 4 * np.finfo(dtype.as_numpy_dtype).eps * float(terms)
    if stderr < rounding:
        raise ValueError(
            f"stderr={stderr:.3g} nats is below the rounding of {dtype.name}: about {rounding:.2g} nats can be "
            "reached with this model. Ask for more, or build the flow in float64."
        )


def _variance(blocks):
    return sum(block.std**2 for block in blocks.values())


def _allowed_variance(num_samples, squared_error, in_cells):
    """The variance S of the blocks in S / K = squared_error; of the mean of probabilities S / K + (S / 2)^2.

    S / 2 is the bias of the logarithm of a mean of probabilities whose logarithms have normal noise.
    """
    if not in_cells:
        return num_samples * squared_error
    return 2 * (math.sqrt(1 / num_samples**2 + squared_error) - 1 / num_samples)


def _cheapest(choices, num_samples, allowed):
    """A number of samples and the blocks whose variance is as allowed: the block that gains most a second first."""
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
    return num_samples, chosen


def _dequantization_std(model, x, arguments, seed, num_rows):
    """The noise d of the dequantization in nats, as a function of the number K of samples.

    The estimates have the same probes, whose own noise nearly cancels. In cells d^2 / K is the squared relative
    error of the mean of the probabilities of K samples, which are sets of points.
    """
    if not model.data_space.is_dequantized:
        return lambda num: 0.0
    density = bijectors.with_log_det(model.distribution, _roulette(_RTOLS[1], 1, probe_sets=1))
    in_cells = model.data_space.cells is not None
    num_points = _MAX_POINTS if in_cells else 1
    num_draws = _DRAWS * num_points
    rows, log_q = model.data_space.dequantize(
        tf.concat([x] * num_draws, 0),
        tf.constant([seed, 1]),
        log_det=model.evaluation_log_det,
        point_sets=(_DRAWS, num_points),
    )
    log_q = tf.broadcast_to(tf.cast(log_q, rows.dtype), tf.shape(rows)[:1])
    arguments = {name: tf.concat([value] * num_draws, 0) for name, value in arguments.items()}
    values = []
    for start in range(0, len(rows), num_rows):
        part = slice(start, start + num_rows)
        given = {"seed": tf.constant([seed, 2])} | {name: value[part] for name, value in arguments.items()}
        values.append(density.log_prob(rows[part], bijector_kwargs=given) - log_q[part])
    draws = np.reshape(tf.concat(values, 0), [_DRAWS, num_points, -1]).astype(np.float64)
    if not in_cells:
        std = math.sqrt(np.var(draws, axis=0, ddof=1).mean())
        return lambda num: std
    draws = np.exp(draws - draws.max((0, 1)))
    draws /= draws.mean((0, 1))

    def of_mean(num):
        num = min(points_per_set(num), num_points)
        means = draws.reshape([_DRAWS, num_points // num, num, -1]).mean(2)
        return math.sqrt(num * np.var(means, axis=0, ddof=1).mean())

    return of_mean


def _choices_by_block(model, x, arguments, most_rows, useful, seed):
    """A dict of the name of each block to its `BlockPlan`s; less noise than `useful` of all blocks never pays."""
    blocks = bijectors.views.blocks_by_name(model.flow)
    inputs = bijectors.passes.block_inputs(model.flow, x, **arguments)
    enough = useful / math.sqrt(max(1, len(blocks)))
    exact, choices = {}, {}
    for name in track(blocks, "noise of the blocks"):
        block, most = blocks[name], most_rows[name]
        given = [inputs[name], *(arguments.values() if block.conditional else [])]
        given[0] = block.expansion_point(*given)
        _warn_of_slow_decay(name, block, given, seed)
        kind = (*inputs[name].shape, len(given), most)  # blocks that are alike take the same time
        if kind not in exact:
            exact[kind] = _exact(block, given, most)
        num_rows = 2 * max(1, min(_ROWS, most) // 2)
        choices[name] = exact[kind] + _estimates(block, given, num_rows, enough, seed)
    return choices


def _exact(block, inputs, most_rows):
    """The `BlockPlan` of `Exact`, in a list that is empty if its rows do not fit into memory."""
    size = inputs[0].shape[1:].num_elements()
    few = [rows[: most_rows // size] for rows in inputs]
    num = len(few[0])
    if not num:
        return []
    exact = logdet.Exact()

    def log_det(*inputs):
        if block.has_odd_series:
            return exact.log_det_ratio(block.branch, *inputs)
        return exact(block.branch, *inputs)[1]

    compute = tf.function(log_det, autograph=False).get_concrete_function(*few)
    return [BlockPlan(exact, 0.0, min(_timed(compute, *few)[1] for _ in range(3)) / num)]


def _estimates(block, inputs, num_rows, enough, seed):
    """The `BlockPlan`s of a series that were measured, until one has no more noise than `enough`."""
    x = inputs[0]
    estimate, rtols, found, single = _series(block), list(_RTOLS), [], math.inf
    for num_probes in _numbers_of_probes(x):
        draws = [_draw(inputs, num_rows, num_probes, seed, draw) for draw in range(2)]
        measured = []
        for rtol in rtols[:2]:
            std, seconds = _measured(estimate, draws, num_probes, rtol)
            independent = single / math.sqrt(num_probes)  # the better ones in layers without places
            probes = "colored" if std <= independent else "rademacher"
            measured.append(BlockPlan(_roulette(rtol, num_probes, probes=probes), min(std, independent), seconds))
        found += measured
        if num_probes == 1:
            single = measured[-1].std
            few = [2**k for k in range(1, 10) if x.shape.rank > 2 and 2**k < x.shape[-1]]  # too few for colors
            found += [_independent(choice, num) for choice in measured for num in few]
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


def _independent(choice, num):
    """The `BlockPlan` of several probes, from that of one."""
    log_det = dataclasses.replace(choice.log_det, probes="rademacher", num_probes=num)
    return BlockPlan(log_det, choice.std / math.sqrt(num), choice.seconds * num)


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
    if block.conditional:
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


def _warn_of_slow_decay(name, block, inputs, seed):
    """Warns if the terms of a block's series decay slowly."""
    x = inputs[0]
    v = draw_probes("rademacher", 1, x, tf.constant([seed, 0]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        gx = block.branch(inputs if block.conditional else x)
    w, num, ratio = v, 0, math.inf
    while ratio > _RTOLS[-1] and num < logdet.AdaptiveRoulette.max_exact_terms:
        w = tape.gradient(gx, x, w, unconnected_gradients="zero")
        num += 1
        norms = [tf.norm(tf.reshape(rows, [len(rows), -1]), axis=1) for rows in (w, v)]
        ratio = float(tf.reduce_max(norms[0] / norms[1]))
    decay = ratio ** (1 / num)
    if decay > _SLOW:
        warnings.warn(
            f"The series of {name} decays by {decay:.2f} a term, and its log-determinant is dear to estimate. A "
            "lower coefficient of the Lipschitz layers (config.model.coefficient) makes it decay faster.",
            stacklevel=4,
        )


def bytes_per_row(block: bijectors.ResidualBlock) -> int:
    """What a branch computes for a row: all values of its graph that have one."""
    shapes = [block.event_shape, *([block.condition_shape] if block.conditional else [])]
    specs = [tf.TensorSpec([None, *(size or 1 for size in shape)], block.dtype) for shape in shapes]
    inputs = specs if block.conditional else specs[0]
    traced = tf.function(block.branch, autograph=False).get_concrete_function(inputs)
    values = [value for operation in traced.graph.get_operations() for value in operation.outputs]
    rows = [value for value in values if value.shape.rank and value.shape[0] is None]
    return sum((value.shape[1:].num_elements() or 0) * value.dtype.size for value in rows)
