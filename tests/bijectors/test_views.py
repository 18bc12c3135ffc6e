"""Views under another estimator or solver share the variables, at any depth."""

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


def multiscale():
    block = resflow.flows.residual_image_block(log_det=FIRST_TERM)
    return resflow.flows.image_flow(
        (4, 4, 1), (1, 1), 4, block=block, kernels=(1,), num_fc_blocks=0, factor_out=True
    )


def joint(block):
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    parts = [tfd.Normal(0.0, 1.0), tfd.TransformedDistribution(base, tfb.Invert(block))]
    return tfd.JointDistributionSequential(parts)


CASES = {
    "block": lambda block, density: block,
    "flow": lambda block, density: Flow([tfb.Scale(2.0), block]),
    "nested_flow": lambda block, density: Flow([Flow([block], name="inner"), tfb.Scale(2.0)]),
    "chain": lambda block, density: tfb.Chain([tfb.Scale(2.0), block]),
    "invert": lambda block, density: tfb.Invert(Flow([block])),
    "multiscale": lambda block, density: multiscale(),
    "density": lambda block, density: density(Flow([block])),
    "joint": lambda block, density: joint(block),
}


def value(obj, x):
    if isinstance(obj, tfd.JointDistributionSequential):
        return obj.log_prob([tf.zeros([3]), tf.identity(x)])
    if isinstance(obj, tfd.Distribution):
        return obj.log_prob(tf.identity(x))
    return obj.forward_log_det_jacobian(tf.identity(x), x.shape.rank - 1)


def blocks(obj):
    return [m for m in (obj, *obj.submodules) if isinstance(m, resflow.bijectors.ResidualBlock)]


@pytest.mark.parametrize("name", CASES)
def test_a_view_shares_variables_and_changes_the_estimator(name, make_block, density):
    obj = CASES[name](make_block(log_det=FIRST_TERM), density)
    shape = [3, 4, 4, 1] if name == "multiscale" else [3, 2]
    x = tf.random.stateless_uniform(shape, [0, 1], 0.1, 0.9)
    view = resflow.bijectors.with_log_det(obj, EXACT)
    assert type(view) is type(obj)
    assert view.name == obj.name
    assert {type(b.log_det).__name__ for b in blocks(obj)} == {"PowerSeries"}
    assert {type(b.log_det).__name__ for b in blocks(view)} == {"Exact"}
    assert {id(v) for v in view.variables} == {id(v) for v in obj.variables}
    assert len(view.trainable_variables) == len(obj.trainable_variables) > 0
    before = value(view, x)
    assert np.min(np.abs(value(obj, x) - before)) > 1e-6
    # Training the one is training the other.
    for variable in obj.trainable_variables:
        variable.assign(0.5 * variable)
    assert np.min(np.abs(value(view, x) - before)) > 1e-6
    back = resflow.bijectors.with_log_det(view, FIRST_TERM)
    np.testing.assert_allclose(value(back, x), value(obj, x), rtol=1e-6)


def test_other_arguments_are_kept(make_block):
    solver = resflow.solvers.FixedPoint(max_iterations=3)
    block = make_block(log_det=FIRST_TERM, inverse_solver=solver).copy(validate_args=True)
    view = resflow.bijectors.with_log_det(Flow([block], name="mine"), EXACT)
    assert view.name == "mine"
    (viewed,) = view.bijectors
    assert (viewed.branch, viewed.inverse_solver) == (block.branch, solver)
    assert viewed.validate_args
    assert viewed.name == block.name


def test_parts_without_blocks_are_the_same_objects(make_block):
    act_norm = resflow.bijectors.ActNorm([2])
    flow = Flow([act_norm, make_block()])
    assert resflow.bijectors.with_log_det(flow, EXACT).bijectors[0] is act_norm


@pytest.mark.parametrize("name", [name for name in CASES if name != "joint"])
def test_another_solver(name, make_block, density):
    obj = CASES[name](make_block(log_det=FIRST_TERM), density)
    solver = resflow.solvers.FixedPoint(max_iterations=3)
    view = resflow.bijectors.with_inverse_solver(obj, solver)
    assert {b.inverse_solver for b in blocks(view)} == {solver}
    assert all(b.inverse_solver is not solver for b in blocks(obj))
    assert {type(b.log_det).__name__ for b in blocks(view)} == {"PowerSeries"}
    assert {id(v) for v in view.variables} == {id(v) for v in obj.variables}


def test_nothing_to_change(make_coupling, density):
    for obj in (tfb.Scale(2.0), tfd.Normal(0.0, 1.0), density(Flow([make_coupling()]))):
        assert resflow.bijectors.with_log_det(obj, EXACT) is obj
        assert resflow.bijectors.with_inverse_solver(obj, resflow.solvers.FixedPoint()) is obj


class Holder(tfb.Bijector):
    """Holds a bijector, which is not among its parameters."""

    def __init__(self, bijector, name="holder"):
        self.bijectors = [bijector]
        super().__init__(forward_min_event_ndims=1, parameters={"name": name}, name=name)


NOT_VIEWED = {
    "list": (lambda d, flow: [d], "bijector or a distribution; got list"),
    "model": (lambda d, flow: resflow.FlowModel(flow, [2]), "got FlowModel"),
    "kernel": (lambda d, flow: tfp.mcmc.HamiltonianMonteCarlo(d.log_prob, 0.1, 1), "got HamiltonianMonteCarlo"),
    "coroutine": (lambda d, flow: tfd.JointDistributionCoroutine(lambda: (yield d)), "made of functions"),
    "sequential": (lambda d, flow: tfd.JointDistributionSequential([d, lambda x: d]), "functions"),
    "named": (lambda d, flow: tfd.JointDistributionNamedAutoBatched({"a": d, "b": lambda a: a}), "functions"),
    "joint_inside": (lambda d, flow: tfd.Sample(tfd.JointDistributionSequential([lambda: d])), "functions"),
    "attribute": (lambda d, flow: Holder(flow), r"holder \(Holder\) holds blocks elsewhere.*block"),
    "attribute_inside": (lambda d, flow: Flow([flow, Holder(flow)]), "holds blocks elsewhere.*block"),
}


@pytest.mark.parametrize("name", NOT_VIEWED)
def test_what_cannot_be_viewed_is_refused(name, make_block, density):
    make, message = NOT_VIEWED[name]
    flow = Flow([make_block(), resflow.bijectors.ActNorm([2])])
    obj = make(density(flow), flow)
    for view in (resflow.bijectors.with_log_det, resflow.bijectors.with_inverse_solver):
        with pytest.raises(ValueError, match=message):
            view(obj, EXACT)
    refused = "whose solutions it does not give: .*block" if isinstance(obj, tfb.Bijector) else "takes a bijector"
    with pytest.raises(ValueError, match=refused):
        resflow.bijectors.inverse_with_solutions(obj, tf.zeros([1, 2]))


def test_a_view_traces_no_branch_again(make_block, monkeypatch):
    block = make_block()
    traced = []
    monkeypatch.setattr("tf_resflow.bijectors.residual_block._check_output", traced.append)
    view = resflow.bijectors.with_log_det(Flow([block]), EXACT)
    assert not traced and blocks(view)[0].branch is block.branch
    others = [block.copy(event_shape=[2]), resflow.bijectors.ResidualBlock(block.branch)]
    assert traced == others
