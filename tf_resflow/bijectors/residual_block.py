"""The residual block y = x + g(x) as a bijector with a stochastic log-determinant."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.bijectors.base import Context, FlowBijector, LipschitzConstants, Pass
from tf_resflow.bijectors.networks import (
    Networks,
    adopt,
    bound_network,
    bounded_norm,
    check_built,
    check_event,
    event_rows,
    from_rows,
    input_shapes,
    parameter_dtype,
)
from tf_resflow.layers import lipschitz_constant
from tf_resflow.layers.program import is_graph
from tf_resflow.logdet import Exact, RussianRoulette
from tf_resflow.logdet.estimators import warn_unseeded
from tf_resflow.solvers import Anderson, Solution
from tf_resflow.solvers.fixed_point import warn_unconverged
from tf_resflow.solvers.residual_inverse import solve_residual
from tf_resflow.typing import Shape, TensorLike

__all__ = ["ResidualBlock"]


class ResidualBlock(FlowBijector):
    r"""`y = x + g(x)` with Lip(g) < 1: invertible, with a dense Jacobian.

    The log-determinant is \\(\log|\det(I + J)| = \sum_{k \ge 1} (-1)^{k+1} \mathrm{tr}(J^k) / k\\), estimated by
    `log_det`; the inverse is the fixed point of \\(x = y - g(x)\\). `forward` computes the value and the
    log-determinant from one evaluation of g; `inverse` computes no log-determinant.

    A density is `tfd.TransformedDistribution(base, tfb.Invert(block))`: `log_prob` runs the cheap direction,
    `sample` the fixed point.

    ```python
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_resflow as resflow

    branch = keras.Sequential([
        keras.Input([2]),
        resflow.layers.LipschitzDense(64), resflow.layers.LipSwish(),
        resflow.layers.LipschitzDense(2),
    ])
    block = resflow.bijectors.ResidualBlock(branch)
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    density = tfp.distributions.TransformedDistribution(base, tfp.bijectors.Invert(block))
    x = density.sample(5, seed=1)
    print(density.log_prob(x, bijector_kwargs={"seed": 2}).shape)
    # (5,)
    ```

    Arguments of the methods: `seed` (see `tf_resflow.stateless_seed`), and `conditional_input`, whose batch shape
    broadcasts to that of the value (never the other way round: several conditions would share one draw). They pass
    through a distribution as `bijector_kwargs={...}`. Without a seed every estimate draws anew, and the first one
    issues a `tf_resflow.logdet.UnseededEstimateWarning`. MCMC needs a fixed seed, or `log_det=Exact()`.

    On events of one coordinate the map is increasing, and a density has a `cdf` if its base has one.

    The value and the log-determinant of a tensor are cached by TFP. In eager mode a tensor whose output is still
    held, and two gradient tapes over one tensor in one `tf.function`, find the cached value even if variables have
    changed since: pass `tf.identity(x)` there, as the training step does.

    Eager execution keeps all that the series computes for the gradient; use `tf.function` for speed and memory.

    Args:
      branch: built Keras layer or model (or `tf.Module`), g, from an event to an event of the same shape.
      log_det: a `tf_resflow.logdet` estimator; `RussianRoulette()` by default.
      inverse_solver: `tf_resflow.solvers.Anderson()` by default, or `FixedPoint`.
      lipschitz_constant: bound of Lip(g), for a branch with layers that
        `tf_resflow.layers.lipschitz_constant` does not know; not verified, and therefore not certified.
      conditional: whether the branch takes `[x, conditional_input]`; the constant is that in x.
      event_shape: shape of an event, for a branch without a known input shape.
      validate_args: whether `inverse` raises for an example that did not converge. (It prints a warning
        otherwise. Compiled by XLA it does neither: see `solve`.)
      name: `str`, a key of checkpoints and a salt of seeds: see `Flow`, which numbers members of one name.

    Raises:
      ValueError: if the branch is not built, its output is unlike its input, its Lipschitz constant is unknown or
        not below 1, or the estimator or the solver cannot be called.

    References:
      Chen et al., Residual Flows for Invertible Generative Modeling, 2019.
      Behrmann et al., Invertible Residual Networks, 2019.
    """

    _residuals = 1.0  # times 1 / (1 - L): how many residuals of its equation the error of an inverse is at most
    has_odd_series = False  # whether the log-determinant is `LogDetEstimator.log_det_ratio`
    _default_name = "residual_block"
    _inverse_solves = True
    _is_checked = False  # whether the output of the branch is known to fit, as in a copy

    def __init__(
        self,
        branch: keras.Layer | tf.Module,
        log_det: Callable[..., Any] | None = None,
        inverse_solver: Callable[..., Any] | None = None,
        *,
        lipschitz_constant: float | None = None,
        conditional: bool = False,
        event_shape: Shape | None = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> None:
        name = name or self._default_name
        parameters = dict(locals())
        _check_callable("log_det", log_det, "an estimator, such as tf_resflow.logdet.Exact()")
        _check_callable("inverse_solver", inverse_solver, "a solver, such as tf_resflow.solvers.Anderson()")
        self._branch = branch if isinstance(branch, tf.Module) else self._no_dependency(branch)
        self._log_det = RussianRoulette() if log_det is None else log_det
        self._inverse_solver = Anderson() if inverse_solver is None else inverse_solver
        self._conditional = conditional
        self._event_shape, self._condition_shape = _input_shapes(branch, conditional, event_shape)
        self._lipschitz_constant = _checked_constant(branch, lipschitz_constant)
        self._branch_variables = adopt(branch)
        super().__init__(
            forward_min_event_ndims=self._event_shape.rank,
            dtype=parameter_dtype(branch),
            validate_args=validate_args,
            parameters=parameters,
            name=f"{name}/",
        )
        if not self._is_checked:
            _check_output(self)

    def copy(self, **parameters: Any) -> "ResidualBlock":
        """A block with other parameters of the constructor that shares the variables; its branch is not traced."""
        block = type(self).__new__(type(self))
        block._is_checked = parameters.keys().isdisjoint(("branch", "conditional", "event_shape"))
        type(self).__init__(block, **{**self.parameters, **parameters})
        return block

    @property
    def branch(self) -> keras.Layer | tf.Module:
        """The Keras layer or model g."""
        return self._branch

    keras_parts = network = branch

    @property
    def log_det(self) -> Callable[..., Any]:
        """The estimator of the log-determinant."""
        return self._log_det

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        return getattr(self._log_det, "is_random", True)

    @property
    def inverse_solver(self) -> Callable[..., Any]:
        """The solver of `inverse`."""
        return self._inverse_solver

    @property
    def conditional(self) -> bool:
        """Whether the branch takes a conditional input."""
        return self._conditional

    @property
    def event_shape(self) -> tf.TensorShape:
        """The shape of an event, as far as the branch or the constructor's argument gives it."""
        return self._event_shape

    @property
    def condition_shape(self) -> tf.TensorShape:
        """The shape of the condition of an event, of a conditional block, as far as the branch gives it."""
        return self._condition_shape

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("seed", "networks", "conditional_input") if self._conditional else ("seed", "networks")

    @property
    def lipschitz_constant(self) -> float:
        """The bound of Lip(g) that the layers enforce, or that the constructor was given."""
        return self._lipschitz_constant

    def expansion_point(self, x: tf.Tensor, conditional_input: tf.Tensor | None = None) -> tf.Tensor:
        """The point at which the Jacobian of g gives the log-determinant at x, `[batch, *event]`."""
        return x

    def jacobian(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        conditional_input: tf.Tensor | None = None,
        networks: Networks | None = None,
    ) -> tf.Tensor:
        """The Jacobian of the block at x, of which y is the image: `[batch, size, size]`."""
        jacobian = Exact().jacobian(bound_network(self._branch, networks), x, conditional_input)
        return tf.eye(jacobian.shape[-1], dtype=jacobian.dtype) + jacobian

    def carry(self, x: tf.Tensor, gradient: tf.Tensor, networks: Networks) -> tuple[tf.Tensor, ...] | None:
        r"""y, log|det J| and \\(J^{-T} (\mathrm{gradient} - \nabla_x \log|\det J|)\\) at rows x.

        None if there is a condition, the log-determinant is not exact, or the block is a monotone one.
        """
        if type(self.log_det) is not Exact or self.conditional or self.has_odd_series:
            return None
        branch = bound_network(self._branch, networks)
        log_det, of_log_det, inverse = self.log_det.with_gradient(branch, x)
        gradient = tf.reduce_sum(inverse * tf.transpose(gradient - of_log_det)[:, tf.newaxis], 0)
        return x + tf.cast(branch(x), x.dtype), log_det, tf.transpose(gradient)

    def _lipschitz_constants(self, certified, bound):
        # A constant that the constructor was given is assumed to hold in the norm of the other blocks.
        order, reason = bounded_norm(self._branch)
        if certified and reason:
            return LipschitzConstants(reason=reason)
        constant = float(bound(self._branch, certified=True)) if certified else self._lipschitz_constant
        if constant < 1.0:
            return LipschitzConstants(1.0 + constant, 1.0 / (1.0 - constant), order)
        reason = f"The bound {constant:.4g} of the branch is not below 1"
        return LipschitzConstants(1.0 + constant, math.inf, order, reason)

    def solve(self, y: TensorLike, conditional_input: TensorLike | None = None) -> Solution:
        """The inverse with its diagnostics, a `tf_resflow.solvers.Solution` of the shapes of y, `[..., *event]`."""
        return self._solve(tf.convert_to_tensor(y, dtype=self.dtype), conditional_input)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from x, data to latent: one evaluation of g, and the series if a log-determinant is wanted."""
        _, condition, networks = context.take(self.name, "seed", "conditional_input", "networks")
        branch = bound_network(self._branch, networks)
        x, condition, batch_shape = self._to_rows(x, condition)
        if not context.log_det:
            g = branch(x if condition is None else [x, condition])
            return Pass(from_rows(x + tf.cast(g, x.dtype), batch_shape))
        y, log_det = self._log_det(branch, x, condition, seed=self._seed(context))
        return Pass(from_rows(y, batch_shape), from_rows(log_det, batch_shape))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """The `Pass` from y, latent to data; a log-determinant takes an evaluation of g besides the solution."""
        _, condition, networks = context.take(self.name, "seed", "conditional_input", "networks")
        enough = {"enough": context.atol} if self.parameters["inverse_solver"] is None else {}
        solution = self._solve(y, condition, networks, **enough)
        with tf.control_dependencies(self._report(solution, context)):
            x = tf.identity(solution.root)
        log_det = tf.negative(self.forward_pass(x, context).log_det) if context.log_det else None
        return Pass(x, log_det, solutions=(solution,))

    def _seed(self, context):
        """The seed of an estimate; warns if the estimate is random and the caller passed none, not even None."""
        if self.is_random and "seed" not in context.arguments:
            warn_unseeded(self.name)
        return context.seed(self.name)

    def _solve(self, y, condition, networks=None, **settings):
        y, condition, batch_shape = self._to_rows(y, condition)
        branch = bound_network(self._branch, networks)
        solution = solve_residual(branch, y, self._inverse_solver, conditional_input=condition, **settings)
        return from_rows(solution, batch_shape)

    def _report(self, solution, context):
        """Operations that raise (`validate_args`) or warn if an example did not converge."""
        message = f"{self.name}: the inverse did not converge for some examples, or its input is not finite"
        if self._lipschitz_constant < 1:
            most = self._residuals / (1 - self._lipschitz_constant)
            message += f" (the error is about the residual, at most {most:.2g} times it)"
        if self.validate_args:
            failed = tf.reduce_sum(tf.cast(~solution.converged, tf.int32))
            return [tf.debugging.assert_equal(failed, 0, message)]
        return [warn_unconverged(solution, message, context.unseen)] if context.warn else []

    def _is_increasing(self, **kwargs):
        if self._event_shape.num_elements() == 1:
            return True
        raise NotImplementedError(
            f"{self.name} maps events of shape {self._event_shape}: only a map of one coordinate is increasing and "
            "has a cdf."
        )

    def _to_rows(self, x, condition):
        """See `event_rows`."""
        check_event(f"{self.name} maps events", self._event_shape, x.shape)
        if self._conditional != (condition is not None):
            needed = "needs" if self._conditional else "takes no"
            raise ValueError(f"{self.name} {needed} conditional_input (conditional={self._conditional}).")
        return event_rows(self.name, x, self._event_shape.rank, condition, self._condition_shape)


def _input_shapes(branch, conditional, event_shape):
    if isinstance(branch, keras.Layer):
        check_built(branch)
    shapes = input_shapes(branch)
    if conditional and len(shapes) not in (0, 2):
        raise ValueError(
            "A conditional branch takes [x, conditional_input]: build it as keras.Model([x, c], g); "
            f"this one has {len(shapes)} input."
        )
    if event_shape is None and not shapes:
        raise ValueError("The branch has no known input shape: pass event_shape=.")
    event_shape = tf.TensorShape(shapes[0][1:] if event_shape is None else event_shape)
    return event_shape, tf.TensorShape(shapes[1][1:] if len(shapes) == 2 else [None])


def _checked_constant(branch, constant):
    if constant is None:
        constant = lipschitz_constant(branch)
    if not 0 <= constant < 1:
        raise ValueError(
            f"The branch has Lipschitz constant {constant:.6g}, and x + g(x) is guaranteed to be invertible only "
            "below 1: lower the layers' coefficient."
        )
    return float(constant)


def _check_output(block):
    """Raises a ValueError unless the branch maps an event to an event."""
    shape = _output_shape(block)
    if not tf.TensorShape([None, *block.event_shape]).is_compatible_with(shape):
        raise ValueError(
            f"The branch of {block.name} maps events of shape {block.event_shape} to {shape[1:]}; "
            "x + g(x) needs a g that keeps the shape."
        )


def _output_shape(block):
    """The shape of the branch's output: as its Keras model knows it, or by an abstract evaluation."""
    branch = block.branch
    if is_graph(branch) and len(branch.outputs) == 1 and block.event_shape == input_shapes(branch)[0][1:]:
        return tf.TensorShape(branch.outputs[0].shape)
    dtype = block.dtype or tf.float32
    specs = [tf.TensorSpec([None, *block.event_shape], dtype)]
    if block.conditional:
        specs.append(tf.TensorSpec([None, *block.condition_shape], dtype))

    def call(*inputs):
        return branch(list(inputs) if block.conditional else inputs[0])

    return tf.function(call, autograph=False).get_concrete_function(*specs).structured_outputs.shape


def _check_callable(argument, value, expected):
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise ValueError(f"{argument} must be {expected}; got {value!r}.")
