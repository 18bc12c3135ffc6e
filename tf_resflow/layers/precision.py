"""Mixed precision: networks compute in bfloat16 in training steps, and in float32 everywhere else."""

import keras

from tf_resflow.private_api import sublayers

# One rounding unit of the kernel, or eight where norms are computed in the same dtype.
_ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-20, "float64": 2.0**-49}


@keras.saving.register_keras_serializable(package="tf_resflow")
class TrainingPolicy(keras.DTypePolicy):
    """A mixed policy that computes in its lower precision only in training.

    Under "mixed_bfloat16", the variables are float32. In a training step, the network of a block and its products
    with the Jacobian compute in bfloat16. In evaluation, inverses, samples and exports, they compute in float32.
    Norms, x + g(x), log-determinants and layers without a rule always compute in float32.
    """

    @property
    def training_dtype(self) -> str:
        return super().compute_dtype

    @property
    def compute_dtype(self) -> str:
        return self.variable_dtype


def confine_to_training(network: keras.Layer) -> None:
    """Replaces each mixed policy in a network with the `TrainingPolicy` of the same name."""
    policy = network.dtype_policy
    if type(policy) is keras.DTypePolicy and policy.compute_dtype != policy.variable_dtype:
        network.dtype_policy = TrainingPolicy(policy.name)
    for layer in sublayers(network):
        confine_to_training(layer)


def leaves(network: keras.Layer) -> list[keras.Layer]:
    """Returns the layers of a network that contain no other layers, in order."""
    return [leaf for part in sublayers(network) for leaf in leaves(part)] or [network]


def lowest_dtype(layer: keras.Layer) -> str:
    """Returns the least precise dtype that a layer computes in, in training or in evaluation."""
    policy = layer.dtype_policy
    return policy.training_dtype if isinstance(policy, TrainingPolicy) else layer.compute_dtype


def rounding_error(layer: keras.layers.Layer) -> float:
    """Returns the relative margin between a layer's norm and its limit that allows for the kernel's rounding."""
    return _ROUNDING[lowest_dtype(layer)]
