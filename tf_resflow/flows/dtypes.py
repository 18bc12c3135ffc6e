"""The dtype policies of flows."""

from typing import TypeAlias

import keras

__all__ = ["DType", "network_policy"]

DType: TypeAlias = str | keras.DTypePolicy | None

_POLICIES = ("float32", "float64", "mixed_bfloat16")


def network_policy(dtype: DType) -> keras.DTypePolicy:
    """The policy of the networks of a flow, by default Keras' global one; a ValueError for one of other names.

    Other variables of the flow have its `variable_dtype`.
    """
    policy = keras.dtype_policies.get(dtype)
    if policy.name not in _POLICIES:
        given = "is that of keras.config.dtype_policy(), which is" if dtype is None else "is"
        raise ValueError(
            f"The dtype of a flow {given} {policy.name!r}; it must be one of {', '.join(map(repr, _POLICIES))}. "
            "float16 would need a loss that is scaled, and parameters in bfloat16 are too coarse for small steps: "
            "take 'mixed_bfloat16' for networks that compute in 16 bits in training."
        )
    return policy
