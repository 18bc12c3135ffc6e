"""Signatures of an exported model: functions of tensors that check their inputs and raise errors for clients."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow import bijectors, evaluation
from tf_resflow._internal.typing import LogDet
from tf_resflow.evaluation.log_likelihood import NUM_SAMPLES, mean_and_stderr
from tf_resflow.evaluation.log_prob_samples import LogProbSamples
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE
from tf_resflow.models.flow_model import sample_latent
from tf_resflow.models.keras_training import KerasTraining


class Signatures:
    """The signatures of a model, as functions that a SavedModel can store. See `export`.

    Attributes:
      inputs: Dict of the name of each signature to its list of `tf.TensorSpec`.
      default: Name of the signature that is exported as `serving_default`.
      has_scores: Whether a signature computes log_prob.
      log_det_estimator: The estimator of the log-determinants of log_prob.
      samples: Draws the estimates of log_prob.
      held_out: The sorted scores of held-out examples, once `compare_with` was called.
      inverse_atol: The residual at which the inverse of a block stops, or 0 for the rounding error of the dtype.
    """

    def __init__(
        self,
        model: KerasTraining,
        *,
        num_samples: int = NUM_SAMPLES,
        log_det_estimator: LogDet | None = None,
        seed: int = 0,
        max_samples: int = 1024,
        max_batch: int | None = None,
        signatures: Sequence[str] | None = None,
        precise: bool = False,
        networks: bijectors.Networks | None = None,
    ):
        self.model = model
        self.seed = seed
        self.max_samples = max_samples
        self.max_batch = max_batch
        self._networks = networks
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
        self.samples = LogProbSamples(
            self._density,
            num_samples,
            log_det_estimator=self.log_det_estimator,
            common=True,
            max_batch=max_batch,
            networks=networks,
        )
        if self.samples.is_noisy and self.samples.num_samples < 2:
            raise ValueError(f"num_samples={num_samples} must be at least 2 to estimate a standard error.")
        # A SavedModel stores a shared function once, even if two signatures call it.
        self._score = tf.function(self._scores, input_signature=inputs["log_prob_seeded"], autograph=False)
        self._invert = tf.function(self._inverses, input_signature=inputs["decode"], autograph=False)

    def compare_with(self, batches: Iterable[Any]) -> None:
        """Scores held-out examples with the random numbers of the export, and adds p-values to later scores."""
        scores = []
        for batch in batches:
            x, condition = self.model.condition.split(batch)
            arrays = {"x": x, "condition": condition, "seed": self.seed}
            tensors = [tf.cast(arrays[spec.name], spec.dtype) for spec in self._score.input_signature]
            scores.append(self._score(*tensors)["log_prob"].numpy())
        self.held_out = np.sort(np.concatenate(scores))
        evaluation.p_values([], self.held_out)  # raises for NaN

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
        x, conditions, valid = self._examples(x, condition)
        result = dict(self._score(x, seed, *conditions))
        if self.held_out is not None:
            result["p_value"] = p_values(result["log_prob"], self.held_out)
        return _marked(result, valid)

    def sample(
        self, num: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor, condition: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Draws `num` examples. Returns "x" and "converged"."""
        num = check_range("num", num, 1, self.max_samples)
        temperature = check_range("temperature", temperature, 0.0, MAX_TEMPERATURE)
        base = self.model.distribution.distribution
        z = sample_latent(base, num, tf.bitcast(seed, tf.int32), tf.cast(temperature, self._dtype))
        return self._invert(z, *self._finite_conditions(condition, num))

    def encode(self, x: tf.Tensor, condition: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the latents of examples."""
        x, conditions, valid = self._examples(x, condition)
        checked_condition = conditions[0] if conditions else None
        z = self._density.encode(x, condition=checked_condition, networks=self._networks)
        return _marked({"z": z}, valid)

    def decode(self, z: tf.Tensor, condition: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the examples of latents, and "converged"."""
        z = check_finite("z", check_rows("z", z, self.max_batch))
        return self._invert(z, *self._finite_conditions(condition, tf.shape(z)[0]))

    def classify(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the classifier's logits and probabilities, and the most probable label."""
        x = check_finite("x", self._rows(x))
        result = self.model.classify(x, networks=self._networks)
        return {**result, "label": tf.argmax(result["probabilities"], -1)}

    def _inputs(self):
        space = self.model.data_space
        condition_shape = self.model.condition.shape
        x_dtype = self._dtype if space.levels is None else tf.uint8
        x = tf.TensorSpec([None, *space.event_shape], x_dtype, "x")
        z = tf.TensorSpec([None, *self.model.flow.forward_event_shape(space.event_shape)], self._dtype, "z")
        num = tf.TensorSpec([], tf.int32, "num")
        seed = tf.TensorSpec([], tf.int64, "seed")
        temperature = tf.TensorSpec([], tf.float32, "temperature")
        condition = []
        if condition_shape is not None:
            dtype = self._dtype if self.model.condition.num_classes is None else tf.int32
            condition = [tf.TensorSpec([None, *condition_shape], dtype, "condition")]
        classes = {"classify": [x]} if self.model.classifier is not None else {}
        if self._density is None:
            return classes
        return {
            "serving_default": [x, *condition],
            "log_prob_seeded": [x, seed, *condition],
            "sample": [num, seed, temperature, *condition],
            "encode": [x, *condition],
            "decode": [z, *condition],
            **classes,
        }

    def _scores(self, x, seed, *condition):
        estimates = self.samples(x, tf.bitcast(seed, tf.int32), *condition)
        log_prob, stderr = mean_and_stderr(estimates, self.samples.is_noisy)
        result = {"log_prob": log_prob, "log_prob_stderr": stderr}
        if self.model.data_space.levels is not None:
            result["bits_per_dim"] = self.model.data_space.to_loss(log_prob)
        return result

    def _inverses(self, z, condition=None):
        arguments = self.model.condition.arguments(condition, tf.shape(z)[0], self._networks)
        x, solutions = bijectors.inverse_with_solutions(
            self.model.flow, tf.identity(z), atol=self.inverse_atol, **arguments
        )
        all_true = tf.fill(tf.shape(z)[:1], True)  # a flow without residual blocks has no solutions
        converged = functools.reduce(tf.logical_and, [solution.converged for solution in solutions], all_true)
        return {"x": self.model.data_space.to_data(x), "converged": converged}

    def _examples(self, x, condition=None):
        """Returns checked examples, a list of their condition if any, and whether each example is valid.

        Rows with NaN or infinity are replaced. Integer data have no valid flags, because invalid ones are errors.
        """
        x = self._rows(x)
        if self.model.data_space.levels is not None:
            return x, self._finite_conditions(condition, tf.shape(x)[0]), None
        rows = [x, *self._conditions(condition, tf.shape(x)[0])]
        valid = functools.reduce(tf.logical_and, map(finite_rows, rows))
        x, *conditions = map(self._clipped, rows)
        return x, conditions, valid

    def _rows(self, x):
        x = check_rows("x", x, self.max_batch)
        levels = self.model.data_space.levels
        return check_range("x", x, 0, levels - 1) if levels and levels < 256 else x  # uint8 cannot exceed 255

    def _conditions(self, condition, num):
        """Returns a list of the checked condition of `num` examples, or an empty list."""
        if condition is None:
            return []
        condition = check_one_or_each("condition", condition, num)
        num_classes = self.model.condition.num_classes
        return [condition if num_classes is None else check_range("condition", condition, 0, num_classes - 1)]

    def _finite_conditions(self, condition, num):
        return [check_finite("condition", checked) for checked in self._conditions(condition, num)]

    def _clipped(self, x):
        """Replaces rows that are not finite by zeros, and clips numbers whose results would be NaN."""
        if not x.dtype.is_floating:
            return x
        most = float(self._dtype.max) ** 0.8
        return _where(finite_rows(x), tf.clip_by_value(x, -most, most), 0.0)


def p_values(scores: tf.Tensor, reference: np.ndarray) -> tf.Tensor:
    """Returns `tf_resflow.evaluation.p_values` for a sorted reference, with operations that TFLite supports."""
    num = len(reference)
    steps = [2**k for k in reversed(range(num.bit_length()))]
    padded = tf.constant(np.append(reference, [math.inf] * (sum(steps) - num)), scores.dtype)
    counts = tf.zeros(tf.shape(scores), tf.int32)  # of values up to the score
    for step in steps:  # binary search
        counts = tf.where(tf.less_equal(tf.gather(padded, counts + step - 1), scores), counts + step, counts)
    ranks = tf.cast(tf.minimum(counts, num), scores.dtype)
    return tf.where(tf.equal(scores, scores), (1 + ranks) / (1 + num), math.nan)


def finite_rows(x: tf.Tensor) -> tf.Tensor:
    """Returns whether all numbers in each row are finite."""
    if not x.dtype.is_floating:
        return tf.fill(tf.shape(x)[:1], True)
    return tf.reduce_all(tf.math.is_finite(x), axis=range(1, x.shape.rank))


def _marked(result, valid):
    """Adds "valid", and makes the results of invalid rows NaN. Returns the result itself if `valid` is None."""
    if valid is None:
        return result
    return {name: _where(valid, value, math.nan) for name, value in result.items()} | {"valid": valid}


def _where(rows, value, otherwise):
    return tf.where(tf.reshape(rows, [-1, *[1] * (value.shape.rank - 1)]), value, otherwise)


# The following checks run inside the graph. Each function returns its checked tensor.


def check_rows(name: str, tensor: tf.Tensor, most: int | None = None) -> tf.Tensor:
    """Checks the shape of the rows of a tensor, and that there are 1 to `most` rows."""
    shape = tf.shape(tensor)
    tensor = _row_shape_checked(name, tensor)
    limit = "" if most is None else f" and at most {most} examples (max_batch: split the request)"
    is_valid = (shape[0] > 0) & (shape[0] <= (tf.int32.max if most is None else most))
    return _checked(tensor, is_valid, f"{name} must have at least one example{limit}, but its shape is", shape)


def check_one_or_each(name: str, tensor: tf.Tensor, num: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor has one row, or one row per example."""
    rows = tf.shape(tensor)[0]
    message = f"{name} must have one row, or one row per example, but the numbers of its rows and of examples are"
    tensor = _row_shape_checked(name, tensor)
    return _checked(tensor, (rows == 1) | (rows == num), message, tf.stack([rows, num]))


def check_finite(name: str, tensor: tf.Tensor) -> tf.Tensor:
    """Checks that all numbers are finite."""
    if not tensor.dtype.is_floating:
        return tensor
    finite = finite_rows(tensor)
    message = f"{name} must not contain NaN or infinity, but which of its rows are finite is"
    return _checked(tensor, tf.reduce_all(finite), message, finite)


def check_range(name: str, tensor: tf.Tensor, least: float, most: float) -> tf.Tensor:
    """Checks that the values of a tensor lie in [least, most]."""
    lowest = tf.reduce_min(tensor)
    highest = tf.reduce_max(tensor)
    message = f"{name} must lie in {least}, ..., {most}, but its smallest and largest values are"
    return _checked(tensor, (lowest >= least) & (highest <= most), message, tf.stack([lowest, highest]))


def _row_shape_checked(name, tensor):
    """Compares the shapes as text, because TensorFlow assumes static shapes and would remove the comparison."""
    shape = tf.shape(tensor)
    row = tensor.shape[1:].as_list()
    text = tf.strings.format("{}", shape, summarize=-1)
    expected = tf.strings.format("{}", tf.concat([shape[:1], row], 0), summarize=-1)
    message = f"{name} must have the shape {[-1, *row]} (-1 is the number of examples), but its shape is"
    return _checked(tensor, tf.equal(text, expected), message, shape)


def _checked(tensor, condition, message, value):
    with tf.control_dependencies([tf.debugging.Assert(condition, [message, value], summarize=8)]):
        return tf.identity(tensor)
