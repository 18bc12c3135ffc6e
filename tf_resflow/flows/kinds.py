"""The names of blocks and estimators in configs and flags, without TensorFlow."""

__all__ = ["COUPLINGS", "ESTIMATORS", "RESIDUAL_BLOCKS"]

# Blocks by name: their classes in `tf_resflow.bijectors`.
RESIDUAL_BLOCKS = {"residual": "ResidualBlock", "monotone": "MonotoneBlock"}  # of a Lipschitz branch
COUPLINGS = {"affine_coupling": "AffineCoupling", "additive_coupling": "AdditiveCoupling"}  # of images

# Estimators: the names of their classes in `tf_resflow.logdet`, in snake case.
ESTIMATORS = ("adaptive_roulette", "adaptive_series", "exact", "power_series", "russian_roulette")
