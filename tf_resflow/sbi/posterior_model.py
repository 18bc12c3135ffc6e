"""The model of a posterior or likelihood estimator: its architecture, and how it is saved."""

import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_resflow._internal.serialization import deserialize
from tf_resflow.bijectors import ConditionalAffine, Flow, Normalize
from tf_resflow.flows import vector_flow
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.sbi.observations import statistics_shape
from tf_resflow.sbi.summaries import vector_summary
from tf_resflow.solvers import Anderson

_TOLERANCE = 1e-5  # of a block's inverse; sufficient for posterior samples


class PosteriorModel(FlowModel):
    """The `model` of a posterior or likelihood estimator, saved with the Keras config of the estimator.

    Keras saves the weights of the first member of the ensemble. `serialize` adds the state of the estimator.
    """

    def __init__(self, estimator: Any, density: Any, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.estimator = estimator
        self._density = density

    @property
    def parameters(self) -> dict[str, Any]:
        """The estimator."""
        return {"estimator": self.estimator}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FlowModel:
        """Builds the estimator of a config, and returns its model."""
        return deserialize(config["estimator"]).model

    def serialize(self) -> str:
        """Returns the config, the statistics, and the state of the estimator as JSON."""
        return json.dumps(json.loads(super().serialize()) | {"estimator": self._density.to_json()})

    def deserialize(self, text: bytes | str) -> None:
        """Restores a result of `serialize`, or raises a ValueError if it does not belong to the model."""
        saved = json.loads(text)
        if "estimator" not in saved:
            raise ValueError(
                f"The file of {self.name} was written by an earlier version of tf_resflow, which saved ensembles "
                "in another format. Fit the estimator again with this version, and save it."
            )
        super().deserialize(text)
        self._density.restore(saved["estimator"])


class SavedWithModel:
    """Mixin of estimators that are saved with their attribute `model`, a `PosteriorModel`."""

    model: PosteriorModel

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the estimator as a `.keras` file for `tf_resflow.load`. Pickling works, too."""
        self.model.save(path)

    def __reduce__(self):
        return operator.attrgetter("estimator"), (self.model,)


def model_arguments(
    size: int,
    shape: Sequence[int | None],
    num_blocks: int,
    affine_layers: int,
    hidden: Sequence[int],
    coefficient: float,
    dtype: str,
    *,
    summary: keras.Layer | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the arguments of a `FlowModel` of vectors given observations, see `PosteriorEstimator`."""
    if summary is None:
        summary = vector_summary(shape, num_linear=size, seed=seed, dtype=dtype)
    num_features = summary.compute_output_shape((None, *shape))[-1]
    layer = keras.layers.Dense(size * (size + 3) // 2, kernel_initializer="zeros", dtype=dtype)
    network = keras.Sequential([keras.Input([num_features], dtype=dtype), layer], name="affine")
    options: dict[str, Any] = {"activation": "cpila", "coefficient": coefficient, "seed": seed, "dtype": dtype}
    options |= {"condition_size": num_features, "inverse_solver": Anderson(atol=_TOLERANCE)}
    blocks = vector_flow(size, num_blocks, hidden, affine_layers=(affine_layers, 0), **options)
    scale = Normalize(np.zeros(size), np.ones(size), dtype, name="scale")
    sizes = statistics_shape(shape)
    return {
        "flow": Flow([scale, ConditionalAffine(network), blocks]),
        "event_shape": [size],
        "condition_shape": shape,
        "condition_mean": np.zeros(sizes),
        "condition_std": np.ones(sizes),
        "condition_network": summary,
        "seed": seed,
    }
