"""The base class of layers with a constrained operator norm."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_resflow.layers.closed_form_norm import closed_form_norm, has_closed_form
from tf_resflow.layers.learned_order import LearnedOrder
from tf_resflow.layers.linear_operators import LinearOperator
from tf_resflow.layers.operator_norm import OperatorNorm
from tf_resflow.layers.power_norm import PowerNorm
from tf_resflow.layers.precision import evaluation_dtype, rounding_error
from tf_resflow.layers.rules import KernelRule, RuledLayer, TensorBound, order_name
from tf_resflow.layers.spectral_norm import SpectralNorm
from tf_resflow.layers.vector_norms import Order, is_order

COEFFICIENT = 0.98  # default of each linear layer, as in the published code
_TOLERANCE_AT_BUILD = 1e-3
_MAX_ITERATIONS_AT_BUILD = 60


class LipschitzLayer(RuledLayer):
    r"""Base class of linear layers with \\(\|W\|_{p \to q} \le\\) `coefficient`. See `LipschitzDense`.

    The norm is computed in float64 if the variables have that dtype, and in float32 otherwise. To allow for
    rounding, a layer stays below its coefficient by a relative margin of 2^-20 in float32 and 2^-49 in float64. If
    it computes in bfloat16 or float16, even if only in training, the margin is the epsilon of that dtype. It covers
    the rounding of the entries of trained kernels. Only entries that all round in one direction, as in a Hadamard
    matrix, exceed it. `lipschitz_bound` is rigorous for any kernel.
    """

    _operator: LinearOperator  # set when the layer is built
    vector: Any  # a variable, or None if the norm has a closed form

    def __init__(
        self,
        coefficient: float = COEFFICIENT,
        *,
        domain: float | LearnedOrder = 2,
        codomain: float | LearnedOrder = 2,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        tolerance: float = 1e-3,
        max_iterations: int = 14,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not 0.0 < coefficient < math.inf:
            raise ValueError(f"coefficient is {coefficient}; it must be positive and finite.")
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.coefficient = float(coefficient)
        self.domain = _validated_order(domain, "domain")
        self.codomain = _validated_order(codomain, "codomain")
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Returns a layer built with the arguments in a config, which can be of an earlier version."""
        normalization = config.get("normalization", "induced")
        if normalization != "induced":
            raise ValueError(
                f"The file has a layer with normalization={normalization!r}, which this version does not support. "
                "Load it with the version that wrote it, or train the model again."
            )
        return super().from_config({name: value for name, value in config.items() if name != "normalization"})

    def _build(self, kernel_shape, operator):
        self._operator = operator
        with tf.init_scope():
            self.kernel = self.add_weight(
                name="kernel", shape=kernel_shape, initializer=self.kernel_initializer, autocast=False
            )
            self.bias = None
            if self.use_bias:
                self.bias = self.add_weight(name="bias", shape=kernel_shape[-1:], initializer=self.bias_initializer)
            self.vector = self._new_vector() if self._norm.num_starts else None

    def _new_vector(self):
        norm = self._norm

        def converged(shape, dtype):
            v = tf.random.stateless_normal(shape, [0, 0], dtype=dtype)
            v = tf.reshape(tf.math.l2_normalize(tf.reshape(v, [norm.num_starts, -1]), 1), shape)
            return norm.maximizer(self._operand(), v, _TOLERANCE_AT_BUILD, _MAX_ITERATIONS_AT_BUILD)[0]

        return keras.Variable(
            converged,
            shape=(norm.num_starts, *self._operator.vector_shape),
            dtype=self._norm_dtype,
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation="only_first_replica",
            name="vector",
        )

    @property
    def learned_orders(self) -> list[LearnedOrder]:
        """The orders of the domain and the codomain that are learned."""
        return [order for order in (self.domain, self.codomain) if isinstance(order, LearnedOrder)]

    @property
    def _norm_dtype(self):
        return "float64" if self.variable_dtype == "float64" else "float32"

    @property
    def _orders(self):
        pair = (self.domain, self.codomain)
        return tuple(order.order() if isinstance(order, LearnedOrder) else order for order in pair)

    def _operand(self):
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), self._norm_dtype)
        return _reshaped(kernel, self._operator.shape)

    @property
    def _norm(self):
        """The norm for the current values of learned orders, which it holds constant."""
        orders = (order if isinstance(order, float) else tf.stop_gradient(order) for order in self._orders)
        return operator_norm(self._operator, *orders)

    def norm_estimate(self) -> tf.Tensor:
        """Returns the norm of the raw kernel that a call uses, a scalar that is differentiable in the kernel.

        It is exact in closed form, and otherwise an estimate from below.
        """
        kernel = self._operand()
        norm = self._norm
        return norm.estimate(kernel, norm.refined(kernel, _vectors([self])))

    def order_objective(self) -> tf.Tensor:
        """Returns the value of `norm_estimate`, differentiable only in the learned orders."""
        kernel = tf.stop_gradient(self._operand())
        v = self._norm.refined(kernel, _vectors([self]))
        return operator_norm(self._operator, *self._orders).estimate(kernel, v)

    def norm_bound(self) -> tf.Tensor:
        """Returns a rigorous upper bound of the norm of the raw kernel, a float64 scalar."""
        return self.bound_of(tf.convert_to_tensor(self.kernel))

    def lipschitz_bound(self) -> tf.Tensor:
        """Returns a rigorous bound of the Lipschitz constant in training and evaluation, a float64 scalar."""
        kernel = self.scaled_kernel()
        dtypes = {evaluation_dtype(self), self.compute_dtype}  # rounded as in evaluation and in training
        return tf.reduce_max([self.bound_of(tf.cast(kernel, dtype)) for dtype in dtypes])

    def bound_of(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns a rigorous upper bound of the norm of a kernel of the layer's shape, a float64 scalar."""
        return self._norm.bound(tf.reshape(tf.cast(kernel, tf.float64), self._operator.shape))

    def scaled_kernel(self) -> tf.Tensor:
        """Returns kernel / max(1, norm / coefficient), differentiable and in the dtype of the variables."""
        return scaled_stack([self])[0]

    @property
    def _stack_key(self):
        """A key that is equal for layers whose norms are computed together."""
        if not self.built:
            raise ValueError(f"Layer '{self.name}' is not built. Start its model with keras.Input(shape).")
        if self.learned_orders or not self._norm.is_stackable:
            return id(self)
        return (self._operator, self._norm_dtype, self.tolerance, self.max_iterations)


class LipschitzRule(KernelRule):
    """Base class of rules for `LipschitzLayer`s, without the operation. The first weight is the scaled kernel."""

    def weights_of_all(self, sources, stored):
        kernels: dict[LipschitzLayer, tf.Tensor] = {}
        for group in stacks(list(dict.fromkeys(layer for layer, _ in sources))):
            kernels.update(zip(group, scaled_stack(group, stored=stored), strict=True))
        weights_of_sources = []
        for layer, dtype in sources:
            weights = [kernels[layer], *self.variables(layer)[1:]]
            weights_of_sources.append([tf.cast(tf.convert_to_tensor(weight), dtype) for weight in weights])
        return weights_of_sources

    def domain(self, layer):
        return layer.domain

    def bound(self, layer, inputs, shape, certified, weights):
        (x,) = inputs
        if layer.domain != x.order:
            raise ValueError(
                f"Layer '{layer.name}' has the {order_name(layer.domain)}-norm as its domain, but its input is in "
                f"the {order_name(x.order)}-norm, the codomain of the previous layer. Make them equal."
            )
        constant = layer.coefficient
        if certified:
            constant = layer.bound_of(weights[0]) if weights else layer.lipschitz_bound()
        return TensorBound(x.constant * constant, layer.codomain, shape)


def operator_norm(operator: LinearOperator, domain: Order, codomain: Order) -> OperatorNorm:
    """Returns the norm ||W||_{p -> q} of an operator, an object of the class for its orders."""
    if is_order(domain, 2.0) and is_order(codomain, 2.0):
        return SpectralNorm(operator)
    if has_closed_form(domain, codomain):
        return closed_form_norm(operator, domain, codomain)
    return PowerNorm(operator, domain, codomain)


def stacks(layers: Sequence[LipschitzLayer]) -> list[list[LipschitzLayer]]:
    """Groups layers whose norms are computed together: small matrices of equal shape. Others stay alone."""
    groups: dict[Hashable, list[LipschitzLayer]] = {}
    for layer in layers:
        groups.setdefault(layer._stack_key, []).append(layer)
    return list(groups.values())


def update_stack(
    layers: Sequence[LipschitzLayer], tolerance: float | None, max_iterations: int | None, num_fresh: int | None
) -> tf.Tensor:
    """Runs `update_norms` for one of the `stacks`, and returns the number of iterations."""
    first = layers[0]
    if first.vector is None:
        return tf.constant(0)
    tolerance = first.tolerance if tolerance is None else tolerance
    max_iterations = first.max_iterations if max_iterations is None else max_iterations
    kernel = _stacked(layers)
    v, count = first._norm.maximizer(kernel, _vectors(layers), tolerance, max_iterations, num_fresh)
    for layer, vector in zip(layers, tf.split(v, len(layers)), strict=True):
        layer.vector.assign(vector)
    return count


def scaled_stack(layers: Sequence[LipschitzLayer], *, stored: bool = False) -> list[tf.Tensor]:
    """Returns `LipschitzLayer.scaled_kernel` of each layer of one of the `stacks`.

    With `stored`, the stored vectors are used unchecked, so `update_norms` must follow each change of a kernel.
    """
    limits = [layer.coefficient * (1.0 - rounding_error(layer)) for layer in layers]
    norm = layers[0]._norm
    kernel = _stacked(layers)
    v = _vectors(layers) if stored else norm.refined(kernel, _vectors(layers))
    scaled = norm.scaled(kernel, v, limits)
    scaled_kernels = tf.unstack(scaled) if len(layers) > 1 else [scaled]
    pairs = zip(layers, scaled_kernels, strict=True)
    return [tf.cast(_reshaped(scaled, layer.kernel.shape), layer.variable_dtype) for layer, scaled in pairs]


def _reshaped(tensor, shape):
    return tensor if tensor.shape == shape else tf.reshape(tensor, shape)


def _stacked(layers):
    kernels = [layer._operand() for layer in layers]
    return tf.stack(kernels) if len(kernels) > 1 else kernels[0]


def _vectors(layers):
    if layers[0].vector is None:
        return None
    vectors = [tf.convert_to_tensor(layer.vector) for layer in layers]
    return tf.concat(vectors, 0) if len(vectors) > 1 else vectors[0]


def _validated_order(order, name):
    if isinstance(order, LearnedOrder):
        return order
    if not order >= 1:
        raise ValueError(f"{name} is {order!r}; it must be the order of a norm in [1, inf] or a LearnedOrder.")
    return float(order)
