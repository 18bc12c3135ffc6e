"""Views with another estimator or solver share the variables, at any depth."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb = tfp.bijectors
tfd = tfp.distributions
EXACT = resflow.logdet.Exact()
FIRST_TERM = resflow.logdet.PowerSeries(1, probes="basis")
Flow = resflow.bijectors.Flow
with_log_det_estimator = resflow.bijectors.with_log_det_estimator


CASES = {
    "nested_flow": lambda block, density: Flow([Flow([block], name="inner"), tfb.Scale(2.0)]),
    "chain": lambda block, density: tfb.Chain([tfb.Scale(2.0), tfb.Invert(block)]),
    "density": lambda block, density: density(Flow([block])),
    "joint": lambda block, density: tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), density(block)]),
}


def value(obj, x):
    if isinstance(obj, tfd.JointDistributionSequential):
        return obj.log_prob([tf.zeros([3]), tf.identity(x)])
    if isinstance(obj, tfd.Distribution):
        return obj.log_prob(tf.identity(x))
    return obj.forward_log_det_jacobian(tf.identity(x), 1)


def blocks(obj):
    return [m for m in (obj, *obj.submodules) if isinstance(m, resflow.bijectors.ResidualBlock)]


def kinds(obj):
    return {type(block.log_det_estimator).__name__ for block in blocks(obj)}


@pytest.mark.parametrize("name", CASES)
def test_a_view_shares_variables_and_changes_the_estimator(name, make_block, density):
    obj = CASES[name](make_block(log_det_estimator=FIRST_TERM), density)
    x = tf.random.stateless_uniform([3, 2], [0, 1], 0.1, 0.9)
    view = with_log_det_estimator(obj, EXACT)
    assert type(view) is type(obj) and view.name == obj.name
    assert kinds(obj) == {"PowerSeries"} and kinds(view) == {"Exact"}
    assert {id(v) for v in view.variables} == {id(v) for v in obj.variables}
    assert len(view.trainable_variables) == len(obj.trainable_variables) > 0
    before = value(view, x)
    assert np.min(np.abs(value(obj, x) - before)) > 1e-6
    # Training one also trains the other.
    for variable in obj.trainable_variables:
        variable.assign(0.5 * variable)
    assert np.min(np.abs(value(view, x) - before)) > 1e-6
    np.testing.assert_allclose(value(with_log_det_estimator(view, FIRST_TERM), x), value(obj, x), rtol=1e-6)


def test_other_arguments_are_kept_and_parts_without_blocks_are_the_same(make_block, make_coupling, density):
    solver, act_norm = resflow.solvers.FixedPoint(max_iterations=3), resflow.bijectors.ActNorm([2])
    block = make_block(log_det_estimator=FIRST_TERM, inverse_solver=solver).copy(validate_args=True)
    view = with_log_det_estimator(Flow([act_norm, block], name="mine"), EXACT)
    assert view.name == "mine" and view.bijectors[0] is act_norm
    viewed = view.bijectors[1]
    assert (viewed.branch, viewed.inverse_solver, viewed.name) == (block.branch, solver, block.name)
    assert viewed.validate_args
    for obj in (tfb.Scale(2.0), tfd.Normal(0.0, 1.0), density(Flow([make_coupling()]))):
        assert with_log_det_estimator(obj, EXACT) is obj


class Holder(tfb.Bijector):
    """Holds a bijector that is not among its parameters."""

    def __init__(self, bijector, name="holder"):
        self.bijectors = [bijector]
        super().__init__(forward_min_event_ndims=1, parameters={"name": name}, name=name)


NOT_VIEWED = {
    "model": (lambda d, flow: resflow.FlowModel(flow, [2]), "Got a FlowModel"),
    "coroutine": (lambda d, flow: tfd.JointDistributionCoroutine(lambda: (yield d)), "made of functions"),
    "joint_inside": (lambda d, flow: tfd.Sample(tfd.JointDistributionSequential([lambda: d])), "functions"),
    "attribute": (lambda d, flow: Holder(flow), r"holder \(Holder\) holds blocks that are not among.*block"),
}


def test_objects_that_cannot_be_viewed(make_block, density, refused):
    flow = Flow([make_block(), resflow.bijectors.ActNorm([2])])
    for make, message in NOT_VIEWED.values():
        refused(message, with_log_det_estimator, make(density(flow), flow), EXACT)
