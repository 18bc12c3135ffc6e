"""Variables of bijectors of one's own, and of TFP's bijectors and distributions, are trained and saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tf_resflow as resflow

tfb, tfd, util = tfp.bijectors, tfp.distributions, tfp.util
ROWS = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], size=[64, 2]).astype("float32")


def dense(seed):
    layer = keras.layers.Dense(2, kernel_initializer=keras.initializers.RandomNormal(0.1, seed=seed))
    layer.build([None, 1])
    return layer


@keras.saving.register_keras_serializable("tests")
class Shifted(resflow.bijectors.FlowBijector):
    """Adds numbers that come from a variable or from layers, which are attributes of different forms."""

    def __init__(self, form, name="shifted"):
        parameters = dict(locals())
        if form == "variable":
            self.shift = keras.Variable([0.1, 0.2], name="shift")
        elif form == "layer":
            self.dense = dense(1)
        elif form == "list":
            self.parts = [dense(1), keras.Variable([0.1, 0.2], name="shift")]
        elif form == "dict":
            self.parts = {"first": dense(1), "more": (dense(2),)}
        elif form == "model and a part":
            self.model = keras.Sequential([keras.Input([1]), dense(1), keras.layers.Activation("tanh")])
            self.part = self.model.layers[0]
        elif form == "listed":
            self.networks = [dense(1)]
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)

    def _shift(self):
        one = tf.ones([1, 1])
        form = self.parameters["form"]
        if form == "variable":
            return self.shift.value
        if form == "layer":
            return self.dense(one)[0]
        if form == "list":
            return self.parts[0](one)[0] + self.parts[1].value
        if form == "dict":
            return self.parts["first"](one)[0] + self.parts["more"][0](one)[0]
        if form == "model and a part":
            return self.model(one)[0]
        return self.networks[0](one)[0]

    def forward_pass(self, x, context):
        return x + self._shift(), tf.zeros(tf.shape(x)[:-1])

    def inverse_pass(self, y, context):
        return y - self._shift(), tf.zeros(tf.shape(y)[:-1])


FORMS = {"variable": 1, "layer": 2, "list": 3, "dict": 4, "model and a part": 2, "listed": 2}


def of_tfp(name):
    """Returns a flow and a base distribution, with variables of TFP."""
    shift = tf.Variable([0.1, 0.2])
    scale = util.TransformedVariable([1.0, 2.0], tfb.Exp())
    if name == "transformed variables":
        tril = util.TransformedVariable(tf.eye(2), tfb.FillScaleTriL())
        return [tfb.ScaleMatvecTriL(tril), tfb.Scale(scale)], None
    if name == "autoregressive network":
        network = tfb.AutoregressiveNetwork(params=2, event_shape=[2], hidden_units=[4], activation="relu")
        return [tfb.MaskedAutoregressiveFlow(network)], None
    if name == "inverted and chained":
        return [tfb.Chain([tfb.Invert(tfb.Shift(shift)), tfb.Scale(scale)])], None
    if name == "one variable twice":
        return [tfb.Shift(shift), tfb.Scale([2.0, 3.0]), tfb.Shift(shift)], None
    return [Shifted("variable")], tfd.MultivariateNormalDiag(shift, scale)


OF_TFP = {
    "transformed variables": 2,
    "autoregressive network": 4,
    "inverted and chained": 2,
    "one variable twice": 1,
    "base": 3,
}


@pytest.mark.parametrize(("kind", "num"), [*FORMS.items(), *OF_TFP.items()])
def test_all_variables_are_trained_and_saved(kind, num, tmp_path):
    members, base = of_tfp(kind) if kind in OF_TFP else ([Shifted(kind)], None)
    model = resflow.FlowModel(resflow.bijectors.Flow(members), [2], base=base)
    before = [variable.numpy() for variable in model.trainable_variables]
    assert len(before) == len(model.distribution.trainable_variables) == num
    model.compile(resflow.models.Adam(0.1))
    model.fit(ROWS, batch_size=32, epochs=3, verbose=0)
    pairs = zip(before, model.trainable_variables, strict=True)
    assert all(np.any(old != variable.numpy()) for old, variable in pairs)
    expected = model.log_prob(ROWS).numpy()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(ROWS), expected)
    loaded.fit(ROWS, batch_size=32, epochs=1, verbose=0)
    assert np.all(loaded.log_prob(ROWS).numpy() != expected)
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded.log_prob(ROWS), expected)


def test_norms_of_layers_in_attributes_are_updated():
    class Owner(resflow.bijectors.FlowBijector):
        def __init__(self, layers):
            self.layers = layers
            super().__init__(forward_min_event_ndims=1, parameters={"layers": layers}, name="owner")

    layer = resflow.layers.LipschitzDense(3)
    layer.build([None, 3])
    flow = resflow.bijectors.Flow([Owner([{"inside": layer}])])
    assert resflow.layers.norm_updates.lipschitz_layers(flow) == [layer]


def test_variables_that_no_attribute_holds_are_refused(refused):
    """Late attributes are refused at once, and variables in closures in the first step."""
    late = Shifted("variable")
    refused("'late' of a Shifted .* before calling super", setattr, late, "late", dense(1))
    hidden = tf.Variable([1.0, 2.0], name="hidden")
    flow = resflow.bijectors.Flow(
        [
            tfb.Inline(
                lambda x: x + hidden,
                lambda y: y - hidden,
                lambda y: tf.zeros([]),
                forward_min_event_ndims=1,
                is_constant_jacobian=True,
            )
        ]
    )
    model = resflow.FlowModel(flow, [2])
    model.compile("adam")
    refused("do not belong to the model: hidden", model.fit, ROWS, verbose=0)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("shape", [[], [4], [1], [4, 1], [4, 2], [2], [1, 4], [3]])
def test_log_determinants_of_another_shape_are_refused(shape, in_graph, refused):
    class Wrong(resflow.bijectors.FlowBijector):
        def __init__(self):
            super().__init__(forward_min_event_ndims=1, parameters={}, name="wrong")

        def forward_pass(self, x, context):
            return x, tf.zeros(shape)

        inverse_pass = forward_pass

    density = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Invert(Wrong()))
    for call in (density.log_prob, Wrong().forward_log_det_jacobian, Wrong().inverse_log_det_jacobian):
        call = tf.function(call, autograph=False) if in_graph else call
        if shape in ([], [4]):
            assert call(tf.zeros([4, 2])).shape in ([], [4])
        else:
            refused(
                r"wrong.*_pass returned a log-determinant of shape .*with the shape \(4,\)", call, tf.zeros([4, 2])
            )
