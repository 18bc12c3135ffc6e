"""The residual block y = x + g(x) with a stochastic log-determinant, and its Cayley transform."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_resflow import layers
from tf_resflow._internal.private_api import untracked
from tf_resflow._internal.serialization import instance
from tf_resflow._internal.typing import Shape
from tf_resflow.bijectors.base import Context, NetworkBijector, Pass, StretchBounds
from tf_resflow.bijectors.networks import Networks, bounded_norm, check_built, from_rows, input_shapes, output_shape
from tf_resflow.layers.lipschitz_constants import declared_order, observed_slope
from tf_resflow.logdet import Exact, RussianRoulette
from tf_resflow.logdet.elimination import log_det_and_inverse
from tf_resflow.logdet.estimators import get_estimator, warn_unseeded
from tf_resflow.solvers import Anderson, FixedPoint
from tf_resflow.solvers.fixed_point import warn_unconverged
from tf_resflow.solvers.residual_inverse import solve_residual

_SQRT2 = math.sqrt(2.0)
_LOOSE = 1e-3  # relative tolerance of a monotone block in training


class ResidualBlock(NetworkBijector):
    r"""Residual block `y = x + g(x)` with Lip(g) < 1: invertible, with a dense Jacobian.

    The log-determinant is \\(\log|\det(I + J)| = \sum_{k \ge 1} (-1)^{k+1} \mathrm{tr}(J^k) / k\\), estimated by
    `log_det_estimator`. The inverse is the fixed point of \\(x = y - g(x)\\). `forward` maps data to latent,
    and computes the value and the log-determinant from one evaluation of g. In a density,
    as below, `log_prob` uses this cheap direction, and `sample` uses the fixed-point iteration.

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

    Methods accept a `seed` (see `tf_resflow.stateless_seed`) and a `condition`, whose batch shape must broadcast to
    the batch shape of the value. Pass them to a distribution as `bijector_kwargs={...}`. Without a seed, each
    estimate is random, and the first one issues a `tf_resflow.logdet.UnseededEstimateWarning`. MCMC needs a fixed
    seed, or `log_det_estimator=Exact()`.

    TFP caches the value and the log-determinant of a tensor. In eager mode, it reuses them as long as the output
    exists, even after variables have changed. In a `tf.function`, it also reuses them under a second gradient tape.
    Pass `tf.identity(x)` in these cases.

    Args:
      branch: Built Keras layer or model (or `tf.Module`) g, from events to events; see `FlowBijector.networks`.
      log_det_estimator: A `tf_resflow.logdet` estimator or its name, such as "exact"; `RussianRoulette()` by
        default.
      inverse_solver: `tf_resflow.solvers.Anderson()` by default, or `FixedPoint`.
      lipschitz_constant: Bound on Lip(g), for a branch with layers that `tf_resflow.layers.lipschitz_constant` does
        not know. It holds in the norm of the attribute `lipschitz_order` of the branch or of its first layer that
        has one, and otherwise in the 2-norm. The first eager pass raises an error if the branch is clearly steeper
        at or near its inputs. This does not prove the bound.
      has_condition: Whether the branch is called with `[x, condition]`. The constant is with respect to x.
      event_shape: Shape of an event, for a branch without a known input shape.
      validate_args: Whether `inverse` raises an error if an example did not converge. By default, it prints a
        warning. Code compiled by XLA does neither; use `solve` there.

    Attributes:
      branch: The branch g. `log_det_estimator` and `inverse_solver` are attributes, too.
      lipschitz_constant: The bound on Lip(g), given or enforced by the layers.
      event_shape: Shape of an event, as far as it is known.
      condition_shape: Shape of the condition, as far as it is known; None without a condition.

    References:
      Chen et al., Residual Flows for Invertible Generative Modeling, 2019.
      Behrmann et al., Invertible Residual Networks, 2019.
    """

    _residuals = 1.0  # the error of an inverse is at most `_residuals / (1 - L)` times its residual
    _default_name = "residual_block"
    _inverse_needs_solver = True
    _networks_key = "_branch_variables"

    def __init__(
        self,
        branch: keras.Layer | tf.Module,
        log_det_estimator: Callable[..., Any] | None = None,
        inverse_solver: Callable[..., Any] | None = None,
        *,
        lipschitz_constant: float | None = None,
        has_condition: bool = False,
        event_shape: Shape | None = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> None:
        name = name or self._default_name
        if not isinstance(branch, (keras.Layer, tf.Module)):
            raise ValueError(f"The branch is {branch!r}. Pass a built Keras layer or model as the first argument.")
        log_det_estimator = get_estimator(log_det_estimator)
        if inverse_solver is not None:
            inverse_solver = instance("inverse_solver", inverse_solver, FixedPoint, [Anderson, FixedPoint])
        parameters = dict(locals())
        self._branch = branch if isinstance(branch, tf.Module) else untracked(branch)
        self.branch = untracked(branch)
        self.log_det_estimator: Any = RussianRoulette() if log_det_estimator is None else log_det_estimator
        self.inverse_solver = Anderson() if inverse_solver is None else inverse_solver
        self.event_shape, condition_shapes = _input_shapes(branch, has_condition, event_shape)
        self._event_shape = self.event_shape
        constant = float(layers.lipschitz_constant(branch) if lipschitz_constant is None else lipschitz_constant)
        if not 0 <= constant < 1:
            raise ValueError(
                f"The branch has Lipschitz constant {constant:.6g}, but x + g(x) is guaranteed to be invertible "
                "only for a constant below 1. Lower the coefficient of its layers."
            )
        self.lipschitz_constant = constant
        self._is_unchecked = lipschitz_constant is not None
        super().__init__(branch, condition_shapes, validate_args=validate_args, parameters=parameters, name=name)
        shape = output_shape(branch, [self.event_shape, *condition_shapes])
        if not tf.TensorShape([None, *self.event_shape]).is_compatible_with(shape):
            raise ValueError(
                f"The branch of {name} maps shape {self.event_shape} to {shape[1:]}; the shapes must be equal. "
                "Change the size of its last layer."
            )

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        return getattr(self.log_det_estimator, "is_random", True)

    @property
    def argument_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("seed", *super().argument_names)

    def jacobian(self, x: tf.Tensor, y: tf.Tensor, networks: Networks) -> tf.Tensor:
        """Returns the Jacobian of an unconditional block at x, whose image is y: `[batch, size, size]`."""
        jacobian = Exact().jacobian(networks[self.branch], x)
        return tf.eye(jacobian.shape[-1], dtype=jacobian.dtype) + jacobian

    def forward_with_density_gradient(self, x: tf.Tensor, gradient: tf.Tensor, networks: Networks) -> tuple | None:
        r"""Returns y, log|det J| and \\(J^{-T} (\mathrm{gradient} - \nabla_x \log|\det J|)\\), if exact."""
        if type(self.log_det_estimator) is not Exact or self.has_condition:
            return None
        branch = networks[self.branch]
        log_det, log_det_gradient, inverse = self.log_det_estimator.with_gradient(branch, x)
        gradient = tf.reduce_sum(inverse * tf.transpose(gradient - log_det_gradient)[:, tf.newaxis], 0)
        return x + tf.cast(branch(x), x.dtype), log_det, tf.transpose(gradient)

    def _stretch_bounds(self, certified, bound):
        order, reason = bounded_norm(self.branch)
        if certified and reason:
            return StretchBounds(reason=reason)
        if not certified and self.parameters["lipschitz_constant"] is not None:
            order = declared_order(self.branch)
        constant = float(bound(self.branch, certified=True)) if certified else self.lipschitz_constant
        if constant < 1.0:
            return StretchBounds(1.0 + constant, 1.0 / (1.0 - constant), order)
        reason = f"The bound {constant:.4g} of the branch is not below 1"
        return StretchBounds(1.0 + constant, math.inf, order, reason)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from data to latent: one evaluation of g, and the log-determinant if requested."""
        branch, condition = self._network_and_condition(context)
        x, condition, batch_shape = self._to_rows(x, condition)
        self._check_lipschitz_constant(branch, x, condition)
        if not context.compute_log_det:
            g = branch(x if condition is None else [x, condition])
            return Pass(from_rows(self._of_shape(x, x + tf.cast(g, x.dtype)), batch_shape))
        y, log_det = self.log_det_estimator(branch, x, condition, seed=self._seed(context))
        return Pass(from_rows(self._of_shape(x, y), batch_shape), from_rows(log_det, batch_shape))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        """Returns the `Pass` from latent to data. A log-determinant needs one more evaluation of g."""
        branch, condition = self._network_and_condition(context)
        rows, condition, batch_shape = self._to_rows(y, condition)
        solution = from_rows(self._solve(branch, rows, condition, context), batch_shape)
        with tf.control_dependencies(self._report(solution, context)):
            x = tf.identity(solution.root)
        log_det = tf.negative(self.forward_pass(x, context).log_det) if context.compute_log_det else None
        return Pass(x, log_det, solutions=(solution,))

    def _of_shape(self, x, y):
        """Returns y = x + g(x). Raises an InvalidArgumentError if it does not have the shape of x."""
        if y.shape[1:].is_fully_defined() and y.shape[1:] == x.shape[1:]:
            return y
        message = (
            f"The branch of {self.name} maps events of shape {x.shape[1:]} to another shape. Pass events of the "
            f"shape that it was built for, {self.event_shape}."
        )
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(y), tf.shape(x), message)]):
            return tf.identity(y)

    def _seed(self, context):
        """Returns the seed of an estimate. Warns if a random estimate got no `seed` argument, not even None."""
        if self.is_random and "seed" not in context.arguments:
            warn_unseeded(self.name)
        return context.seed(self.name)

    def _solve(self, branch, y, condition, context, sign=1.0, **settings):
        """Returns the `Solution` for rows y. The settings are for the default solver."""
        self._check_lipschitz_constant(branch, y, condition)
        settings = {"min_atol": context.atol, **settings} if self.parameters["inverse_solver"] is None else {}
        return solve_residual(branch, y, self.inverse_solver, condition=condition, sign=sign, **settings)

    def _check_lipschitz_constant(self, branch, x, condition):
        """Raises a ValueError in the first eager pass if a given constant is below a slope of the branch."""
        if not self._is_unchecked or not tf.executing_eagerly() or not x.shape.num_elements():
            return
        slope, rounding = observed_slope(branch, x, condition, declared_order(self.branch))
        if slope > self.lipschitz_constant * (1.0 + rounding):
            raise ValueError(
                f"{self.name} got lipschitz_constant={self.lipschitz_constant:.4g}, but the branch has a slope of "
                f"{slope:.4g} near the given values. Pass a true bound below 1, or use Lipschitz layers."
            )
        self._is_unchecked = False

    def _report(self, solution, context):
        """Returns operations that raise an error (`validate_args`) or warn if an example did not converge."""
        message = f"{self.name}: the inverse did not converge for some examples, or its input is not finite"
        factor = self._residuals / (1 - self.lipschitz_constant)
        message += f" (the error is about as large as the residual, and at most {factor:.2g} times as large)"
        if self.validate_args:
            failed = tf.reduce_sum(tf.cast(~solution.converged, tf.int32))
            return [tf.debugging.assert_equal(failed, 0, message)]
        threshold = context.warning_threshold
        return [] if threshold is None else [warn_unconverged(solution, message, threshold)]


class MonotoneBlock(ResidualBlock):
    r"""Strongly monotone block \\(y = \sqrt 2\, w - x\\), where \\(w + g(w) = \sqrt 2\, x\\) and Lip(g) < 1.

    The block is the Cayley transform of g. With J the Jacobian of g at w, its Jacobian is
    \\((I - J)(I + J)^{-1}\\), and

    \\(\log|\det| = \log|\det(I - J)| - \log|\det(I + J)| = -2 \sum_{k\ \mathrm{odd}} \mathrm{tr}(J^k) / k.\\)

    The inverse is the same block with -g. With L = Lip(g), both have a Lipschitz constant of at most
    \\((1 + L) / (1 - L)\\): 99 at L = 0.98, compared with 1.98 for x + g(x). A few monotone blocks can therefore
    replace many residual blocks. Each direction solves for w like the inverse of a residual block, so `log_prob`
    takes about as long as `sample`. The arguments, methods and requirements are the same as for `ResidualBlock`.

    References:
      Ahn, Kim, Kim and Kim, Invertible Monotone Operators for Normalizing Flows, 2022 (Sections 3 and 4).
    """

    _residuals = _SQRT2
    _default_name = "monotone_block"

    def jacobian(self, x: tf.Tensor, y: tf.Tensor, networks: Networks) -> tf.Tensor:
        """Returns the Jacobian 2 (I + J)^-1 - I of the block at x, whose image is y. See `ResidualBlock`."""
        factor = super().jacobian((x + y) / _SQRT2, y, networks)
        eye = tf.eye(factor.shape[-1], dtype=factor.dtype)
        return 2.0 * tf.transpose(log_det_and_inverse(tf.transpose(factor, [1, 2, 0]))[1], [2, 0, 1]) - eye

    def _stretch_bounds(self, certified, bound):
        residual = super()._stretch_bounds(certified, bound)
        stretch = residual.forward * residual.inverse  # (1 + L) / (1 - L)
        return residual._replace(forward=stretch, inverse=stretch)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        return self._apply(x, context, 1.0)

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        return self._apply(y, context, -1.0)

    def _apply(self, x, context, sign):
        branch, condition = self._network_and_condition(context)
        x, condition, batch_shape = self._to_rows(x, condition)
        loose = {"min_rtol": _LOOSE} if branch.training else {}
        solution = self._solve(branch, _SQRT2 * x, condition, context, sign, **loose)
        w = solution.root
        solution = solution._replace(root=_SQRT2 * w - x)
        with tf.control_dependencies(self._report(solution, context)):
            solution = from_rows(solution._replace(root=tf.identity(solution.root)), batch_shape)
        if not context.compute_log_det:
            return Pass(solution.root, solutions=(solution,))
        log_det = sign * self.log_det_estimator.log_det_ratio(branch, w, condition, seed=self._seed(context))
        return Pass(solution.root, from_rows(log_det, batch_shape), solutions=(solution,))


def _input_shapes(branch, has_condition, event_shape):
    if isinstance(branch, keras.Layer):
        check_built(branch)
    shapes = input_shapes(branch)
    if has_condition and len(shapes) not in (0, 2):
        needed = "has_condition=True needs two. Build it as keras.Model([x, c], g)"
        raise ValueError(f"The branch has {len(shapes)} input(s), but {needed}.")
    if not has_condition and len(shapes) > 1:
        raise ValueError(
            f"The branch has {len(shapes)} inputs. If the second one is a condition, pass has_condition=True. "
            "Otherwise, build a branch of one input."
        )
    if event_shape is None and not shapes:
        raise ValueError("The input shape of the branch is unknown. Pass event_shape=.")
    event_shape = tf.TensorShape(shapes[0][1:] if event_shape is None else event_shape)
    condition_shape = shapes[1][1:] if len(shapes) == 2 else [None]
    return event_shape, [condition_shape] if has_condition else []
