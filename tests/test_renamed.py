"""The names of version 0.2 that have moved still work, and tell the new ones."""

import importlib
import re

import keras
import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow.renamed import RENAMED

USES = {
    "bijectors.feature_shapes": lambda shapes: shapes(resflow.flows.vector_flow(2, 1, (4,)), [2]) == [(2,)],
    "data.entropy": lambda entropy: entropy("moons") == resflow.data.DENSITIES["moons"].entropy(),
    "data.sample": lambda sample: sample("moons", 3, 0).shape == (3, 2),
    "data.log_density": lambda log_density: log_density("moons", np.zeros([4, 2])).shape == (4,),
    "FlowModel.estimate_log_prob": lambda estimate: estimate([[0.0, 1.0]], stderr=1.0).log_prob.shape == [1],
    "FlowModel.event_shape": lambda shape: shape == (2,),
    "HybridModel.sample": lambda sample: sample(3, seed=0).shape == [3, 2],
    "FlowModel.unit": lambda unit: unit == "nats",
}


@pytest.fixture(scope="module")
def model():
    return resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=1, hidden=(4,)), event_shape=[2])


@pytest.fixture(scope="module")
def hybrid(model):
    x = keras.Input([2])
    return resflow.HybridModel(model.flow, keras.Model([x], keras.layers.Dense(2)(x)), [2])


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_warns(old, model, hybrid):
    owner, name = old.split(".")
    models = {"FlowModel": model, "HybridModel": hybrid}
    owner = models[owner] if owner in models else importlib.import_module(f"tf_resflow.{owner}")
    with pytest.warns(FutureWarning, match=re.escape(f"{old} is {RENAMED[old]} since")):
        value = getattr(owner, name)
    assert USES.get(old, lambda value: True)(value)


def test_a_hybrid_model_has_the_old_names_of_a_density(hybrid):
    with pytest.warns(FutureWarning, match="FlowModel.estimate_log_prob is evaluation.estimate_log_prob since"):
        estimate = hybrid.estimate_log_prob
    assert estimate([[0.0, 1.0]], stderr=1.0).log_prob.shape == [1]


def test_a_warning_points_at_the_line_that_uses_the_name(model):
    for use in (lambda: model.unit, lambda: resflow.training.Workdir, lambda: resflow.bijectors.Pass):
        with pytest.warns(FutureWarning) as caught:
            use()
        assert (caught[0].filename, caught[0].lineno) == (__file__, use.__code__.co_firstlineno)


def test_old_overrides_warn_and_work():
    with pytest.warns(FutureWarning, match="Shift.run overrides what is forward_pass since"):

        class Shift(resflow.bijectors.FlowBijector):
            def __init__(self):
                super().__init__(forward_min_event_ndims=1, name="shift")

            def run(self, x, context):
                return x + 1.0, x[..., 0] * 0.0

    np.testing.assert_array_equal(resflow.bijectors.Flow([Shift()]).forward([[1.0, 2.0]]), [[2.0, 3.0]])


def test_what_has_other_arguments_is_told(model):
    with pytest.raises(AttributeError, match=r"'loss_per_example'; since .* model.example_losses\(batch\)"):
        _ = model.loss_per_example


def test_unknown_names_are_unknown(model):
    for owner in (model, resflow.models, resflow.data):
        with pytest.raises(AttributeError, match="attribute.*nothing"):
            _ = owner.nothing
