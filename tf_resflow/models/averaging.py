"""The average of a model's weights: its momentum, the model under it, and its place in `fit`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_resflow import layers
from tf_resflow.private_api import OneMomentum, moving_averages
from tf_resflow.progress import stage

__all__ = ["AveragedWeights", "WarmedUpAverage", "callbacks_under_average", "warm_up_average"]


class WarmedUpAverage(OneMomentum):
    r"""A mixin of Keras' optimizers that warms up the average of the weights (`use_ema`).

    Its momentum at step t (0 at an optimizer's first) is \\(\min(m, (1 + t) / (10 + t))\\), with \\(m\\) the
    `ema_momentum`; a step may accumulate several gradients. A constant one remembers the first weights for some
    \\(1 / (1 - m)\\) steps, and the average of a short run is worse than its last weights. This average spans about
    a tenth of the run until it spans \\(1 / (1 - m)\\) steps.
    """

    _ema_limit: float

    @staticmethod
    def _first_step() -> Any:
        return 0

    @property
    def ema_momentum(self) -> Any:
        """The momentum at this step, a scalar tensor; to set it sets its limit m."""
        t = keras.ops.cast(self.iterations - self._first_step(), "float32")
        return keras.ops.minimum(self._ema_limit, (1.0 + t) / (10.0 + t))

    @ema_momentum.setter
    def ema_momentum(self, limit: float) -> None:
        self._ema_limit = limit

    def get_config(self) -> dict[str, Any]:
        """The settings of the optimizer, with m as `ema_momentum`."""
        return {**super().get_config(), "ema_momentum": self._ema_limit}


def warm_up_average(optimizer: keras.Optimizer) -> None:
    """Warms up the average of an optimizer of any class, anew in each fit (`callbacks_under_average`)."""
    if not optimizer.use_ema:
        return
    if not isinstance(optimizer, WarmedUpAverage):
        kind, limit = type(optimizer), optimizer.ema_momentum
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        optimizer.__class__ = type(kind.__name__, (WarmedUpAverage, kind), names)
        optimizer.ema_momentum = limit
    steps = optimizer.iterations
    first = keras.Variable(steps, dtype=steps.dtype, trainable=False, aggregation="only_first_replica")
    optimizer._first_step = lambda: first  # not the variable, which would be a part of checkpoints


class AveragedWeights:
    """Gives a model the average of its weights, which its optimizer keeps, and updates the norms of its layers.

    ```python
    averaged = AveragedWeights(model, optimizer)
    with averaged:
        score = report.score()
    ```

    The optimizer is that of the model's trainable variables. Without an average, or before the first step, the
    weights stay; the norms are updated all the same.
    """

    def __init__(self, model: keras.Model, optimizer: keras.Optimizer):
        self._model, self._optimizer = model, optimizer
        self._converge_norms = tf.function(lambda: layers.converge_norms(model), autograph=False)

    def apply(self) -> None:
        """Replaces the weights by their average, permanently."""
        if self._optimizer.use_ema and self._optimizer.iterations.numpy() > 0:
            self._optimizer.finalize_variable_values(self._model.trainable_variables)
        with stage("norms of the layers"):
            self._converge_norms()

    def __enter__(self) -> "AveragedWeights":
        self._saved = [tf.identity(weight) for weight in self._model.weights]
        self.apply()
        return self

    def __exit__(self, *_: object) -> None:
        for weight, value in zip(self._model.weights, self._saved, strict=True):
            weight.assign(value)
        self._saved = []


@contextlib.contextmanager
def callbacks_under_average(model: keras.Model, callbacks: Any) -> Iterator[Any]:
    """The callbacks of a fit, which see the average of the weights at the end of each epoch, as validation does.

    They come behind one that begins a new average at the weights that the fit finds, puts it in their place after
    each epoch, and the weights back before the next one, or if the fit is interrupted. Without an average they are
    as given.
    """
    if not model.optimizer.use_ema:
        yield callbacks
        return
    if len(moving_averages(model.optimizer)) != len(model.trainable_variables):
        raise ValueError("The trainable variables are other ones than at compile: call model.compile again.")
    under = _UnderAverage(model)
    try:
        yield [under, callbacks or []]
    except BaseException:
        under.put_back()
        raise


class _UnderAverage(keras.callbacks.Callback):
    def __init__(self, model):
        super().__init__()
        self._averaged, self._is_in_place = AveragedWeights(model, model.optimizer), False

    def on_train_begin(self, logs=None):
        """The last average is not of these weights, if they were loaded or restored since."""
        optimizer = self.model.optimizer
        optimizer._first_step().assign(optimizer.iterations)
        for average, weight in zip(moving_averages(optimizer), self.model.trainable_variables, strict=True):
            average.assign(weight)

    def put_back(self):
        if self._is_in_place:
            self._averaged.__exit__()
            self._is_in_place = False

    def on_epoch_begin(self, epoch, logs=None):
        self.put_back()

    def on_test_begin(self, logs=None):
        if not self._is_in_place:
            self._averaged.__enter__()
            self._is_in_place = True

    def on_epoch_end(self, epoch, logs=None):
        self.on_test_begin()
