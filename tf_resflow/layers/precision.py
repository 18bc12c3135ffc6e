"""Mixed precision: networks that compute in bfloat16 in training steps, and in float32 everywhere else."""

import keras

from tf_resflow.private_api import sublayers

# One unit of the kernel's rounding; and eight for norms that are computed in the dtype itself.
_ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-20, "float64": 2.0**-49}


@keras.saving.register_keras_serializable(package="tf_resflow")
class TrainingPolicy(keras.DTypePolicy):
    """A mixed policy that computes in its lower precision in training only.

    Under "mixed_bfloat16" the variables are float32. The network of a block and its products with the Jacobian
    compute in bfloat16 in a training step, and in float32 in evaluation, inverses, samples and exports. Norms,
    x + g(x), log-determinants and layers without a rule always compute in float32.

    """

    @property
    def training_dtype(self) -> str:
        return super().compute_dtype

    @property
    def compute_dtype(self) -> str:
        return self.variable_dtype


def confine_to_training(network: keras.Layer) -> None:
    """Replaces the mixed policies of a network's layers by the `TrainingPolicy` of the same name."""
    policy = network.dtype_policy
    if type(policy) is keras.DTypePolicy and policy.compute_dtype != policy.variable_dtype:
        network.dtype_policy = TrainingPolicy(policy.name)
    for layer in sublayers(network):
        confine_to_training(layer)


def leaves(network: keras.Layer) -> list[keras.Layer]:
    """The layers of a network that hold no others, in order."""
    return [leaf for part in sublayers(network) for leaf in leaves(part)] or [network]


def lowest_dtype(layer: keras.Layer) -> str:
    """The dtype of the coarsest computations of a layer, be it in training or outside."""
    policy = layer.dtype_policy
    return policy.training_dtype if isinstance(policy, TrainingPolicy) else layer.compute_dtype


def rounding_error(layer: keras.layers.Layer) -> float:
    """The relative distance of a layer's norm from its limit, for the rounding of its kernel."""
    return _ROUNDING[lowest_dtype(layer)]
