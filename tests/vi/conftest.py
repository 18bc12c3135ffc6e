"""Surrogate posteriors that differ from their initialization."""

import pytest
import tensorflow as tf

import tf_resflow as resflow


@pytest.fixture(scope="session")
def moved_surrogate():
    """Returns a function that builds a small float64 surrogate with perturbed variables."""

    def make(event_shape, seed=0, **options):
        options = {"num_blocks": 1, "hidden": (6,), "affine_layers": 2, "dtype": "float64", **options}
        surrogate = resflow.vi.flow_surrogate_posterior(event_shape, seed=seed, **options)
        for i, variable in enumerate(surrogate.trainable_variables):
            variable.assign_add(0.3 * tf.random.stateless_normal(variable.shape, [seed, i], dtype=variable.dtype))
        return surrogate

    return make
