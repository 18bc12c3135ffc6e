"""Path gradients of the ELBO ("sticking the landing")."""

import dataclasses

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow.bijectors import ActNorm, Flow, FlowBijector, Networks
from tf_resflow.bijectors.base import Context, Pass, members_in_order, pass_through
from tf_resflow.bijectors.flow import route_members
from tf_resflow.logdet.estimators import reverse_jacobian
from tf_resflow.vi.surrogate_posteriors import vector_part

_LINEAR = (tfb.Permute, tfb.ScaleMatvecDiag, tfb.ScaleMatvecLU, tfb.ScaleMatvecTriL)


def with_path_derivative(surrogate_posterior: tfd.TransformedDistribution) -> tfd.TransformedDistribution:
    r"""Returns a view of a surrogate posterior whose gradient of the ELBO is the path derivative.

    With \\(x = f_\phi(z)\\), the gradient of \\(\log p(x) - \log q_\phi(x)\\) has two parts: the gradient along
    the path, \\((\nabla_x \log p - \nabla_x \log q_\phi)^T \partial x / \partial \phi\\), and the score
    \\(-\partial \log q_\phi(x) / \partial \phi\\) at fixed x, whose mean is zero. Without the score, the gradient
    remains unbiased, and its variance is zero where q equals the posterior. The view computes
    \\(\nabla_x \log q_\phi = J^{-T} \nabla_z (\log q(z) - \log|\det J|)\\) along with the sample, by solving a
    D x D system for each sample and bijector.

    The view shares the surrogate's variables: fit the view, then use the surrogate. Flows from TFP also work. Use
    the view only for the ELBO (`tfp.vi.kl_reverse` with `importance_sample_size=1`). In other objectives, the score
    is weighted and its mean is not zero. The density of a given x keeps its usual gradient; only the density that
    is computed along with a sample has the path derivative.

    Args:
      surrogate_posterior: A distribution such as the result of `tf_resflow.vi.flow_surrogate_posterior` or
        `tfp.experimental.vi.build_split_flow_surrogate_posterior`. Each step computes the Jacobians of its samples,
        which is practical for up to about a thousand coordinates.

    References:
      Roeder, Wu and Duvenaud, Sticking the Landing, 2017, Equation 8.
      Vaitl, Nicoli, Nakajima and Kessel, Gradients should stay on Path, 2022.
      Vaitl, Winkler, Richter and Kessel, Fast and Unified Path Gradient Estimators for Normalizing Flows, 2024.
    """
    flow, others = vector_part(surrogate_posterior)
    base = surrogate_posterior.distribution
    if base.trainable_variables:
        raise ValueError(
            "The base distribution has trainable variables, but the path derivative needs a fixed base. Move the "
            "variables to the bijector, for example to a tfb.Scale."
        )
    bijector = Flow([_PathDerivative(flow, base), *others], name="surrogate")
    split = surrogate_posterior.parameters.get("kwargs_split_fn")
    name = f"{surrogate_posterior.name}_path_derivative"
    return tfd.TransformedDistribution(base, bijector, kwargs_split_fn=split, name=name)


class _PathDerivative(FlowBijector):
    """A flow from z to x whose log-determinant makes the path derivative the gradient of log q."""

    def __init__(self, flow: Flow, base: tfd.Distribution, name: str = "path_derivative"):
        parameters = dict(locals())
        self._flow = flow
        self._base = base
        super().__init__(forward_min_event_ndims=1, dtype=flow.dtype, parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        if not context.compute_log_det:
            return pass_through(self._flow, x, context)
        value = tf.identity(x)
        total = 0.0
        gradient = tfp.math.value_and_gradient(self._base.log_prob, value, use_gradient_tape=True)[1]
        networks = context.arguments.get("networks") or Networks(self._flow)
        arguments = {**context.arguments, "networks": networks}
        for bijector, member_arguments in _in_sequence(self._flow, arguments, x.shape[-1:]):
            member_context = dataclasses.replace(context, arguments=member_arguments)
            value, log_det, gradient = _forward_with_density_gradient(bijector, value, gradient, member_context)
            total += log_det
        along = tf.reduce_sum(tf.stop_gradient(gradient) * (value - tf.stop_gradient(value)), axis=-1)
        return Pass(tf.ensure_shape(value, x.shape), tf.stop_gradient(total) - along)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return pass_through(self._flow, y, context, inverse=True)


def _rows(x):
    return tf.reshape(x, [-1, x.shape[-1]])


def _in_sequence(bijector, arguments, shape):
    """Returns the innermost members of flows and chains on vectors, in order, each with its arguments."""
    pairs = []
    is_known = arguments.keys() <= {"seed", "salt", "networks"}
    if is_known and type(bijector) is Flow:
        routed = route_members(bijector, bijector._members, arguments)
        pairs = [(member, routed[key]) for key, member in bijector._members.items()]
    elif is_known and isinstance(bijector, tfb.Composition) and not isinstance(bijector, FlowBijector):
        members = [
            member for member in members_in_order(bijector) if member is not bijector
        ]  # empty unless a sequence
        pairs = [(member, arguments.get(member.name, {})) for member in members]
    if not pairs or any(member.forward_event_shape(shape) != shape for member, _ in pairs):
        return [(bijector, arguments)]
    innermost = []
    for member, member_arguments in pairs:
        innermost += _in_sequence(member, member_arguments, shape)
    return innermost


def _forward_with_density_gradient(bijector, x, gradient, context):
    """Returns y, log|det J| and the gradient of the log-density at y, given the gradient at x."""
    method = vars(type(bijector)).get("forward_with_density_gradient")  # not that of a base class, another map
    result = method(bijector, _rows(x), _rows(gradient), context.arguments["networks"]) if method else None
    if result is not None:
        y, log_det, gradient = result
        return tf.reshape(y, tf.shape(x)), tf.reshape(log_det, tf.shape(x)[:-1]), tf.reshape(gradient, tf.shape(x))
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        y, log_det, *_ = pass_through(bijector, x, context, event_ndims=1)
    gradient -= tape.gradient(log_det, x, unconnected_gradients="zero")
    if bijector.forward_min_event_ndims == 0 or type(bijector) is ActNorm:
        return y, log_det, gradient / tape.gradient(y, x)
    if isinstance(bijector, _LINEAR):  # the inverse has the same derivative everywhere
        options = {"output_gradients": gradient, "use_gradient_tape": True}
        return y, log_det, tfp.math.value_and_gradient(bijector.inverse, tf.identity(y), **options)[1]
    jacobian = _jacobian(bijector, x, y, context)
    gradient = tf.linalg.solve(jacobian, _rows(gradient)[..., tf.newaxis], adjoint=True)
    return y, log_det, tf.reshape(gradient, tf.shape(x))


def _jacobian(bijector, x, y, context):
    """Returns the Jacobians `[rows, size, size]` of a bijector that maps x to y."""
    if "jacobian" in vars(type(bijector)) and "condition" not in context.arguments:
        return bijector.jacobian(_rows(x), _rows(y), context.arguments["networks"])
    context = dataclasses.replace(context, compute_log_det=False, on_leaf=None)
    return reverse_jacobian(lambda x: pass_through(bijector, x, context).value, _rows(x))[1]
