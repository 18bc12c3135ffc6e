"""The gradient of the ELBO along the path of a sample: sticking the landing."""

import dataclasses

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tf_resflow.bijectors import AffineAutoregressive, Flow, FlowBijector, MonotoneBlock, Networks, ResidualBlock
from tf_resflow.bijectors.base import Context, Pass, in_order, pass_through
from tf_resflow.logdet.estimators import reverse_jacobian
from tf_resflow.vi.surrogate_posteriors import vector_part

__all__ = ["with_path_derivative"]


def with_path_derivative(surrogate_posterior: tfd.TransformedDistribution) -> tfd.TransformedDistribution:
    r"""A view of a surrogate posterior with which the gradient of the ELBO is the path derivative.

    With \\(x = f_\phi(z)\\), the gradient of \\(\log p(x) - \log q_\phi(x)\\) has two parts: the one along the
    path, \\((\nabla_x \log p - \nabla_x \log q_\phi)^T \partial x / \partial \phi\\), and the score
    \\(-\partial \log q_\phi(x) / \partial \phi\\) at fixed x, whose mean is zero. Without the score the gradient
    still is unbiased, and has no variance at all where q is the posterior. Here
    \\(\nabla_x \log q_\phi = J^{-T} \nabla_z (\log q(z) - \log|\det J|)\\), from a D x D system for each sample.

    Variables are shared: fit the view, and use the surrogate. It works for TFP's flows, too.

    ```python
    import keras, tensorflow_probability as tfp, tf_resflow as resflow

    tfd = tfp.distributions
    model = tfd.JointDistributionSequential([tfd.Gamma(2.0, 1.0), lambda rate: tfd.Poisson(rate)])
    target = model.experimental_pin(None, 4.0)
    surrogate = resflow.vi.flow_surrogate_posterior(
        target.event_shape, constraining_bijector=target.experimental_default_event_space_bijector(), num_blocks=1
    )
    view = resflow.vi.with_path_derivative(surrogate)
    losses = tfp.vi.fit_surrogate_posterior(target.unnormalized_log_prob, view, keras.optimizers.Adam(0.01), 5)
    print(losses.shape)
    # (5,)
    ```

    The view is for the ELBO (`tfp.vi.kl_reverse` with `importance_sample_size=1`): in other objectives the score
    has weights, with which its mean is not zero. The density of a given x keeps its gradient; the density of a
    sample, which comes from the sampling pass, has that of the path.

    Args:
      surrogate_posterior: as from `tf_resflow.vi.flow_surrogate_posterior` or
        `tfp.experimental.vi.build_split_flow_surrogate_posterior`. A step takes the Jacobians of its samples:
        meant for up to about a thousand coordinates.

    Returns:
      A `tfd.TransformedDistribution` with the same samples and densities.

    Raises:
      ValueError: if it is not made of a flow on vectors, or its base distribution has trainable variables.

    References:
      Roeder, Wu and Duvenaud, Sticking the Landing, 2017, Equation 8.
      Vaitl, Nicoli, Nakajima and Kessel, Gradients should stay on Path, 2022.
    """
    flow, others = vector_part(surrogate_posterior)
    base = surrogate_posterior.distribution
    if base.trainable_variables:
        raise ValueError(
            f"The base distribution of {surrogate_posterior.name} has trainable variables, whose gradient is not "
            "along the path of a flow: make its loc and scale part of the bijector, as tfb.Shift and tfb.Scale."
        )
    bijector = Flow([_PathDerivative(flow, base), *others], name="surrogate")
    return tfd.TransformedDistribution(base, bijector, name=f"{surrogate_posterior.name}_path_derivative")


class _PathDerivative(FlowBijector):
    """A flow from z to x whose log-determinant has the gradient that makes that of log q the path derivative."""

    def __init__(self, flow: Flow, base: tfd.Distribution, name: str = "path_derivative"):
        parameters = dict(locals())
        self._flow, self._base = flow, base
        super().__init__(forward_min_event_ndims=1, dtype=flow.dtype, parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from z, here x, to the flow's output."""
        if not context.log_det:
            return pass_through(self._flow, x, context)
        z = tf.identity(x)
        leaves: list = []  # with their inputs
        networks = context.arguments.get("networks") or Networks(self._flow)
        arguments = {**context.arguments, "networks": networks}
        context = dataclasses.replace(context, arguments=arguments, visit=lambda *leaf: leaves.append(leaf))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            value, log_det, *_ = pass_through(self._flow, z, context)
            log_q = self._base.log_prob(z) - log_det
        by_latent = tape.gradient(log_q, z)
        if arguments.keys() <= {"seed", "salt", "networks"} and _are_in_sequence(leaves, self._flow, value):
            jacobian = _product_of_jacobians(leaves, value, networks)
        else:
            _, jacobian = reverse_jacobian(_value_alone(self._flow, context), _rows(z))
        by_value = tf.linalg.solve(jacobian, _rows(by_latent)[..., tf.newaxis], adjoint=True)[..., 0]
        along = tf.reduce_sum(tf.stop_gradient(by_value) * _rows(value - tf.stop_gradient(value)), axis=-1)
        log_det = tf.stop_gradient(log_det) - tf.reshape(along, tf.shape(z)[:-1])
        return Pass(tf.ensure_shape(value, x.shape), log_det)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """The `Pass` back, with its true gradients."""
        return pass_through(self._flow, y, context, inverse=True)


def _rows(x):
    return tf.reshape(x, [-1, x.shape[-1]])


def _value_alone(bijector, context, inverse=False):
    """The bijector as a function of rows `[rows, size]`, without a log-determinant."""
    context = dataclasses.replace(context, log_det=False, visit=None)
    return lambda x: pass_through(bijector, x, context, inverse=inverse).value


def _are_in_sequence(leaves, flow, value):
    """Whether the visited bijectors are the innermost members of the flow, each once, on vectors of one size."""
    members = _members(flow)
    if len(members) != len(leaves) or any(m is not leaf[0] for m, leaf in zip(members, leaves, strict=True)):
        return False  # a bijector of the user's passes the visit on to bijectors in it
    return all(x.shape.rank == value.shape.rank and x.shape[-1] == value.shape[-1] for _, x, _ in leaves)


def _members(bijector):
    """The innermost members of our flows, in their order."""
    if not isinstance(bijector, Flow):
        return [bijector]
    return [member for each in in_order(bijector) for member in _members(each)]


def _product_of_jacobians(leaves, value, networks):
    """The Jacobians `[rows, size, size]` of bijectors in sequence with these inputs, the last with this value."""
    values = [_rows(x) for _, x, _ in leaves[1:]] + [_rows(value)]
    jacobian = None
    for (bijector, x, inverse), y in zip(leaves, values, strict=True):
        if type(bijector) in (AffineAutoregressive, MonotoneBlock, ResidualBlock) and not inverse:
            factor = bijector.jacobian(_rows(x), y, networks=networks)
        else:
            _, factor = reverse_jacobian(_value_alone(bijector, Context(), inverse), _rows(x))
        jacobian = factor if jacobian is None else tf.matmul(factor, jacobian)
    return jacobian
