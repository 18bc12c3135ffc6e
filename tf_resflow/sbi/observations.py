"""The observations that a density is conditioned on: checks, statistics, and warnings."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_resflow.models.condition import Condition
from tf_resflow.sbi.parameters import as_array, checked_rows

_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
_FAR = 2.0  # times the largest distance in the training: observations beyond are far
_ROUNDING = 4 * np.finfo(np.float64).eps  # relative spread of a constant
_SAME = 1e-6  # relative difference between equal observations, such as 0.1 in float32 and float64


class Observations:
    """The observations of a simulator, as the condition of a model.

    Args:
      condition: The `Condition` of the model, with the shape of an observation, and its medians and scales.
      dtype: Dtype of the model.

    Attributes:
      farthest: The largest standardized distance of each element in the training, infinite before a fit.
    """

    def __init__(self, condition: Condition, dtype: tf.DType):
        self.shape: Any = condition.shape
        self.farthest = np.full(statistics_shape(self.shape), np.inf)
        self._statistics = condition.statistics
        self._largest = dtype.max

    @property
    def is_fitted(self) -> bool:
        """Whether there was a fit."""
        return bool(np.all(np.isfinite(self.farthest)))

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the medians and scales, also in a `tf.function`."""
        with tf.init_scope():
            return self._statistics["mean"].numpy(), self._statistics["std"].numpy()

    def standardized(self, x: Any) -> Any:
        """Returns the difference of each element from the median, in robust standard deviations."""
        median, scale = self.statistics()
        return (x - median) / scale

    def learn_distances(self, x: np.ndarray) -> None:
        """Sets `farthest` to that of the observations of a training."""
        axes = tuple(axis for axis, size in enumerate((None, *self.shape)) if size is None)
        self.farthest = np.nanmax(np.abs(self.standardized(x)), axis=axes, keepdims=True)[0]

    def shaped(self, x: Any, *, may_be_single: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Returns observations in float64 after checking their shape, and which are finite in the model's dtype."""
        x = np.asarray(as_array(x, "x"), np.float64)
        rank = x.ndim - len(self.shape)
        is_batch = rank == 1 or (may_be_single and rank == 0)
        if not is_batch or not tf.TensorShape(x.shape[rank:]).is_compatible_with(self.shape):
            raise ValueError(self._wrong_shape(x, "an optional" if may_be_single else "a"))
        if not x.size:
            raise ValueError("x is empty. Give at least one observation.")
        is_valid = np.abs(x) <= self._largest
        if self.shape[0] is None:
            is_absent = np.isnan(x).all(axis=tuple(range(rank + 1, x.ndim)), keepdims=True)
            is_valid |= is_absent & ~is_absent.all(axis=rank, keepdims=True)
        return x, is_valid.all(axis=tuple(range(rank, x.ndim)))

    def checked(self, x: Any, *, may_be_single: bool = False) -> np.ndarray:
        """Returns observations in float64, after checking their shape, and that they are finite."""
        x, is_valid = self.shaped(x, may_be_single=may_be_single)
        checked_rows(np.atleast_1d(is_valid), drop=False)
        return x

    def as_tensor(self, x: Any) -> tf.Tensor:
        """Returns an observation or a batch as a tensor, after checks and warnings. A graph gets an assertion."""
        value = tf.get_static_value(x) if tf.is_tensor(x) else x
        if value is not None:
            observations = self.checked(value, may_be_single=True)
            self._warn_of_far_observations(observations)
            self._warn_of_changed_constants(observations)
            return tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.constant(observations)
        rank = (x.shape.rank or 0) - len(self.shape)
        if rank not in (0, 1) or not x.shape[rank:].is_compatible_with(self.shape):
            raise ValueError(self._wrong_shape(x, "an optional"))
        is_valid = tf.math.is_finite(x) | (self.shape[0] is None)
        check = tf.debugging.Assert(tf.reduce_all(is_valid), ["Found NaN or infinity in an observation:", x])
        with tf.control_dependencies([check]):
            return tf.cast(x, tf.float64)

    def warn_of_constants(self, x: np.ndarray, *, is_warm: bool) -> None:
        """Warns of elements without information: the network ignores them, because their scale is infinite."""
        if is_warm:
            self._warn_of_changed_constants(x)
            return
        is_constant = np.isinf(robust_statistics(x, self.shape)["std"])
        num_constants = np.count_nonzero(is_constant)
        if num_constants:
            others = f", and so have {num_constants - 1:,} other elements" if num_constants > 1 else ""
            warnings.warn(
                f"The element {_first_index(is_constant)} of the observations has the same value in all pairs"
                f"{others}. The network ignores constant elements. Simulate several values of those that vary.",
                stacklevel=4,
            )

    def _warn_of_changed_constants(self, x):
        median, scale = self.statistics()
        is_changed = np.isinf(scale) & ~np.isnan(x) & ~np.isclose(x, median, rtol=_SAME, atol=0.0)
        if is_changed.any():
            index = _first_index(is_changed)
            constant = np.broadcast_to(median, x.shape)[tuple(index)]
            warnings.warn(
                f"x{index} is {x[tuple(index)]:.6g}, but was {constant:.6g} in all pairs of the training. The "
                "network ignores it. Simulate with other values of it, and fit again without warm_start.",
                stacklevel=5,
            )

    def _warn_of_far_observations(self, x):
        distances = np.abs(np.nan_to_num(self.standardized(x)))
        ratios = distances / np.maximum(self.farthest, 1.0)
        if ratios.max(initial=0.0) > _FAR:
            index = np.unravel_index(ratios.argmax(), ratios.shape)
            warnings.warn(
                f"The observation is far outside of the training data: x{[int(i) for i in index]} is "
                f"{distances[index]:.3g} standard deviations from the median, {ratios[index]:.3g} times as far as "
                "in the training. The posterior is unreliable. Check the simulator and the prior.",
                stacklevel=5,
            )

    def _wrong_shape(self, x, article):
        return f"x has the shape {x.shape}. Give observations of shape {self.shape} after {article} batch axis."


def checked_shape(shape: Any, summary: keras.Layer | None) -> tuple[int | None, ...]:
    """Returns the shape of an observation as a tuple, if it is one and fits the summary."""
    sizes = list(shape) if isinstance(shape, (list, tuple, tf.TensorShape)) else []
    is_set = sizes[:1] == [None]
    known_sizes = sizes[1:] if is_set else sizes
    if not known_sizes or not all(isinstance(size, int) and size > 0 for size in known_sizes):
        raise ValueError(
            f"Got condition_shape={shape!r}. Give the shape of an observation, such as [100], or [None, *shape] "
            "for sets of observations."
        )
    if summary is None:
        if is_set:
            raise ValueError("Sets of observations need a summary, such as tf_resflow.sbi.set_summary.")
        return tuple(sizes)
    input_shape = getattr(summary, "input_shape", None)
    if isinstance(input_shape, tuple) and not tf.TensorShape(input_shape[1:]).is_compatible_with(sizes):
        raise ValueError(f"The summary expects observations {input_shape[1:]}, but condition_shape is {sizes}.")
    output_shape = summary.compute_output_shape((None, *sizes))[1:]
    if len(output_shape) != 1:
        raise ValueError(
            f"The summary returns arrays {output_shape} for observations {sizes}. It must return vectors."
        )
    return tuple(sizes)


def statistics_shape(shape: Any) -> list[int]:
    """Returns the shape of the medians and scales, which the elements of a set, with the size None, share."""
    return [size or 1 for size in shape]


def robust_statistics(x: np.ndarray, shape: Any) -> dict[str, np.ndarray]:
    """Returns each element's median and scale: by quartiles, or the standard deviation if they are equal.

    The scale of a constant is infinite, so that the network ignores it. The elements of a set, with the size None
    in `shape`, share them.
    """
    x = x.reshape([-1, *shape[1:]]) if shape[:1] == (None,) else x
    low, median, high = np.nanquantile(x, [0.25, 0.5, 0.75], axis=0)
    robust = (high - low) / _QUARTILES
    spread = np.nanmax(x, axis=0) - np.nanmin(x, axis=0)
    scale = np.where(robust > 0, robust, np.nanstd(x, axis=0))
    scale = np.where(spread > _ROUNDING * np.abs(median), scale, np.inf)
    sizes = statistics_shape(shape)
    return {"mean": np.reshape(median, sizes), "std": np.reshape(scale, sizes)}


def _first_index(mask):
    """Returns the index of the first true element."""
    return [int(i) for i in np.unravel_index(mask.argmax(), mask.shape)]
