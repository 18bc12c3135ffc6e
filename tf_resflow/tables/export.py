"""Export of the density of a table as a SavedModel."""

import functools
import math
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow._internal.seeds import random_uniform, split_seed
from tf_resflow.bijectors import inverse_with_solutions
from tf_resflow.evaluation import p_values
from tf_resflow.layers import converge_norms
from tf_resflow.models.flow_model import sample_latent
from tf_resflow.models.repeated_training import assign, member_variables
from tf_resflow.serving.description import example_inputs, readme
from tf_resflow.serving.exporter import warmup_requests, write_saved_model
from tf_resflow.serving.signatures import check_finite, check_one_or_each, check_range, check_rows
from tf_resflow.tables.arguments import MOST_NOISE
from tf_resflow.tables.density import BROAD, TableDensity, estimate_log_density, point_blocks
from tf_resflow.tables.flow_density import FlowDensity
from tf_resflow.tables.noise_conditioned import make_model, noise_code

REASONS = ("valid", "missing or not finite", "cannot occur")
_AT_ONCE = 256  # rows scored at once

_DESCRIPTIONS = {
    "serving_default": "Returns log p of each row in nats, as `FlowDensity.score_samples`, and its conformal "
    "p-value. `reason` is a position in the `reasons` of signatures.json: 1 if a value is missing or infinite; "
    "then the row is not `valid` and its results are NaN. 2 if a value cannot occur, such as an unknown level; "
    "then log p is minus infinity.",
    "sample": "Draws rows from the density, as `FlowDensity(extrapolate=True).sample`. The answer is a pure "
    "function of the inputs. Discard rows that have not converged.",
}
_ABOUT = (
    "This is the density of a table, `tf_resflow.tables.FlowDensity`. signatures.json describes the columns of the "
    "inputs. In the columns in its list `can_be_missing`, a number can be NaN, which means that it is missing."
)


def export_density(
    density: FlowDensity,
    export_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    max_samples: int = 1024,
    max_batch: int | None = None,
    about: str = "",
) -> pathlib.Path:
    """Exports a fitted `FlowDensity` as a SavedModel to `export_dir/version/`, see `tf_resflow.serving.export`.

    It has two signatures, with an additional input `condition` if the density has `condition_columns`:

    - `serving_default(x)`: `log_prob`, `p_value`, `valid` and `reason`, the position of a reason in `REASONS`
    - `sample(num, seed)`: `x` and `converged`, draws from the density itself, without the margins of the fit

    The columns of x are numbers, described in signatures.json: levels are their positions, and times are days.

    Args:
      max_samples: Maximum `num` of `sample`.
      max_batch: Maximum number of rows per request. The default is no limit.
      about: A sentence about the fit, for README.md.

    Returns:
      The path of the version.
    """
    served = _ServedDensity(density, max_samples, max_batch)
    functions = {
        name: tf.function(getattr(served, name), input_signature=specs, autograph=False)
        for name, specs in served.inputs.items()
    }
    requests = warmup_requests(served.inputs, max_batch)
    document = functools.partial(served.document, about=about)
    return write_saved_model(functions, served.variables, document, requests, export_dir, version)


class _ServedDensity:
    """The signatures of a density."""

    def __init__(self, density, max_samples, max_batch):
        self._density = density.density_
        self._encoder = density.encoder_
        self._max_samples = max_samples
        self._max_batch = max_batch
        self._members = [_Member(self._density, weights) for weights in self._density.members]
        self.variables = [variable for member in self._members for variable in member.variables]
        blocks = point_blocks(self._encoder)
        self._blocks = None if blocks is None else tf.Variable(blocks, trainable=False)
        self.variables += [] if blocks is None else [self._blocks]
        self._held_out_scores = np.sort(density.held_out_[0])
        at_held_out_scores = p_values(self._held_out_scores, *density.held_out_)
        self._p_values = np.append(density.least_p_value, at_held_out_scores)
        num = self._encoder.num_own
        self._columns = {"x": self._encoder.columns[:num], "condition": self._encoder.columns[num:]}
        self._offsets = np.array([float(column.offset) for column in self._encoder.columns])
        specs = {
            name: tf.TensorSpec([None, len(columns)], tf.float64, name) for name, columns in self._columns.items()
        }
        condition = [specs["condition"]] if self._columns["condition"] else []
        scalars = [tf.TensorSpec([], tf.int32, "num"), tf.TensorSpec([], tf.int64, "seed")]
        self.inputs = {"serving_default": [specs["x"], *condition], "sample": [*scalars, *condition]}

    def serving_default(self, x, condition=None):
        x = check_rows("x", x, self._max_batch)
        numbers = self._numbers(x, condition)
        num_own = self._encoder.num_own
        is_allowed = np.append(self._encoder.is_masked, np.zeros(numbers.shape[1] - num_own, bool))
        is_unread = tf.math.is_inf(numbers) | (tf.math.is_nan(numbers) & ~is_allowed)
        numbers = self._encoder.mark_impossible(numbers)
        is_impossible = tf.reduce_any(tf.math.is_inf(numbers), axis=1)
        valid = ~tf.reduce_any(is_unread, axis=1) & ~tf.reduce_any(tf.math.is_inf(numbers[:, num_own:]), axis=1)
        reason = tf.where(tf.reduce_any(is_unread, axis=1), 1, tf.where(is_impossible, 2, 0))
        log_prob, compared = tf.unstack(_in_groups(self._scores, numbers), axis=1)
        held_out_scores = tf.constant(self._held_out_scores, tf.float64)
        num_below = tf.searchsorted(held_out_scores, compared, side="right")
        p_value = tf.gather(tf.constant(self._p_values, tf.float64), num_below)
        return {
            "log_prob": tf.where(valid, log_prob, np.float64(math.nan)),
            "p_value": tf.where(valid, p_value, np.float64(math.nan)),
            "valid": valid,
            "reason": reason,
        }

    def _scores(self, numbers):
        """Returns the log-densities of rows, and the scores that compare them, `[num, 2]`."""
        rows = self._encoder.rows(numbers)
        functions = [member.log_prob for member in self._members]
        noise = self._density.noise
        tolerance = self._density.tolerance
        log_prob, _ = estimate_log_density(self._encoder, rows, self._blocks, noise, functions, tolerance)
        return tf.stack([log_prob, log_prob + rows.log_unit], axis=1)

    def sample(self, num, seed, condition=None):
        num = check_range("num", num, 1, self._max_samples)
        choice_seed, latent_seed = tf.unstack(split_seed(tf.bitcast(seed, tf.int32), 2))
        x = tf.zeros([num, self._encoder.size], tf.float64)
        if self._encoder.time is not None:
            time_seed = split_seed(choice_seed, 2)[1]
            x = tf.concat([x, self._encoder.time.draw(random_uniform([num, 2], time_seed, tf.float32))], axis=1)
        given = self._encoder.given.mark_impossible(self._numbers(x, condition)[:, self._encoder.size :])
        times = given[:, : self._encoder.num_own - self._encoder.size]
        given = tf.cast(self._encoder.condition(check_finite("condition", given)), tf.float32)
        chosen, broad = tf.unstack(random_uniform([2, num], choice_seed, tf.float32))
        code = tf.where(broad < BROAD, noise_code(MOST_NOISE), noise_code(self._density.noise))
        given = tf.concat([code[:, tf.newaxis], given], axis=1)
        member = tf.cast(chosen * len(self._members), tf.int32)
        z, converged = zip(*(member.sample(num, latent_seed, given) for member in self._members), strict=True)
        z = tf.gather(tf.stack(z, axis=1), member, batch_dims=1)
        converged = tf.gather(tf.stack(converged, axis=1), member, batch_dims=1)
        drawn = tf.concat([self._encoder.own.to_numbers(tf.cast(z, tf.float64)), times], axis=1)
        return {"x": drawn + self._offsets[: self._encoder.num_own], "converged": converged}

    def _numbers(self, x, condition):
        """Returns the numbers of rows `[num, columns]`, without the offsets."""
        if condition is not None:
            condition = check_one_or_each("condition", condition, tf.shape(x)[0])
            condition = tf.broadcast_to(condition, [tf.shape(x)[0], len(self._columns["condition"])])
            x = tf.concat([x, condition], axis=1)
        return x - self._offsets

    def document(self, tensors, about):
        """Returns the contents of signatures.json and README.md."""
        columns_of = {name: columns for name, columns in self._columns.items() if columns}
        description = {
            "signatures": {name: {"description": _DESCRIPTIONS[name], **tensors[name]} for name in self.inputs},
            "default": "serving_default",
            "max_samples": self._max_samples,
            "columns": {name: [str(column.name) for column in columns] for name, columns in columns_of.items()},
            "codes": {name: [column.to_json() for column in columns] for name, columns in columns_of.items()},
            "can_be_missing": [
                str(columns_of["x"][index].name) for index in np.flatnonzero(self._encoder.is_masked)
            ],
            "reasons": list(REASONS),
            "log_prob": {"num_held_out": len(self._held_out_scores)},
        } | ({} if self._max_batch is None else {"max_batch": self._max_batch})
        lines = [
            f"- `{name}`: `{column.name}`, {column.description() or 'a number'}"
            for name, columns in columns_of.items()
            for column in columns
        ]
        list_of_columns = "\n".join(["The columns, in their order:", "", *lines])
        return description, readme(description, example_inputs(tensors), f"{_ABOUT} {about}\n\n{list_of_columns}")


class _Member:
    """A member with its own variables."""

    def __init__(self, density: TableDensity, weights: Any):
        sizes = density.encoder.size, density.encoder.condition_size
        model = make_model(*sizes, density.num_blocks, density.hidden)
        assign(member_variables(model), weights)
        converge_norms(model)
        self._networks = model.networks().frozen(lambda parameter: tf.Variable(parameter, trainable=False))
        weights = [weight.value for weight in model.weights]
        self.variables = [*weights, *model.statistics.values(), *self._networks.parameters]
        self._model = model
        self._size = density.encoder.size

    def log_prob(self, values):
        values = tf.cast(values, tf.float32)
        x, condition = values[:, : self._size], values[:, self._size :]
        return self._model.log_prob(x, 0, condition=condition, evaluation=True, networks=self._networks)

    def sample(self, num, seed, condition):
        z = sample_latent(self._model.distribution.distribution, num, seed)
        arguments = self._model.condition.arguments(condition, num, self._networks)
        x, solutions = inverse_with_solutions(self._model.flow, z, **arguments)
        converged = tf.fill(tf.shape(z)[:1], True)
        for solution in solutions:
            converged &= solution.converged
        return x, converged


def _in_groups(function, numbers):
    """Applies a function of rows to groups of at most `_AT_ONCE` rows, which limits the memory."""
    num = tf.shape(numbers)[0]
    groups = tf.maximum(1, -(-num // _AT_ONCE))
    size = -(-num // groups)
    padded = tf.pad(numbers, [[0, groups * size - num], [0, 0]])
    grouped = tf.ensure_shape(tf.reshape(padded, [groups, size, -1]), [None, None, numbers.shape[1]])
    spec = tf.TensorSpec([None, 2], tf.float64)
    results = tf.map_fn(function, grouped, parallel_iterations=1, fn_output_signature=spec)
    return tf.reshape(results, [groups * size, 2])[:num]
