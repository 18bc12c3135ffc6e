"""Keras's compile, fit and evaluate for models with their own losses."""

import itertools
import os
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow import bijectors, layers
from tf_resflow._internal.console import LOGGER
from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.serialization import Serializable, deserialize, serialize
from tf_resflow._internal.typing import Seed
from tf_resflow.bijectors.passes import needs_initialization
from tf_resflow.layers.precision import leaves
from tf_resflow.models.averaging import AverageWeights
from tf_resflow.models.condition import Condition
from tf_resflow.models.data_space import DataSpace
from tf_resflow.models.export_formats import EXPORT_FORMATS
from tf_resflow.models.saving import SavedSettings
from tf_resflow.models.step import train_step, weigh
from tf_resflow.models.summary import summary_rows

_INITIAL = 64  # examples that initialize the ActNorms in `fit`, if the batch is smaller, as in the commands
_FEWEST_SPANS = 5  # after which Keras's average of the weights has forgotten the first ones


class KerasTraining(Serializable, SavedSettings, keras.Model):
    """The base class of `FlowModel` and `HybridModel`."""

    flow: Any
    distribution: tfp.distributions.Distribution  # of the flow's input, with the training estimator
    data_space: DataSpace
    condition: Condition
    classifier: keras.Model | None = None
    objective: str  # name of the loss whose mean is minimized
    expects_pairs: bool  # whether a batch is a pair of examples and their conditions or labels
    seed: int  # for the steps of `fit`

    def trained_density(self) -> Any:
        """Returns the `FlowModel` whose density is trained, or None if only a classifier is trained."""
        raise NotImplementedError

    def example_losses(self, batch: Any, seed: Seed = None, *, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the losses of each example that a step minimizes or reports, as a dict of tensors `[batch]`."""
        raise NotImplementedError

    def total(self, losses: Mapping[str, Any]) -> Any:
        """Returns the value of `objective`, given all losses or their means."""
        return losses[self.objective]

    def networks(self, *, training: bool = False) -> bijectors.Networks:
        """Returns the `tf_resflow.bijectors.Networks` of the flow and the dequantizer, bound for several calls."""
        noise = self.data_space.noise_flow
        return bijectors.Networks(self.flow, *([] if noise is None else [noise]), training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Means over an epoch, for `fit` and `evaluate`. "loss" is the mean of the `objective`."""
        return self._means

    def compile(self, optimizer: Any = "rmsprop", *, jit_compile: bool | str = False, **kwargs: Any) -> None:
        """Like `keras.Model.compile`, but also builds the optimizer.

        By default, XLA does not compile whole steps, even on a GPU. With `jit_compile=True`, a step with a NaN or
        infinite loss or gradient does not raise an error. No variable changes, but `fit` continues and reports NaN
        as the loss of the epoch. `keras.callbacks.TerminateOnNaN` stops it.

        Training starts sooner with `tf_resflow.models.Adam` than with Keras's.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(f"{type(self).__name__} has its own loss and reports its parts. Leave out {name}.")
        optimizer = keras.optimizers.get(optimizer)
        _check_unscaled(self, optimizer)
        super().compile(optimizer, jit_compile=jit_compile, auto_scale_loss=False, **kwargs)
        optimizer.build(self.trainable_variables)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, callbacks: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Like `keras.Model.fit`, but updates the norms of the layers at the end.

        If all ActNorms are still the identity, they are first set from one batch, of at least 64 examples if
        available: random examples of arrays, or the first ones of a data set or a generator.

        A callback `tf_resflow.models.AverageWeights` runs before the other callbacks, wherever it is in the list.

        Call `fit(x, condition)` or `fit((x, condition))` on a conditional model, or pass a `tf.data.Dataset` of
        pairs. The condition can be labels. A `FlowModel` without a condition uses labels only for `class_weight`.

        To weight the loss, give `sample_weight`, one number for each example, or `class_weight`, a dict with a
        number for each label. The loss of a batch is then the mean of the weighted losses. Other losses are not
        weighted. Give `validation_data` with weights as `(x, None, weights)` or `(x, condition, weights)`.
        """
        x, y = self._arrays(x, y, kwargs.get("sample_weight"))
        is_real = bool(self.condition) and self.condition.num_classes is None
        if kwargs.get("class_weight") and (is_real or (y is None and hasattr(x, "shape"))):
            raise ValueError("Got class_weight, but no labels. Give sample_weight instead.")
        if isinstance(kwargs.get("validation_data"), (tuple, list)):
            held_out, beside, weights = keras.utils.unpack_x_y_sample_weight(kwargs["validation_data"])
            kwargs["validation_data"] = (*self._arrays(held_out, beside, weights), weights)
        if needs_initialization(self.flow):
            x = self._initialized_from(x, y, kwargs.get("batch_size") or (args[0] if args else None))
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras warns that it cannot shuffle a data set
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = sorted(keras.tree.flatten(callbacks or []), key=lambda c: not isinstance(c, AverageWeights))
        num_before = int(tf.convert_to_tensor(self.optimizer.iterations)) if self.compiled else 0
        try:
            history = super().fit(x, y, *args, callbacks=callbacks, **kwargs)
        except BaseException:
            for average in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
                if isinstance(average, AverageWeights):
                    average.on_epoch_begin()  # restores the last weights
            raise
        layers.converge_norms(self)
        _warn_of_short_average(self.optimizer, int(tf.convert_to_tensor(self.optimizer.iterations)) - num_before)
        return history

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Like `keras.Model.evaluate`, with the same kinds of data as `fit`.

        The random numbers depend only on the model's `seed` and the position of the batch. Two calls with the same
        weights, data and batch size return the same, and `fit` validates each epoch with the same noise.
        """
        x, y = self._arrays(x, y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)

    def predict_step(self, data: Any) -> tf.Tensor:
        """Returns the results of a batch of `predict`, with the same kinds of data as `fit`.

        They are log-likelihoods `[batch]` in nats, with the evaluation estimator and new random numbers. A
        `HybridModel` returns the probabilities `[batch, classes]`.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(x if y is None or not self.condition else (x, y))

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the means over an epoch. Keras shows a result of `train_step` that does not update `metrics`."""
        return {mean.name: mean.result() for mean in self._means if mean.count > 0}

    def export(
        self, filepath: str | os.PathLike[str], format: str = "tf_saved_model", verbose: Any = None, **settings: Any
    ) -> None:
        """Writes a SavedModel to the folder `filepath`, and replaces an earlier one, like `keras.Model.export`.

        The `settings` are those of `tf_resflow.serving.export`, which explains the signatures and writes numbered
        versions. To get TFLite or ONNX, convert the SavedModel as in the guide "Serve".
        """
        if format not in EXPORT_FORMATS:
            raise ValueError(
                f"format is {format!r}, but {type(self).__name__}.export writes only 'tf_saved_model'. Convert the "
                "SavedModel to TFLite or ONNX as in the guide 'Serve'."
            )
        EXPORT_FORMATS[format](self, filepath, **settings)
        if verbose or verbose is None:
            print(f"Saved artifact at {filepath}. signatures.json describes its signatures.")

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Like `keras.Model.summary`, with a row for each member of the flow that has parameters."""
        names = ("name", "trainable_weights", "non_trainable_weights", "compiled", "optimizer")
        shown = {name: getattr(self, name, None) for name in names}
        keras.Model.summary(types.SimpleNamespace(layers=summary_rows(self), **shown), *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Performs one step of `fit`."""
        # Unlike `optimizer.iterations`, this variable counts gradients even if an update accumulates several.
        step = next(variable for variable in self.optimizer.variables if variable.name == "iteration")
        seed = stateless_seed(tf.stack([self.seed, tf.cast(step, tf.int32)]))
        batch, weights = self._batch(data)
        num = tf.shape(tf.nest.flatten(batch)[0])[0]
        return self._update_means(train_step(self, batch, seed, weights), num)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Performs one step of `evaluate`, with the evaluation estimator."""
        num = tf.cast(self._means[0].count, tf.int32)  # examples so far, which differ between the steps of a pass
        seed = stateless_seed(tf.stack([self.seed, num]), "evaluate")
        batch, weights = self._batch(data)
        return self._update_means(weigh(self.example_losses(batch, seed), self.objective, weights))

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Like `keras.Model.save`, but does not change the file if the model cannot be saved."""
        self.get_config()
        super().save(filepath, *args, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile` as a Keras config."""
        if not self.compiled:
            return None
        settings = {name: getattr(self, name) for name in ("jit_compile", "run_eagerly", "steps_per_execution")}
        return serialize({"optimizer": self.optimizer, **settings})

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles the model with the arguments of a config."""
        self.compile(**deserialize(config))

    def _arrays(self, x, y, sample_weight):
        """Splits a pair `x` into `x` and `y`. Keras ignores weights without y, so a missing y becomes zeros."""
        if self.expects_pairs and isinstance(x, tuple) and len(x) == 2 and y is None:
            x, y = x
        if y is None and sample_weight is not None and hasattr(x, "shape") and not self.expects_pairs:
            y = np.zeros(len(x))
        return x, y

    def _initialized_from(self, x, y, batch_size):
        """Calls `initialize` with the first examples, and returns the data from which none are missing."""
        if hasattr(x, "shape"):
            rows = np.random.default_rng(self.seed).permutation(len(x))[: max(batch_size or 0, _INITIAL)]
            batches = [tuple(np.asarray(array)[rows] for array in (x, y) if array is not None)]
        elif isinstance(x, keras.utils.PyDataset):
            batches = _first_batches(x[i] for i in range(x.num_batches or _INITIAL))
        elif isinstance(x, tf.data.Dataset):
            batches = _first_batches(x)
        elif isinstance(x, types.GeneratorType):
            batches = _first_batches(x)
            x = (batch for batch in itertools.chain(batches, x))
        else:
            warnings.warn("The ActNorms are still the identity. Call model.initialize(batch) first.", stacklevel=3)
            return x
        pairs = [keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in batches]
        examples, labels = map(list, zip(*pairs, strict=True))
        condition = {}
        if self.condition and labels[0] is not None:
            condition["condition"] = tf.concat(labels, axis=0)
        self.initialize(tf.concat(examples, axis=0), self.seed, **condition)
        LOGGER.info("fit has initialized the ActNorms from its first %d examples.", sum(map(len, examples)))
        return x

    def _batch(self, data):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if not self.expects_pairs:
            if y is not None and weights is None:
                warnings.warn(
                    f"{self.name} has no condition, so it ignores the labels or conditions y. Leave them out, give "
                    "class_weight, or build the model with num_classes= or condition_shape=.",
                    stacklevel=2,
                )
            return x, weights
        if y is None:
            raise ValueError(
                f"{self.name} needs examples and their conditions or labels, but y is missing. Call fit(x, y)."
            )
        return (x, y), weights

    def _update_means(self, values, num=None):
        """Updates the means with the values of examples, or with the mean values of `num` examples."""
        for mean in self._means:
            mean.update_state(values[self.objective if mean.name == "loss" else mean.name], num)
        return {mean.name: mean.result() for mean in self._means}


def _check_unscaled(model, optimizer):
    scales = optimizer.loss_scale_factor or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    halves = [layer.name for layer in leaves(model) if layer.weights and layer.compute_dtype == "float16"]
    if scales or halves:
        raise ValueError(
            f"Got the optimizer {optimizer.name!r} and the float16 layers {halves}. The model does not scale its "
            "loss, so float16 gradients would become 0. Compute in 'mixed_bfloat16', and leave out "
            "loss_scale_factor and LossScaleOptimizer."
        )


def _first_batches(data):
    """Returns the first batches, with at least `_INITIAL` examples if there are as many."""
    batches: list[Any] = []
    num = 0
    for batch in data:
        batches.append(batch)
        num += len(keras.utils.unpack_x_y_sample_weight(batch)[0])
        if num >= _INITIAL:
            break
    return batches


def _warn_of_short_average(optimizer, steps):
    if optimizer.use_ema and 0 < steps * (1 - optimizer.ema_momentum) < _FEWEST_SPANS:
        warnings.warn(
            f"With use_ema=True, Keras has replaced the weights with an average. After {steps} steps, the first "
            f"one has a share of {optimizer.ema_momentum**steps:.1%}, so the model can be worse than reported. "
            "Use callbacks=[tf_resflow.models.AverageWeights()] instead, take more steps, or lower ema_momentum.",
            stacklevel=3,
        )
