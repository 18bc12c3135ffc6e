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
      surrogate_posterior: A distribution such as the result of `tf_resflow.vi.flow_surrogate_posterior`. If its
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


class Decoder:
    """The inverse of a frozen flow with a condition as one graph, which is built once for all weights.

    A flow is fast in a graph, but building the graph takes as long as 10,000 draws. Therefore the weights are its
    arguments.
    """

    def __init__(self, flow: FlowBijector):
        self._flow = flow
        self._function: Any = None

    def __call__(self, y: tf.Tensor, condition: tf.Tensor, constants: Any) -> tf.Tensor:
        """Returns the inverse of rows `[num, size]` for conditions `[num, size]`."""
        if self._function is None:
            row_specs = [tf.TensorSpec([None, values.shape[-1]], values.dtype) for values in (y, condition)]
            template = _Template(self._flow)

            @tf.function(autograph=False, input_signature=[*row_specs, tf.nest.map_structure(_spec, constants)])
            def inverse(y, condition, constants):
                context = Context({"condition": condition}, compute_log_det=False)
                return template.filled(constants)(y, context, inverse=True).value

            self._function = inverse
        return self._function(y, condition, constants)


def _spec(constant):
    return tf.TensorSpec(constant.shape, constant.dtype)


class _Template:
    """A flow whose variables, statistics and scaled kernels can be replaced by constants."""

    def __init__(self, flow: FlowBijector):
        with tf.init_scope():
            owners = keras.tree.flatten(list(keras_parts(flow).values()))
            variables = keras.tree.flatten([o.variables if isinstance(o, keras.Layer) else o for o in owners])
            self._flow = flow
            self._variables = [*{id(v): v for v in variables}.values()]
            self._networks = Networks(flow)

    def constants(self) -> list[list[tf.Tensor]]:
        """Returns the current values."""
        statistics: list[tf.Tensor] = []

        def keep(variable):
            statistics.append(tf.constant(variable.numpy()))
            return statistics[-1]

        with tf.init_scope():
            with_replaced(self._flow, WithStatistics, lambda part: part.frozen(keep))
            values = [tf.constant(variable.numpy()) for variable in self._variables]
            parameters = [tf.constant(parameter.numpy()) for parameter in self._networks.parameters]
        return [values, parameters, statistics]

    def filled(self, constants: Any) -> Callable[..., Pass]:
        """Returns a function that passes values through the flow with these constants."""
        values, parameters, statistics = map(iter, constants)
        with tf.init_scope():
            flow = with_replaced(self._flow, WithStatistics, lambda part: part.frozen(lambda _: next(statistics)))
            networks = self._networks.frozen(lambda _: next(parameters))
        mapping = [*zip(self._variables, values, strict=True)]

        def apply(x, context, inverse):
            context = dataclasses.replace(context, arguments={**context.arguments, "networks": networks})
            with keras.StatelessScope(state_mapping=mapping):
                return pass_through(flow, x, context, inverse=inverse)

        return apply


def frozen(flow: FlowBijector, decoder: Decoder | None = None, **arguments: Any) -> FlowBijector:
    """Returns a flow on vectors with its variables and scaled kernels as constants, and `arguments` as defaults.

    In a `tf.function`, the constants are the values at the time of tracing. Eager inverses without log-determinants
    of rows with a condition per row use the `decoder`, if there is one.
    """
    template = _Template(flow)
    constants = template.constants()
    pass_with_constants = template.filled(constants)

    def apply(x, context, inverse):
        context = dataclasses.replace(context, arguments={**arguments, **context.arguments})
        condition = context.arguments.get("condition")
        is_eager = inverse and tf.executing_eagerly() and not context.compute_log_det
        if decoder is None or not is_eager or x.shape.rank != 2 or condition.shape.rank != 2:
            return pass_with_constants(x, context, inverse)
        return Pass(decoder(x, condition, constants))

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
