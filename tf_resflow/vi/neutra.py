"""A fitted surrogate posterior as the coordinates of Markov chains."""

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
from tf_resflow.logdet import Exact
from tf_resflow.vi.surrogate_posteriors import vector_part


def neutra_bijector(surrogate_posterior: tfd.TransformedDistribution) -> Flow:
    r"""Returns the flow of a fitted surrogate posterior as the bijector of `tfp.mcmc.TransformedTransitionKernel`.

    Chains move in the latent z of the surrogate. If the surrogate fits, the target
    \\(\log p(f(z)) + \log|\det J_f(z)|\\) is close to a standard normal, however bent the posterior is. The chains
    sample the posterior itself: a misfit only costs efficiency.

    The log-determinants are exact. The current parameters become constants (call this outside of a `tf.function`),
    and the kernels are scaled once, so a step computes no norms. (Variables of stock bijectors, and of layers that
    this library does not know, stay variables.) The bijector is differentiable any number of times.

    ```python
    import tensorflow as tf, tensorflow_probability as tfp, tf_resflow as resflow


    def banana(x):
        return -0.5 * x[..., 0] ** 2 - 2.0 * (x[..., 1] - x[..., 0] ** 2) ** 2


    surrogate = resflow.vi.flow_surrogate_posterior([2])  # fit it first
    bijector = resflow.vi.neutra_bijector(surrogate)


    @tf.function(jit_compile=True)
    def sample(start, seed):
        kernel = tfp.mcmc.NoUTurnSampler(banana, step_size=0.5, max_tree_depth=5)
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(kernel, num_adaptation_steps=80, target_accept_prob=0.8)
        kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
        return tfp.mcmc.sample_chain(200, start, kernel=kernel, num_burnin_steps=100, trace_fn=None, seed=seed)


    draws = sample(surrogate.sample(8, seed=1), tf.constant([0, 1]))  # [steps, chains, coordinates]
    r_hat = tfp.mcmc.potential_scale_reduction(draws)
    effective = tfp.mcmc.effective_sample_size(draws, cross_chain_dims=1)
    print(draws.shape, bool(tf.reduce_max(r_hat) < 1.2), bool(tf.reduce_min(effective) > 50))
    # (200, 8, 2) True True
    ```

    Args:
      surrogate_posterior: a distribution such as from `tf_resflow.vi.flow_surrogate_posterior`. If the event has
        parts, their structure must be a list or a tuple, as `TransformedTransitionKernel` requires; z is then a
        list of vectors.

    Returns:
      A bijector from z to the events of the surrogate.

    References:
      Hoffman et al., NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport, 2019.
    """
    flow, others = vector_part(surrogate_posterior)
    structure = surrogate_posterior.dtype
    members = [frozen(with_log_det_estimator(flow, Exact())), *others]
    if tf.nest.is_nested(structure):
        if isinstance(structure, dict):
            raise ValueError("tfp.mcmc.TransformedTransitionKernel takes no dictionaries: fit a list of parts.")
        members.insert(0, tfb.Invert(others[0]))  # a Split
    return Flow(members, name="neutra")


def frozen(flow: FlowBijector, **arguments: Any) -> FlowBijector:
    """A flow of vectors whose variables and scaled kernels have become constants, with these arguments given."""
    owners = keras.tree.flatten(list(keras_parts(flow).values()))
    variables = keras.tree.flatten([o.variables if isinstance(o, keras.Layer) else o for o in owners])
    values = [(variable, variable.numpy()) for variable in {id(v): v for v in variables}.values()]
    networks = Networks(flow).frozen(lambda parameter: parameter.numpy())

    def apply(x, context, inverse):
        given = {**context.arguments, **arguments, "networks": networks}
        context = dataclasses.replace(context, arguments=given)
        with keras.StatelessScope(state_mapping=values):
            return pass_through(flow, x, context, inverse=inverse)

    return _Frozen(apply, flow.dtype)


class _Frozen(FlowBijector):
    """A bijector of vectors that applies a function of x, a context, and whether to invert."""

    _inverse_solves = True

    def __init__(self, apply: Callable[..., Pass], dtype: tf.DType, name: str = "frozen"):
        parameters = dict(locals())
        self._apply = apply
        super().__init__(forward_min_event_ndims=1, dtype=dtype, parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        return self._apply(x, context, inverse=False)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return self._apply(y, context, inverse=True)
