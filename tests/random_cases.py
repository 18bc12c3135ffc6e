"""Random flows with two blocks, and their results by dense linear algebra in NumPy.

A branch is drawn as a recipe, from which Keras builds a network and NumPy a function. The second block is the first
block with one change, or only with other weights. This finds functions that are shared by mistake. Everything is
deterministic: the probes are the basis, and the numbers of terms are fixed.
"""

import copy
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tf_resflow as resflow
from tf_resflow import layers, logdet, solvers

COEFFICIENT = 0.7
_STEP = 1e-5  # step of central differences


class Node(NamedTuple):
    """A layer in a recipe. Nodes with the same `tie` share a layer. `channels` is the number of input channels."""

    kind: str
    inputs: tuple[int, ...]
    tie: int
    setting: Any
    channels: int


class Recipe(NamedTuple):
    """The layers of a branch. Input 0 is x, and input 1 is the condition if there is one."""

    shape: tuple[int, ...]
    condition: int | None
    nodes: tuple[Node, ...]
    form: str  # "functional", "sequential" or "nested"


# Parts that users may write.


class Wave(keras.layers.Layer):
    """sin(a x) / 2, where a is a plain attribute."""

    def __init__(self, a, **kwargs):
        super().__init__(**kwargs)
        self.a = a
        self.lipschitz_constant = 0.5 * a

    def call(self, x):
        return tf.sin(self.a * x) / 2


class HalfSwish(layers.LipSwish):
    """A subclass with another call."""

    lipschitz_constant = 0.5

    def call(self, inputs):
        return 0.5 * super().call(inputs)


def squash(scales, x):
    """tanh(s x) / 2, where s is one of many numbers."""
    return tf.tanh(tf.cast(scales[-4], x.dtype) * x) / 2


@dataclasses.dataclass(frozen=True)
class Terms(logdet.Geometric):
    """A fixed number of terms, which prints the same for all lengths."""

    length: int = 1
    share: float = 0.5

    def __repr__(self):
        return "Terms()"

    def sample(self, shape, seed):
        return tf.fill(shape, self.length)

    def survival(self, k, dtype):
        return tf.constant(self.share, dtype) ** (tf.cast(k, dtype) - 1.0)


class LongerTerms(Terms):
    """A subclass with the same fields and one more term. It shares no function with its base."""

    def sample(self, shape, seed):
        return 1 + super().sample(shape, seed)


@dataclasses.dataclass(frozen=True)
class Louder(logdet.PowerSeries):
    """A power series multiplied by a factor."""

    factor: float = 1.0

    def terms(self, v, seed):
        terms = super().terms(v, seed)

        def weigh(k, w, state):
            *weights, state = terms.weigh(k, w, state)
            return *(self.factor * weight for weight in weights), state

        return terms._replace(weigh=weigh)


@dataclasses.dataclass(frozen=True)
class Shifted(solvers.FixedPoint):
    """A solver that adds a shift to its roots."""

    shift: float = 0.0

    def __call__(self, g, y, **kwargs):
        solution = super().__call__(g, y, **kwargs)
        return solution._replace(root=solution.root + tf.cast(self.shift, y.dtype))


# Drawing.


class _Draft:
    """A recipe while it is being drawn."""

    def __init__(self, rng, shape, condition):
        self.rng, self.shape, self.condition = rng, shape, condition
        self.nodes: list[Node] = []
        self._channels = [shape[-1], *([] if condition is None else [condition])]
        self._size = int(rng.choice([1, 3])) if len(shape) > 1 else None
        self._has_user_layers = rng.random() < 0.3
        self.norm = "2" if self._size else str(rng.choice(["2", "2", "2", "1", "inf"]))

    def add(self, kind, *inputs, setting=None, tie=None, channels=None):
        taken = self._channels[inputs[0]]
        self.nodes.append(Node(kind, inputs, len(self.nodes) if tie is None else tie, setting, taken))
        factor = 2 if kind in ("cpila", "clipswish") else 1
        self._channels.append(channels or factor * taken)
        return len(self._channels) - 1

    def linear(self, h, units, *, bias=True, tie=None, is_dense=False):
        setting = {"units": units, "size": None if is_dense else self._size, "norm": self.norm, "bias": bias}
        return self.add("linear", h, setting=setting, tie=tie, channels=units)

    def activation(self, h):
        concatenated = ["cpila", "clipswish"] * 2 if self.norm == "2" else []
        kinds = ["lipswish"] * 2 + ["softplus", "squash"] + concatenated
        kinds += ["wave", "half", "called"] * 2 if self._has_user_layers else []
        kind = str(self.rng.choice(kinds))
        setting = float(self.rng.uniform(0.4, 1.0)) if kind in ("wave", "squash", "called") else None
        return self.add(kind, h, setting=setting)


def draw_recipe(rng, shape):
    """Returns a random recipe for events of this shape."""
    condition = None if rng.random() < 0.6 else int(rng.integers(1, 4))
    draft, width, is_image = _Draft(rng, shape, condition), int(rng.integers(2, 5)), len(shape) > 1
    h = draft.activation(0) if rng.random() < 0.3 else 0
    h = draft.linear(h, width, bias=rng.random() < 0.8)
    if condition is not None:
        shift = draft.add("shift", 1, setting=width, channels=width)
        shift = draft.add("reshape", shift, setting=(1, 1, width)) if is_image else shift
        h = draft.add("add", h, shift)
    h = draft.activation(h)
    if draft.norm == "2" and rng.random() < 0.3:
        h = draft.add("weighted", 0, h, channels=shape[-1] + draft._channels[h])
    elif rng.random() < 0.5:  # adds layers that may be tied
        h = draft.linear(h, width)
        first = len(draft.nodes)
        for i in range(int(rng.integers(1, 4))):
            h = draft.linear(h, width, tie=first if i and rng.random() < 0.6 else None)
        h = draft.activation(h)
    if is_image and rng.random() < 0.3:
        h = draft.add("flatten", h, channels=draft._channels[h] * shape[0] * shape[1])
        h = draft.linear(h, math.prod(shape), is_dense=True)
        draft.add("reshape", h, setting=shape)
    else:
        draft.linear(h, shape[-1], bias=rng.random() < 0.8)
    nodes = tuple(draft.nodes)
    chain = condition is None and all(node.inputs == (i,) for i, node in enumerate(nodes))
    form = str(rng.choice(["functional", "nested", "sequential"] if chain else ["functional"]))
    return Recipe(shape, condition, nodes, form)


def changed(recipe, rng):
    """Returns a recipe with at most one change. All shapes stay the same."""
    nodes, i = list(recipe.nodes), int(rng.integers(len(recipe.nodes)))
    node = nodes[i]
    if node.kind in ("wave", "squash", "called"):
        nodes[i] = node._replace(setting=float(rng.uniform(0.4, 1.0)))
    elif node.kind in ("lipswish", "softplus", "half"):
        nodes[i] = node._replace(kind=str(rng.choice(["lipswish", "softplus", "half"])))
    elif node.kind == "linear" and rng.random() < 0.6:
        alike = [n for n in nodes if (n.kind, n.setting, n.channels) == (node.kind, node.setting, node.channels)]
        nodes[i] = node._replace(tie=alike[int(rng.integers(len(alike)))].tie)
    elif node.kind == "linear" and rng.random() < 0.5:
        setting = {**node.setting, "bias": not node.setting["bias"]}
        nodes = [n._replace(setting=setting) if n.tie == node.tie else n for n in nodes]
    return recipe._replace(nodes=tuple(nodes))


# Estimators whose state is not printed are drawn most often.
ESTIMATORS = ["exact", "series", "louder", "louder", "factory", "factory", "default"]


def draw_estimator(rng, odd, tolerance, kind, num):
    """Returns an estimator with `num` terms or, if it is adaptive, with this tolerance.

    Also returns a function from k to the k-th weights of its value and of its Neumann series, or None.
    """
    if kind == "exact":
        return logdet.Exact(), None
    if kind == "default":
        return logdet.AdaptiveRoulette(tolerance, probes="basis"), None
    if kind in ("series", "louder"):
        factor = float(rng.uniform(0.5, 2.0)) if kind == "louder" else 1.0
        series = Louder(num, probes="basis", factor=factor)
        series = series if kind == "louder" else logdet.PowerSeries(num, probes="basis")
        return series, lambda k: (factor * (k <= num), factor * (k < num or odd))
    length, share = int(rng.integers(1, 4)), float(rng.uniform(0.4, 0.9))
    is_longer = rng.integers(2)
    terms = LongerTerms(length=length - 1, share=share) if is_longer else Terms(length=length, share=share)
    roulette = logdet.RussianRoulette(num, terms, probes="basis")
    return roulette, lambda k: (float(k <= num + length) * share ** -max(k - num - 1, 0),) * 2


def build(recipe, dtype, rng):
    """Returns the network of a recipe, and the layer of each node."""
    made: dict[int, keras.layers.Layer] = {}
    own = []
    for i, node in enumerate(recipe.nodes):
        if node.tie not in made:
            setting = [] if node.setting is None else [node.setting]
            made[node.tie] = KINDS[node.kind][0](*setting, dtype=dtype, name=f"layer_{i}")
        own.append(made[node.tie])
    x = keras.Input(recipe.shape, dtype=dtype)
    inputs = [x] if recipe.condition is None else [x, keras.Input([recipe.condition], dtype=dtype)]
    if recipe.form == "sequential":
        network = keras.Sequential([x, *own])
    elif recipe.form == "nested":
        half = len(own) // 2
        h = functools.reduce(lambda h, layer: layer(h), own[:half], x)
        inner = keras.Input(h.shape[1:], dtype=dtype)
        inner = keras.Model(inner, functools.reduce(lambda h, layer: layer(h), own[half:], inner))
        network = keras.Model(x, inner(h))
    else:
        values = list(inputs)
        for node, layer in zip(recipe.nodes, own, strict=True):
            first, *others = (values[j] for j in node.inputs)
            values.append(layer([first, *others] if others else first))
        network = keras.Model(inputs, values[-1])
    for variable in network.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * (0.3 if variable.shape else 1.0))
    for node, layer in zip(recipe.nodes, own, strict=True):
        if node.kind == "called":
            layer.call = _squash_by(node.setting)
        if node.kind == "linear" and not node.setting["bias"]:
            layer.bias = None  # changed after the layer was built
    return network, own


def _linear_layer(setting, **options):
    order = {"1": 1.0, "inf": math.inf}.get(setting["norm"], 2.0)
    options |= {"coefficient": COEFFICIENT, "domain": order, "codomain": order}
    if setting["size"]:
        return layers.LipschitzConv2D(setting["units"], setting["size"], **options)
    return layers.LipschitzDense(setting["units"], **options)


def _squash_by(scale):
    """Returns `squash` with one of many numbers, which its printed text leaves out."""
    return functools.partial(squash, np.append(np.zeros(5000), [scale, 0.0, 0.0, 0.0]))


# NumPy versions that support complex numbers, which np.logaddexp and scipy.special.expit do not.


def softplus(x):
    return np.log1p(np.exp(x))


def swish(x, beta):
    return x / (1 + np.exp(-softplus(beta) * x)) / 1.1


def mirrored(function, x):
    return np.concatenate([function(x), function(-x)], -1)


def pila(z):
    below = z * (z.real < 0)
    t = 5.0 * below
    return z - below + (t**2 / 2 - t + 1) * below * np.exp(t)


def weighted(x, y, theta):
    e = softplus(theta) + 0.1
    eta = COEFFICIENT * e / np.linalg.norm(e)
    return np.concatenate([eta[0] * x, eta[1] * y], -1)


def linear(setting, x, kernel, *bias):
    matrix = dense_matrix(kernel, x.shape[1:]) if setting["size"] else kernel.T
    matrix = matrix / max(1.0, norm_of(matrix, setting["norm"]) / COEFFICIENT)
    rows = x.reshape(len(x), -1) @ matrix.T if setting["size"] else x @ matrix.T
    return rows.reshape(*x.shape[:-1], -1) + (bias[0] if setting["bias"] else 0.0)


# For each kind of layer: the layer, and a NumPy function of its inputs and weights. Both accept the setting of the
# node, if it has one, as their first argument.
KINDS = {
    "lipswish": (layers.LipSwish, swish),
    "half": (HalfSwish, lambda x, beta: swish(x, beta) / 2),
    "cpila": (layers.CPila, lambda x: mirrored(lambda z: pila(z - 0.2) / 1.06, x)),
    "clipswish": (layers.CLipSwish, lambda x, beta: mirrored(lambda z: swish(z, beta) / 1.004, x)),
    "softplus": (functools.partial(keras.layers.Activation, "softplus"), softplus),
    "weighted": (functools.partial(layers.LearnableConcatenation, COEFFICIENT), weighted),
    "add": (keras.layers.Add, np.add),
    "flatten": (keras.layers.Flatten, lambda x: x.reshape(len(x), -1)),
    "reshape": (keras.layers.Reshape, lambda shape, x: x.reshape(len(x), *shape)),
    "shift": (keras.layers.Dense, lambda units, x, kernel, bias: x @ kernel + bias),
    "linear": (_linear_layer, linear),
    "wave": (Wave, lambda s, x: np.sin(s * x) / 2),
    "squash": (lambda s, **k: keras.layers.Activation(_squash_by(s), **k), lambda s, x: np.tanh(s * x) / 2),
    "called": (lambda s, **k: layers.LipSwish(**k), lambda s, x, beta: np.tanh(s * x) / 2),
}


def dense_matrix(kernel, shape, strides=(1, 1), padding="same"):
    """Returns the matrix of a convolution for images of this shape."""
    height, width, channels = shape
    taps_h, taps_w, _, filters = kernel.shape
    sizes = zip((height, width), (taps_h, taps_w), strides, strict=True)
    (rows, top), (columns, left) = (_windows(*size, padding) for size in sizes)
    matrix = np.zeros([rows, columns, filters, height, width, channels])
    for i, j, a, b in np.ndindex(rows, columns, taps_h, taps_w):
        p, q = i * strides[0] + a - top, j * strides[1] + b - left
        if 0 <= p < height and 0 <= q < width:
            matrix[i, j, :, p, q, :] = kernel[a, b].T
    return matrix.reshape(rows * columns * filters, -1)


def _windows(pixels, taps, stride, padding):
    """Returns the number of windows along an axis, and the number of zeros before its first pixel."""
    if padding == "valid":
        return math.ceil((pixels - taps + 1) / stride), 0
    num = math.ceil(pixels / stride)
    return num, max(0, (num - 1) * stride + taps - pixels) // 2


def norm_of(matrix, kind):
    """Returns the norm of a matrix that acts on columns."""
    return np.linalg.norm(matrix, {"1": 1, "inf": np.inf}.get(kind, 2))


class Reference:
    """A branch as a function of vectors `[rows, size]`. The weights are stored by the id of their variable."""

    def __init__(self, recipe, own):
        self.recipe, self.own, self.size = recipe, own, math.prod(recipe.shape)
        self.weights = {id(v): v.numpy().astype(np.float64) for layer in own for v in layer.trainable_variables}

    def moved(self, direction, step):
        """Returns the same branch with weights moved along a direction."""
        result = copy.copy(self)
        result.weights = {key: weight + step * direction[key] for key, weight in self.weights.items()}
        return result

    def __call__(self, x, c):
        values = [x.reshape(-1, *self.recipe.shape)] + ([] if self.recipe.condition is None else [c])
        for node, layer in zip(self.recipe.nodes, self.own, strict=True):
            given = [] if node.setting is None else [node.setting]
            given += [values[j] for j in node.inputs] + [self.weights[id(v)] for v in layer.trainable_variables]
            values.append(KINDS[node.kind][1](*given))
        return values[-1].reshape(len(x), -1)

    def jacobian(self, x, c):
        """Returns the Jacobian `[rows, size, size]`, computed with complex steps."""
        columns = [self(x + 1e-30j * unit, c).imag / 1e-30 for unit in np.eye(self.size)]
        return np.stack(columns, -1)


class Block(NamedTuple):
    """A block in NumPy."""

    g: Reference
    monotone: bool
    estimator: Any
    weights: Any

    def _solve(self, y, c, sign=1.0):
        x = y
        for _ in range(120):
            x = y - sign * self.g(x, c)
        return x

    def forward(self, x, c):
        """Returns y, and the point at which the Jacobian is evaluated."""
        if not self.monotone:
            return x + self.g(x, c), x
        w = self._solve(np.sqrt(2) * x, c)
        return np.sqrt(2) * w - x, w

    def inverse(self, y, c):
        if not self.monotone:
            return self._solve(y, c)
        return np.sqrt(2) * self._solve(np.sqrt(2) * y, c, -1.0) - y

    def log_det(self, x, c):
        """Returns the estimated log-determinant at x, `[rows]`."""
        jacobian, eye = self.g.jacobian(self.forward(x, c)[1], c), np.eye(self.g.size)
        if self.weights is None:
            value = np.linalg.slogdet(eye + jacobian)[1]
            return np.linalg.slogdet(eye - jacobian)[1] - value if self.monotone else value
        return np.trace(series(jacobian, self._value_coefficient), axis1=1, axis2=2)

    def log_det_gradient(self, x, c, ends):
        """Returns the estimated derivative along a direction. `ends` are (block, x, c) one step ahead and back."""
        after, before = (block.g.jacobian(block.forward(*at)[1], at[1]) for block, *at in ends)
        jacobian, eye = self.g.jacobian(self.forward(x, c)[1], c), np.eye(self.g.size)
        if self.weights is None:
            factor = np.linalg.inv(eye + jacobian)
            factor = -np.linalg.inv(eye - jacobian) - factor if self.monotone else factor
        else:
            factor = series(jacobian, self._gradient_coefficient)
        return np.trace(factor @ (after - before) / (2 * _STEP), axis1=1, axis2=2)

    def _value_coefficient(self, n):
        """The coefficient of J^n in log|det(I + J)|, or in log|det(I - J)| - log|det(I + J)|."""
        if self.monotone:
            return -2 * self.weights((n + 1) // 2)[0] / n if n % 2 else 0.0
        return (-1) ** (n + 1) * self.weights(n)[0] / n if n else 0.0

    def _gradient_coefficient(self, k):
        """The coefficient of J^k in the derivative, whose Neumann series has other weights."""
        if self.monotone:
            return 0.0 if k % 2 else -2 * self.weights(k // 2 + 1)[0]
        return (-1) ** k * self.weights(k)[1] if k else 1.0


def series(matrix, coefficient):
    """Returns the power series of a matrix `[rows, size, size]`, with more terms than any estimator here uses."""
    total, power = 0.0, np.broadcast_to(np.eye(matrix.shape[-1]), matrix.shape)
    for k in range(24):
        total = total + coefficient(k) * power
        power = power @ matrix
    return total


WAYS = ("graph", "training", "eager", "vectorized", "xla")


class Case:
    """Two blocks in one flow, the same blocks in NumPy, and the data."""

    def __init__(self, seed):
        rng = np.random.default_rng([seed, 7])
        self.dtype = "float32" if rng.random() < 0.15 else "float64"
        tolerance = 1e-6 if self.dtype == "float32" else 1e-12
        shape = ((2, 2, 2), (3, 2, 1))[rng.integers(2)] if rng.random() < 0.3 else (int(rng.integers(1, 5)),)
        self.scales = 2 if shape == (2, 2, 2) and rng.random() < 0.4 else 1
        first = draw_recipe(rng, shape)
        if self.scales == 2 and first.condition is not None:
            first = draw_recipe(rng, shape)
        recipes = first, changed(first, rng) if self.scales == 1 else draw_recipe(rng, (1, 1, 4))
        while len(conditions := {recipe.condition for recipe in recipes} - {None}) > 1:
            recipes = recipes[0], draw_recipe(rng, (1, 1, 4))  # both conditions are equal, or one is missing
        kind = rng.choice(["residual", "residual", "monotone"])
        kinds = [rng.choice(ESTIMATORS)] * 2 if rng.random() < 0.6 else [rng.choice(ESTIMATORS) for _ in range(2)]
        num = int(rng.integers(1, 5))
        estimators = [draw_estimator(rng, kind == "monotone", tolerance, each, num) for each in kinds]
        draws = rng.uniform(-1, 1, size=2) * (rng.random() < 0.25)
        self.shifts = [0.0 if kind == "monotone" else float(shift) for shift in draws]
        blocks, self.blocks = [], []
        for i, (recipe, (estimator, weights)) in enumerate(zip(recipes, estimators, strict=True)):
            network, own = build(recipe, self.dtype, rng)
            solver = Shifted(shift=self.shifts[i]) if self.shifts[i] else None
            block = resflow.bijectors.MonotoneBlock if kind == "monotone" else resflow.bijectors.ResidualBlock
            options = {"has_condition": recipe.condition is not None, "name": f"block{i}"}
            blocks.append(block(network, estimator, solver, lipschitz_constant=0.9, **options))
            self.blocks.append(Block(Reference(recipe, own), kind == "monotone", estimator, weights))
        self.flow = resflow.bijectors.Flow(blocks)
        if self.scales == 2:
            parts = [blocks[0], resflow.bijectors.Squeeze2D()], [blocks[1]]
            self.flow = resflow.bijectors.MultiscaleFlow([resflow.bijectors.Flow(part) for part in parts], shape)
        layers.converge_norms(self.flow)
        self.x = rng.normal(size=[3, *shape])
        self.c = rng.normal(size=[3, conditions.pop()]) if conditions else None
        self.size = math.prod(shape)
        self.a, self.b = rng.normal(size=[3, self.size]), rng.normal(size=3)
        self.variables = [block.branch.trainable_variables for block in blocks]

    def __str__(self):
        lines = [f"{block.estimator} {block.g.recipe}" for block in self.blocks]
        return "\n".join([*lines, f"{self.dtype} {self.shifts}"])

    def run(self, way):
        """Returns the results for one of `WAYS`. "vectorized" has no inverse and not all gradients."""
        c = np.zeros([3, 1]) if self.c is None else self.c
        inputs = [tf.constant(value, self.dtype) for value in (self.x, c, self.a, self.b)]
        training = way == "training" and not any(block.monotone for block in self.blocks)
        compute = functools.partial(self._compute, training=training) if way != "vectorized" else self._vectorized
        if way != "eager":
            compute = tf.function(compute, autograph=False, jit_compile=way == "xla" or None)
        return compute(*inputs)

    def _arguments(self, c, training=False):
        arguments = {"seed": tf.constant([1, 2])} | ({} if self.c is None else {"condition": c})
        return arguments | ({"networks": resflow.bijectors.Networks(self.flow, training=True)} if training else {})

    def _passes(self, x, **arguments):
        z = self.flow.forward(x, **arguments)
        return z, self.flow.forward_log_det_jacobian(x, self.x.ndim - 1, **arguments)

    def _compute(self, x, c, a, b, training=False):
        """Returns latent, log-determinant, inverse, and gradients of two losses in x or z, c and weights."""
        variables = [variable.value for variable in sum(self.variables, [])]
        with tf.GradientTape() as tape:
            tape.watch([x, c])
            z, log_det = self._passes(tf.identity(x), **self._arguments(c, training))
            loss = tf.reduce_sum(a * tf.reshape(z, a.shape)) + tf.reduce_sum(b * log_det)
        there = tape.gradient(loss, [x, c, *variables], unconnected_gradients="zero")
        with tf.GradientTape() as tape:
            tape.watch([z, c])
            back = self.flow.inverse(tf.identity(z), **self._arguments(c, training))
            loss = tf.reduce_sum(a * tf.reshape(back, a.shape))
        again = tape.gradient(loss, [z, c, *variables], unconnected_gradients="zero")
        return {"z": z, "log_det": log_det, "back": back, "there": there, "again": again}

    def _vectorized(self, x, c, a, b):
        """Computes one example at a time. The gradient must be that of the value, without a solver."""

        def one(given):
            z, log_det = self._passes(given[0], **self._arguments(given[1]))
            return tf.reshape(z, [-1]), log_det

        with tf.GradientTape() as tape:
            tape.watch(x)
            z, log_det = tf.vectorized_map(one, (x, c))
            loss = tf.reduce_sum(a * z) + tf.reduce_sum(b * log_det)
        found, known = {"z": z, "log_det": log_det}, (logdet.Exact, logdet.PowerSeries)
        if any(type(block.estimator) not in known for block in self.blocks):
            return found
        return found | {"there": [tape.gradient(loss, x)]}

    def there(self, blocks, x, c):
        """Returns the latent and the input of the second block."""
        y = blocks[0].forward(x, c)[0]
        if self.scales == 1:
            return blocks[1].forward(y, c)[0], y
        y = y.reshape(-1, 2, 2, 2).transpose(0, 3, 1, 2).reshape(-1, 8)  # (pixel, channel) to (channel, pixel)
        return np.concatenate([y[:, 4:], blocks[1].forward(y[:, :4], c)[0]], 1), y[:, :4]

    def back(self, blocks, z, c):
        """Returns the inverse. The solvers are off by the shifts."""
        shifts = self.shifts
        if self.scales == 1:
            y = blocks[1].inverse(z, c) + shifts[1]
        else:
            y = np.concatenate([blocks[1].inverse(z[:, 4:], c) + shifts[1], z[:, :4]], 1)
            y = y.reshape(-1, 2, 2, 2).transpose(0, 2, 3, 1).reshape(-1, 8)
        return blocks[0].inverse(y, c) + shifts[0]

    def expected(self):
        """Computes the latent, the log-determinant and the inverse by dense linear algebra."""
        x = self.x.reshape(3, -1)
        z, y = self.there(self.blocks, x, self.c)
        log_det = self.blocks[0].log_det(x, self.c) + self.blocks[1].log_det(y, self.c)
        return {"z": z, "log_det": log_det, "back": self.back(self.blocks, z, self.c)}

    def slopes(self, found):
        """Yields derivatives of a loss along random directions, by gradients and by finite differences."""
        there, rng = found.get("there", []), np.random.default_rng(1)
        x, z = self.x.reshape(3, -1), found["z"].numpy().reshape(3, -1)
        y = self.there(self.blocks, x, self.c)[1]
        parts = [0, 1, *(2 + i for i, group in enumerate(self.variables) for _ in group)]
        for part in range(4):  # x, the condition, the first block, the second one
            if part >= len(there) or (part == 1 and self.c is None):
                continue
            moves = [rng.normal(size=t.shape) * (of == part) for t, of in zip(there, parts, strict=False)]
            of_weights = iter(moves[2:])
            directions = [{id(variable): next(of_weights, 0.0) for variable in group} for group in self.variables]
            ends = []  # blocks, change of x or z, and condition, a step ahead and a step back
            for step in (_STEP, -_STEP):
                moved = [block.g.moved(way, step) for block, way in zip(self.blocks, directions, strict=True)]
                blocks = [block._replace(g=g) for block, g in zip(self.blocks, moved, strict=True)]
                c = None if self.c is None else self.c + step * (moves[1] if len(moves) > 1 else 0.0)
                ends.append((blocks, step * moves[0].reshape(3, -1), c))
            ahead, back = (np.sum(self.a * self.there(blocks, x + dx, c)[0]) for blocks, dx, c in ends)
            points = [(blocks[1], self.there(blocks, x + dx, c)[1], c) for blocks, dx, c in ends]
            first = self.blocks[0].log_det_gradient(x, self.c, [(blocks[0], x + dx, c) for blocks, dx, c in ends])
            second = self.blocks[1].log_det_gradient(y, self.c, points)
            yield _along(there, moves), (ahead - back) / (2 * _STEP) + np.sum(self.b * (first + second))
            if "again" in found and not any(self.shifts):  # the gradient assumes an exact root
                ahead, back = (np.sum(self.a * self.back(blocks, z + dz, c)) for blocks, dz, c in ends)
                yield _along(found["again"], moves), (ahead - back) / (2 * _STEP)


def _along(gradients, moves):
    arrays = [gradient.numpy().astype(np.float64) for gradient in gradients]
    return sum(np.sum(a.reshape(move.shape) * move) for a, move in zip(arrays, moves, strict=True))
