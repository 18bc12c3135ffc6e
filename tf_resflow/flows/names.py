"""Names of activations, blocks and estimators in configs and flags. Does not import TensorFlow."""

# Activations: classes of `tf_resflow.layers`, or functions of `keras.activations`.
ACTIVATION_LAYERS = {
    "lipswish": "LipSwish",
    "clipswish": "CLipSwish",
    "cpila": "CPila",
    "maxmin": "MaxMin",
    "fullsort": "FullSort",
    "lipschitz_cube": "LipschitzCube",
}
ACTIVATIONS = (*ACTIVATION_LAYERS, "elu", "softplus", "relu", "tanh")

# Blocks: classes of `tf_resflow.bijectors`.
RESIDUAL_BLOCKS = {"residual": "ResidualBlock", "monotone": "MonotoneBlock"}  # with a Lipschitz branch
COUPLINGS = {
    "affine_coupling": "AffineCoupling",
    "additive_coupling": "AdditiveCoupling",
    "spline_coupling": "SplineCoupling",
}
AFFINE_LAYERS = {"affine_autoregressive": "AffineAutoregressive", **COUPLINGS}  # for vectors

# Estimators: class names in `tf_resflow.logdet`, in snake case.
ESTIMATORS = ("adaptive_roulette", "exact", "power_series", "russian_roulette")
