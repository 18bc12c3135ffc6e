"""Signatures of an exported model: functions of tensors that check their inputs and raise errors for clients."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, evaluation
from tf_resflow.data.column_codes import ColumnCodes
from tf_resflow.evaluation.log_prob_samples import LogProbSamples
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE
from tf_resflow.models.dequantization import on_grid
from tf_resflow.models.flow_model import sample_latent
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.typing import LogDet

REASONS = ("valid", "a value is NaN or infinite", "a value cannot occur in its column")
"""The meaning of each reason code."""


class Signatures:
    """The signatures of a model, as functions that a SavedModel can store. See `export`.

    Attributes:
      inputs: Dict of the name of each signature to its list of `tf.TensorSpec`.
      default: Name of the signature that is exported as `serving_default`.
      has_scores: Whether a signature computes log_prob.
      log_det_estimator: The estimator of the log-determinants of log_prob.
      samples: Draws the estimates of log_prob.
      held_out: The sorted, comparable scores of held-out examples, once `compare_with` was called.
      inverse_atol: The residual at which the inverse of a block stops, or 0 for the rounding error of the dtype.
    """

    def __init__(
        self,
        model: KerasTraining,
        *,
        num_samples: int | None = None,
        log_det_estimator: LogDet | None = None,
        seed: int = 0,
        max_samples: int = 1024,
        max_batch: int | None = None,
        signatures: Sequence[str] | None = None,
        precise: bool = False,
        networks: bijectors.Networks | None = None,
        codes: Mapping[str, ColumnCodes] | None = None,
    ):
        self.model, self.seed, self.max_samples, self.max_batch = model, seed, max_samples, max_batch
        self.codes, self._networks = codes or {}, networks
        self.inverse_atol = 0.0 if precise else model.data_space.inverse_atol
        self.held_out: np.ndarray | None = None
        self._density: Any = model.trained_density()
        self._dtype = tf.as_dtype(model.distribution.dtype)
        inputs = self._inputs()
        self._names = list(inputs if signatures is None else dict.fromkeys(signatures))
        if not self._names or not set(self._names) <= set(inputs):
            raise ValueError(f"signatures must name one or more of {', '.join(inputs)}; got {self._names}.")
        self.default = "serving_default" if "serving_default" in self._names else self._names[0]
        self.inputs = {"serving_default": inputs[self.default]} | {name: inputs[name] for name in self._names}
        self.has_scores = not {"serving_default", "log_prob_seeded"}.isdisjoint(self._names)
        if self._density is None:
            return
        default = self._density.evaluation_log_det_estimator
        self.log_det_estimator: Any = default if log_det_estimator is None else log_det_estimator
        options: dict[str, Any] = {"log_det_estimator": log_det_estimator, "max_batch": max_batch}
        self.samples = LogProbSamples(self._density, num_samples, common=True, networks=networks, **options)
        if self.samples.is_noisy and self.samples.num_samples < 2:
            raise ValueError(f"num_samples={num_samples} must be at least 2 to estimate a standard error.")
        # A SavedModel stores a shared function once, even if two signatures call it.
        self._score_specs = [self._flow_spec(spec) for spec in inputs["log_prob_seeded"]]
        self._score = self._shared_scores()
        latents = [self._flow_spec(spec) for spec in inputs["decode"]]
        self._invert = tf.function(self._inverses, input_signature=latents, autograph=False)

    def compare_with(self, batches: Iterable[Any]) -> None:
        """Scores held-out examples with the random numbers of the export, and adds p-values to later scores."""
        scores = []
        for batch in batches:
            x, condition = self.model.condition.split(batch)
            arrays = {"x": x, "condition": condition, "seed": self.seed}
            tensors = [tf.cast(arrays[spec.name], spec.dtype) for spec in self._score_specs]
            log_prob = self._score(*tensors)["log_prob"]
            scores.append(self.model.data_space.comparable(log_prob, tensors[0]).numpy())
        self.held_out = np.sort(np.concatenate(scores))
        evaluation.p_values([], self.held_out)  # raises for NaN
        self._score = self._shared_scores()

    def functions(self) -> dict[str, Any]:
        """Returns a dict of the name of each signature to its `tf.function`."""
        functions = {
            name: tf.function(getattr(self, name), input_signature=self.inputs[name], autograph=False)
            for name in self._names
        }
        return {"serving_default": functions[self.default]} | functions

    def serving_default(self, x: tf.Tensor, condition: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the log-likelihood of each example, with the random numbers of the export."""
        return self.log_prob_seeded(x, tf.constant(self.seed, tf.int64), condition)

    def log_prob_seeded(
        self, x: tf.Tensor, seed: tf.Tensor, condition: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the log-likelihood of each example, with random numbers drawn from `seed`."""
        x, conditions, reason = self._examples(x, condition)
        return _marked(self._score(x, seed, *conditions), reason)

    def sample(
        self, num: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor, condition: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Draws `num` examples. Returns "x" and "converged"."""
        num = check_range("num", num, 1, self.max_samples)
        temperature = check_range("temperature", temperature, 0.0, MAX_TEMPERATURE)
        base = self.model.distribution.distribution
        z = sample_latent(base, num, tf.bitcast(seed, tf.int32), tf.cast(temperature, self._dtype))
        return self._invert(z, *self._valid_conditions(condition, num))

    def encode(self, x: tf.Tensor, condition: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the latents of examples."""
        x, conditions, reason = self._examples(x, condition)
        given = conditions[0] if conditions else None
        return _marked({"z": self._density.encode(x, condition=given, networks=self._networks)}, reason)

    def decode(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the examples of latents, and "converged"."""
        z = check_rows("z", z, self.max_batch)
        z = check_valid("z", z, row_reasons(z))
        return self._invert(z, *self._valid_conditions(condition, tf.shape(z)[0]))

    def classify(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the classifier's logits and probabilities, and the most probable label."""
        x, _, reason = self._examples(x)
        x = x if reason is None else check_valid("x", x, reason)
        result = self.model.classify(x, networks=self._networks)
        return {**result, "label": tf.argmax(result["probabilities"], -1)}

    def _inputs(self):
        space, shape = self.model.data_space, self.model.condition.shape
        x_dtype = self._dtype_of("x") if space.levels is None else tf.uint8
        x = tf.TensorSpec([None, *space.event_shape], x_dtype, "x")
        z = tf.TensorSpec([None, *self.model.flow.forward_event_shape(space.event_shape)], self._dtype, "z")
        num, seed = tf.TensorSpec([], tf.int32, "num"), tf.TensorSpec([], tf.int64, "seed")
        condition = []
        if shape is not None:
            dtype = self._dtype_of("condition") if self.model.condition.num_classes is None else tf.int32
            condition = [tf.TensorSpec([None, *shape], dtype, "condition")]
        classes = {"classify": [x]} if self.model.classifier is not None else {}
        if self._density is None:
            return classes
        return {
            "serving_default": [x, *condition],
            "log_prob_seeded": [x, seed, *condition],
            "sample": [num, seed, tf.TensorSpec([], tf.float32, "temperature"), *condition],
            "encode": [x, *condition],
            "decode": [z, *condition],
            **classes,
        }

    def _scores(self, x, seed, *condition):
        log_prob, stderr = self.samples.estimate((x, *condition) if condition else x, tf.bitcast(seed, tf.int32))
        result = {"log_prob": log_prob, "log_prob_stderr": stderr}
        if self.model.data_space.levels is not None:
            result["bits_per_dim"] = self.model.data_space.to_loss(log_prob)
        if self.held_out is not None:
            result["p_value"] = p_values(self.model.data_space.comparable(log_prob, x), self.held_out)
        return result

    def _shared_scores(self):
        return tf.function(self._scores, input_signature=self._score_specs, autograph=False)

    def _inverses(self, z, *condition):
        given = condition[0] if condition else None
        arguments = self.model.condition.arguments(given, tf.shape(z)[0], self._networks)
        x, solutions = bijectors.inverse_with_solutions(
            self.model.flow, tf.identity(z), atol=self.inverse_atol, **arguments
        )
        converged = tf.fill(tf.shape(z)[:1], True)
        for solution in solutions:
            converged &= solution.converged
        x = self.model.data_space.to_data(x)
        if self._dtype_of("x") != self._dtype:
            x = tf.cast(x, tf.float64) + self.codes["x"].offsets
        return {"x": x, "converged": converged}

    def _examples(self, x, condition=None):
        """Returns checked examples, a list of their condition if any, and the reason code of each row.

        Invalid rows are replaced by valid ones. Integer data have no reason codes, because invalid ones are errors.
        """
        levels = self.model.data_space.levels
        x = check_rows("x", x, self.max_batch)
        if levels is not None:
            x = x if levels == 256 else check_range("x", x, 0, levels - 1)  # uint8 cannot exceed 255
            return x, self._valid_conditions(condition, tf.shape(x)[0]), None
        x, reason = self._numbers("x", x)
        conditions, reasons = self._conditions(condition, tf.shape(x)[0])
        return x, conditions, tf.maximum(reason, reasons)

    def _conditions(self, condition, num):
        """Returns a list of the checked condition of `num` examples, or an empty list, and the reason codes."""
        if condition is None:
            return [], 0
        num_classes, condition = self.model.condition.num_classes, check_one_or_each("condition", condition, num)
        if num_classes is not None:
            return [check_range("condition", condition, 0, num_classes - 1)], 0
        condition, reason = self._numbers("condition", condition)
        return [condition], reason

    def _valid_conditions(self, condition, num):
        conditions, reason = self._conditions(condition, num)
        return [check_valid("condition", condition, reason) for condition in conditions]

    def _numbers(self, name, x):
        """Returns the rows as numbers for the flow, and their reason codes. Clips numbers that would become NaN."""
        codes = self.codes.get(name)
        x, most = x - (0.0 if codes is None else tf.constant(codes.offsets, x.dtype)), float(self._dtype.max) ** 0.8
        reason = row_reasons(x, codes)
        return tf.cast(_where_valid(reason, tf.clip_by_value(x, -most, most), 0.0), self._dtype), reason

    def _dtype_of(self, name):
        """Returns the dtype of an input: float64 for columns with an offset, which float32 would not resolve."""
        has_offsets = name in self.codes and self.codes[name].offsets.any()
        return tf.float64 if has_offsets else self._dtype

    def _flow_spec(self, spec):
        return tf.TensorSpec(spec.shape, self._dtype if spec.dtype.is_floating else spec.dtype, spec.name)


def p_values(scores: tf.Tensor, reference: np.ndarray) -> tf.Tensor:
    """Returns `tf_resflow.evaluation.p_values` for a sorted reference, with operations that TFLite supports."""
    num = len(reference)
    steps = [2**k for k in reversed(range(num.bit_length()))]
    padded = tf.constant(np.append(reference, [math.inf] * (sum(steps) - num)), scores.dtype)
    found = tf.zeros(tf.shape(scores), tf.int32)
    for step in steps:  # binary search
        found = tf.where(tf.less_equal(tf.gather(padded, found + step - 1), scores), found + step, found)
    ranks = tf.cast(tf.minimum(found, num), scores.dtype)
    return tf.where(tf.equal(scores, scores), (1 + ranks) / (1 + num), math.nan)


def _marked(result, reason):
    """Adds "valid" and "reason", and makes the results of invalid rows NaN. Does nothing if there are no codes."""
    if reason is None:
        return result
    marked = {name: _where_valid(reason, value, math.nan) for name, value in result.items()}
    return marked | {"valid": tf.equal(reason, 0), "reason": reason}


def _where_valid(reason, value, otherwise):
    """Replaces the rows with a reason code other than 0."""
    return tf.where(tf.reshape(tf.equal(reason, 0), [-1, *[1] * (value.shape.rank - 1)]), value, otherwise)


# The following checks run inside the graph. Each function returns its checked tensor.


def check_rows(name: str, tensor: tf.Tensor, most: int | None = None) -> tf.Tensor:
    """Checks the shape of the rows of a tensor, and that there are 1 to `most` rows."""
    shape = tf.shape(tensor)
    tensor = _row_shape_checked(name, tensor)
    message = f"{name} must have at least one example, but its shape is"
    tensor = _checked(tensor, shape[0] > 0, message, shape)
    if most is None:
        return tensor
    message = f"{name} must have at most {most} examples (max_batch): split the request. Its shape is"
    return _checked(tensor, shape[0] <= most, message, shape)


def check_one_or_each(name: str, tensor: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor has one row, or one row per example."""
    rows = tf.shape(tensor)[0]
    message = f"{name} must have one row, or one row per example, but the numbers of its rows and of examples are"
    tensor = _row_shape_checked(name, tensor)
    return _checked(tensor, (rows == 1) | (rows == num), message, tf.stack([rows, num]))


def row_reasons(tensor: tf.Tensor, codes: ColumnCodes | None = None) -> tf.Tensor:
    """Returns the code in `REASONS` of each row, in the units of the codes."""
    is_finite = tf.reduce_all(tf.math.is_finite(tensor), axis=range(1, tensor.shape.rank))
    if codes is None or codes.cells is None:
        return tf.where(is_finite, 0, 1)
    is_value = on_grid(tensor, codes.cells, codes.offsets)
    most = [math.inf if labels is None else len(labels) - 1 for labels in codes.labels]
    is_value &= ((tensor > -0.5) & (tensor < tf.constant(most, tensor.dtype) + 0.5)) | [math.isinf(m) for m in most]
    return tf.where(is_finite, tf.where(tf.reduce_all(is_value, axis=-1), 0, 2), 1)


def check_valid(name: str, tensor: tf.Tensor, reason: tf.Tensor) -> tf.Tensor:
    """Checks that all reason codes are 0."""
    meanings = ", ".join(f"{code}: {text}" for code, text in enumerate(REASONS))
    message = f"{name} must have valid values, but the codes of its rows are ({meanings})"
    return _checked(tensor, tf.reduce_all(tf.equal(reason, 0)), message, reason)


def check_range(name: str, tensor: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """Checks that the values of a tensor lie in [least, most]."""
    lowest, highest = tf.reduce_min(tensor), tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its smallest and largest values are"
    return _checked(tensor, (lowest >= least) & (highest <= most), message, tf.stack([lowest, highest]))


def _row_shape_checked(name, tensor):
    """Compares the shapes as text, because TensorFlow assumes static shapes and would remove the comparison."""
    shape, row = tf.shape(tensor), tensor.shape[1:].as_list()
    found, expected = (
        tf.strings.format("{}", values, summarize=-1) for values in (shape, tf.concat([shape[:1], row], 0))
    )
    message = f"{name} must have the shape {[-1, *row]} (-1 is the number of examples), but its shape is"
    return _checked(tensor, tf.equal(found, expected), message, shape)


def _checked(tensor, condition, message, found):
    with tf.control_dependencies([tf.debugging.Assert(condition, [message, found], summarize=8)]):
        return tf.identity(tensor)
