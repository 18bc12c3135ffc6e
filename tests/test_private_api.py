"""Private names of Keras, TensorFlow and TFP in `tf_resflow._internal.private_api` exist and behave as expected."""

import ast
import contextlib
import logging
import pathlib

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal import private_api

ROOT = pathlib.Path(__file__).parents[1] / "tf_resflow"


def test_object_sharing_record_sharing():
    """An object that occurs twice is one object after loading, and an open context keeps its records."""
    layer = keras.layers.Dense(1)
    with private_api.object_sharing():
        keras.saving.serialize_keras_object(layer)
        with private_api.object_sharing():
            config = [keras.saving.serialize_keras_object(layer) for _ in range(2)]
    with private_api.object_sharing():
        first, second = keras.saving.deserialize_keras_object(config)
    assert first is second


def test_accepts_list():
    x, c = keras.Input([2], name="x"), keras.Input([2], name="c")
    y = keras.layers.Add()([x, c])
    for inputs, accepts_list in (([x, c], True), ((x, c), True), ({"x": x, "c": c}, False), ([x, [c]], False)):
        assert private_api.accepts_list(keras.Model(inputs, y)) == accepts_list
    assert private_api.accepts_list(keras.Sequential([x, keras.layers.ReLU()]))


def test_custom_gradient():
    """The function has its own gradient and is differentiable twice."""

    @private_api.custom_gradient
    def cube(x):
        return x**3, lambda upstream: 5.0 * upstream * x**2

    def derivatives(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = cube(x)
            first = inner.gradient(y, x)
        return y, first, outer.gradient(first, x)

    expected = [8.0, 20.0, 20.0]
    np.testing.assert_array_equal([y.numpy() for y in tf.function(derivatives)(tf.constant(2.0))], expected)
    x = tf.constant(2.0)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(x)
        inner.watch(x)
        y = tf.function(cube)(x)
        first = inner.gradient(y, x)
    np.testing.assert_array_equal([y, first, outer.gradient(first, x)], expected)


def test_OnlyInSavedModels():
    class Holder(private_api.OnlyInSavedModels, tf.Module):
        _only_in_saved_models = ("hidden",)

    holder = Holder()
    holder.seen, holder.hidden = tf.Variable(1.0), tf.Variable(2.0)
    assert list(holder._trackable_children()) == ["seen"]
    assert "hidden" in holder._trackable_children("savedmodel", cache={})


def test_silence_retracing_without_retracing_warnings(caplog):
    """Silences one function, or all functions within the context, but no other warnings."""

    def trace_often(function):
        for size in range(8):
            function(tf.zeros([size]))

    with caplog.at_level(logging.WARNING, "tensorflow"):
        trace_often(private_api.silence_retracing(tf.function(lambda x: x + 1)))
        with private_api.without_retracing_warnings():
            trace_often(tf.function(lambda x: x + 2))
            tf.get_logger().warning("another")
        assert caplog.messages == ["another"]
        trace_often(tf.function(lambda x: x + 3))
    assert "retracing" in caplog.text


def test_implements_log_det():
    kinds = (
        tfp.bijectors.Exp(),
        tfp.bijectors.Inline(tf.exp, tf.math.log, forward_min_event_ndims=0),
        tfp.bijectors.AbsoluteValue(),
    )
    assert [private_api.implements_log_det(bijector) for bijector in kinds] == [True, False, False]


def test_has_fixed_members_is_increasing():
    assert private_api.is_increasing(tfp.bijectors.Exp())
    assert not private_api.is_increasing(tfp.bijectors.Reciprocal())
    model = tfp.distributions.JointDistributionSequentialAutoBatched(
        [tfp.distributions.Normal(0.0, 1.0), lambda x: tfp.distributions.Uniform(x, x + 1.0)]
    )
    exp = tfp.bijectors.Exp()
    assert private_api.has_fixed_members(tfp.bijectors.Chain([exp, exp]))
    assert private_api.has_fixed_members(tfp.bijectors.JointMap([exp, exp]))
    assert not private_api.has_fixed_members(model.experimental_default_event_space_bijector())


def test_is_xla_eager_mode():
    found = []
    for compiled in (False, True):
        tf.function(lambda: found.append(private_api.is_xla()), jit_compile=compiled, autograph=False)()
    assert found == [False, True] and not private_api.is_xla()
    with tf.Graph().as_default(), private_api.eager_mode():
        assert tf.constant(1.0).numpy() == 1.0


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def imports_of_others(tree):
    """Yields the dotted names that a module imports from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.module.startswith("tf_resflow"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_imports(path):
    """Returns the private names that a module imports: those in `src` or `python`, or with an underscore."""
    found = set()
    for name in imports_of_others(ast.parse(path.read_text())):
        parts = name.split(".")
        if {"src", "python"}.intersection(parts[1:]) or any(map(is_private, parts)):
            found.add(name)
    return found


def private_attributes(path):
    """Returns the private attributes that a module uses, and those that it defines."""
    used, defined = set(), {"_asdict", "_replace"}  # methods of named tuples
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and (is_private(node.attr) or node.attr == "__internal__"):
            is_of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if is_of_self and isinstance(node.ctx, ast.Store) else used).add(node.attr)
    return used, defined


MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path.name != "private_api.py"]


def test_private_names_are_imported_nowhere_else():
    assert {path.name: names for path in MODULES if (names := private_imports(path))} == {}
    assert "tensorflow.python.eager.tape" in private_imports(ROOT / "_internal" / "private_api.py")


def test_private_attributes_are_used_nowhere_else():
    """Exceptions are the documented `sys._getframe` and `os._exit`. Overridden methods count as defined here."""
    attributes = {path: private_attributes(path) for path in MODULES}
    ours = set().union(*(defined for _, defined in attributes.values())) | {"_getframe", "_exit"}
    found = {path.name: used - ours for path, (used, _) in attributes.items()}
    assert {name: used for name, used in found.items() if used} == {}
    assert {"_nodes_by_depth", "__internal__"} <= private_attributes(ROOT / "_internal" / "private_api.py")[0]


def test_track_and_untracked():
    module = tf.Module()
    module.hidden = private_api.untracked(tf.Variable(1.0))
    private_api.track(module, "key", {"seen": tf.Variable(2.0)})
    assert module.hidden.numpy() == 1.0
    assert list(module._trackable_children()) == ["key"]


def test_unrecorded():
    """Under two tapes, no gradient of a loop is traced, and variables in the loop count as read."""
    scale, watched = tf.Variable(2.0), []

    def read(context):
        with tf.GradientTape() as outer, tf.GradientTape() as inner:
            with context():
                tf.while_loop(lambda x: x < 9.0, lambda x: [scale * x], [tf.ones([])])
        watched.append([*inner.watched_variables(), *outer.watched_variables()])

    def num_functions(context):
        graph = tf.function(lambda: read(context), autograph=False).get_concrete_function().graph
        return len(graph.as_graph_def().library.function)

    assert num_functions(private_api.unrecorded) < num_functions(contextlib.nullcontext)
    assert watched[0] == watched[1] == [scale, scale]
