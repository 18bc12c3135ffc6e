"""Runs Markov chains in the latent space of a fitted surrogate posterior."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow.bijectors import Flow, FlowBijector, Networks, with_log_det_estimator
from tf_resflow.bijectors.base import Context, Pass, pass_through
from tf_resflow.bijectors.flow import keras_parts
from tf_resflow.bijectors.preprocessing import WithStatistics
from tf_resflow.bijectors.views import with_replaced
from tf_resflow.logdet import Exact
from tf_resflow.vi.surrogate_posteriors import vector_part


def neutra_bijector(surrogate_posterior: tfd.TransformedDistribution) -> Flow:
    r"""Converts a fitted surrogate posterior to a bijector for `tfp.mcmc.TransformedTransitionKernel`.

    The chains move in the latent z of the surrogate. If the surrogate fits well, the target
    \\(\log p(f(z)) + \log|\det J_f(z)|\\) is close to a standard normal, even for a strongly curved posterior. The
    chains sample the posterior itself: a poor fit only makes them less efficient.

    The log-determinants are exact. The current parameters become constants. (Variables of TFP's bijectors, and of
    layers that this library does not know, stay variables.)
    The kernels are scaled once, so a step computes no norms. The bijector can be differentiated repeatedly.

    ```python
    import tensorflow as tf, tensorflow_probability as tfp, tf_resflow as resflow
    target = tfp.distributions.MultivariateNormalDiag([0.0, 1.0], [1.0, 2.0]).log_prob
    surrogate = resflow.vi.flow_surrogate_posterior([2])  # fit it first
    kernel = tfp.mcmc.HamiltonianMonteCarlo(target, step_size=0.3, num_leapfrog_steps=4)
    kernel = tfp.mcmc.TransformedTransitionKernel(kernel, resflow.vi.neutra_bijector(surrogate))

    @tf.function(jit_compile=True)
    def sample(start, seed):
        return tfp.mcmc.sample_chain(100, start, kernel=kernel, trace_fn=None, seed=seed)

    draws = sample(surrogate.sample(8, seed=1), tf.constant([0, 1]))  # [steps, chains, coordinates]
    print(draws.shape)
    # (100, 8, 2)
    ```

    Args:
      surrogate_posterior: a distribution such as the result of `tf_resflow.vi.flow_surrogate_posterior`. If its
        events are lists or tuples, z is a list of vectors, as `tfp.mcmc.TransformedTransitionKernel` requires. It
        does not support dicts. For these, z is one vector, and the guide has an example of windowed NUTS.

    Returns:
      A bijector from z to the events of the surrogate.

    References:
      Hoffman et al., NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport, 2019.
    """
    flow, others = vector_part(surrogate_posterior)
    structure = surrogate_posterior.dtype
    members = [frozen(with_log_det_estimator(flow, Exact())), *others]
    if isinstance(structure, (list, tuple)):
        members.insert(0, tfb.Invert(others[0]))  # joins the parts of z, because others[0] is a Split
    return Flow(members, name="neutra")


def frozen(flow: FlowBijector, **arguments: Any) -> FlowBijector:
    """Returns a flow on vectors with its variables and scaled kernels as constants, and `arguments` as defaults.

    In a `tf.function`, the constants are the values at the time of tracing.
    """
    with tf.init_scope():
        owners = keras.tree.flatten(list(keras_parts(flow).values()))
        variables = keras.tree.flatten([o.variables if isinstance(o, keras.Layer) else o for o in owners])
        values = [(variable, variable.numpy()) for variable in {id(v): v for v in variables}.values()]
        flow = with_replaced(flow, WithStatistics, lambda part: part.frozen())
        networks = Networks(flow).frozen(lambda parameter: parameter.numpy())

    def apply(x, context, inverse):
        given = {**arguments, **context.arguments, "networks": networks}
        context = dataclasses.replace(context, arguments=given)
        with keras.StatelessScope(state_mapping=values):
            return pass_through(flow, x, context, inverse=inverse)

    return _Frozen(apply, flow.dtype)


class _Frozen(FlowBijector):
    """A bijector on vectors that applies a function of x, a context, and whether to invert."""

    _inverse_needs_solver = True

    def __init__(self, apply: Callable[..., Pass], dtype: tf.DType, name: str = "frozen"):
        parameters = dict(locals())
        self._apply = apply
        super().__init__(forward_min_event_ndims=1, dtype=dtype, parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        return self._apply(x, context, inverse=False)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return self._apply(y, context, inverse=True)
