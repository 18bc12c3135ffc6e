"""Keras layers with a constrained Lipschitz constant, and functions that compute and update their norms."""

import keras

import tf_resflow.layers.keras_rules  # noqa: F401 (registers the rules)
from tf_resflow._internal.extras import check_backend
from tf_resflow.layers import activations
from tf_resflow.layers.activations import *  # noqa: F403
from tf_resflow.layers.attention import Centering, Gate, L2SelfAttention
from tf_resflow.layers.learned_concatenation import LearnableConcatenation
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.linear_layers import LipschitzConv2D, LipschitzDense
from tf_resflow.layers.lipschitz_constants import lipschitz_constant
from tf_resflow.layers.norm_updates import converge_norms, mean_norm, update_norms
from tf_resflow.layers.rules import LayerRule, register_rule

check_backend(keras.config.backend())  # ~/.keras/keras.json can also set the backend

__all__ = [
    "Centering",
    "Gate",
    "L2SelfAttention",
    "LayerRule",
    "LearnableConcatenation",
    "LearnedOrder",
    "LipschitzConv2D",
    "LipschitzDense",
    "converge_norms",
    "lipschitz_constant",
    "mean_norm",
    "register_rule",
    "update_norms",
]
__all__ += activations.__all__
