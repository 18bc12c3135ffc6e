"""The rows of `model.summary()`: the members of a flow by name."""

from collections.abc import Iterable
from typing import Any

import keras

from tf_resflow.bijectors.flow import keras_parts, parts_by_name


class _Row(keras.Layer):
    """A row of the summary: a layer with given weights and layers."""

    def __init__(self, name: str, weights: Iterable[Any], layers: Iterable[keras.Layer]) -> None:
        super().__init__(name=name)
        self.row_weights = list(weights)
        self.layers = list(layers)
        self.built = True

    @property
    def trainable(self) -> bool:
        return any(weight.trainable for weight in self.row_weights)


def summary_rows(model: Any) -> list[keras.Layer]:
    """Returns a layer for each member of the flow that has weights, and for each other part of a model.

    A weight that several members share belongs to the first one, so the numbers of parameters add up.
    """
    members = parts_by_name(model.flow)
    owners = [(name, members[name], contents) for name, contents in keras_parts(model.flow).items()]
    owners += [(layer.name, layer, layer) for layer in model.layers]
    owners.append(("other", model, model))
    rows: list[keras.Layer] = []
    seen: set[int] = set()
    for name, owner, contents in owners:
        contents = contents if isinstance(contents, list) else [contents]  # layers and variables
        weights: dict[int, Any] = {}
        for content in contents:
            weights |= {id(weight): weight for weight in getattr(content, "weights", [content])}
        new = {key: weight for key, weight in weights.items() if key not in seen}
        if new or name in members:
            layers = []
            if len(new) == len(weights):
                layers = [content for content in contents if isinstance(content, keras.Layer)]
            rows.append(type(type(owner).__name__, (_Row,), {})(name, new.values(), layers))
        seen |= weights.keys()
    return rows
