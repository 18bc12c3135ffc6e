"""TFP does not train what Keras freezes, and the names of variables do not depend on the scopes around them."""

import contextlib

import keras
import pytest
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow.layers.attributes import variables_of


def members(make_block, make_coupling):
    """Returns one member of each kind, and their networks and variables in Keras."""
    x = keras.Input([2])
    hidden = resflow.layers.LipSwish()(resflow.layers.LipschitzDense(4)(x))
    branch = keras.Model(x, resflow.layers.LipschitzDense(2)(hidden))
    block, coupling = make_block(), make_coupling()
    functional = resflow.bijectors.ResidualBlock(branch, name="functional")
    affine = [resflow.bijectors.ActNorm([2]), resflow.bijectors.InvertibleConv1x1(2)]
    networks = [block.branch, coupling.network, functional.branch]
    variables = [v for part in affine for v in variables_of(part)]
    variables += [v for network in networks for v in network.variables]
    return [block, coupling, functional, *affine], networks, variables


@pytest.mark.parametrize("replicas", [1, 2])
def test_tfp_and_keras_train_the_same(make_block, make_coupling, density, two_replicas, replicas):
    with two_replicas.scope() if replicas == 2 else contextlib.nullcontext():
        parts, networks, variables = members(make_block, make_coupling)
        flow = resflow.bijectors.Flow(parts)
        shown = [density(flow), density(resflow.bijectors.with_log_det_estimator(flow, resflow.logdet.Exact()))]
    counts = [len(variables)]

    def check():
        for distribution in shown:
            trained = {id(v.value) for v in variables if v.trainable}
            assert {id(v) for v in distribution.trainable_variables} == trained
            assert len(distribution.variables) == counts[0]
        counts.append(len(shown[0].trainable_variables))

    check()
    for part in (*networks, networks[0].layers[0], variables[0], variables[3]):
        for trainable in (False, True):
            part.trainable = trainable
            check()
            assert (counts[-1] < counts[1]) is not trainable
    networks[0].trainable = False
    networks[0].layers[-1].trainable = True
    check()
    networks[0].trainable = True
    check()
    assert counts[-1] == counts[1]


def test_checkpoint_keys_match_version_0_1_in_any_scope(make_block, make_coupling, tmp_path):
    def keys(*scopes):
        with contextlib.ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(scope)
            block, coupling, functional, *affine = members(make_block, make_coupling)[0]
            flow = resflow.bijectors.Flow([*affine, resflow.bijectors.Flow([block, coupling], name="inner")])
        names = ["act_norm", "invertible_conv_1x1", "inner", "block", "affine_0", "functional"]
        assert [part.name for part in (*flow.bijectors, block, coupling, functional)] == names
        path = tf.train.Checkpoint(flow=flow, functional=functional).write(str(tmp_path / "c"))
        return {key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for key, _ in tf.train.list_variables(path)}

    found, flow = keys(), "flow/_bijectors_trackable"
    for scope in (tf.name_scope, keras.name_scope):
        assert keys(tf.Module("outer").name_scope, scope("outer"), scope("again")) == found
    branch = f"{flow}/inner/_bijectors_trackable/block/_branch_variables/branch.Sdense.Skernel"
    stored = {"act_norm": ("log_scale", "shift"), "invertible_conv_1x1": ("lower_upper", "permutation")}
    expected = {f"{flow}/{part}/_affine/{name}" for part, names in stored.items() for name in names}
    assert expected | {branch, f"{branch}_1"} <= found
    others = {key for key in found if "_affine" not in key and key.startswith("flow")}
    parts = {"/".join(key.removeprefix(f"{flow}/inner/_bijectors_trackable/").split("/")[:2]) for key in others}
    assert parts == {"block/_branch_variables", "affine_0/_network_variables"}
