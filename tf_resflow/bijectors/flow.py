"""Composition of bijectors in reading order, from data to latent."""

import collections

import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.residual_block import ResidualBlock
from tf_resflow.bijectors.scoped_cache import ScopedCache, ScopedGreedyCache

__all__ = ["Flow", "check_arguments", "check_unique_names", "residual_blocks", "route"]

tfb = tfp.bijectors


def residual_blocks(bijector):
    """The `ResidualBlock`s inside a bijector or distribution, in no particular order."""
    return [m for m in (bijector, *bijector.submodules) if isinstance(m, ResidualBlock)]


def route(bijector, kwargs):
    """The part of a flow's arguments that goes to one of its members.

    `seed` and `conditional_input` reach every block that takes them, through nested flows, `tfb.Chain` and
    `tfb.Invert`; a dictionary under a member's name is for that member alone, as in `tfb.Chain`.
    """
    if isinstance(getattr(bijector, "bijector", None), tfb.Bijector):
        return route(bijector.bijector, kwargs)
    own = kwargs.get(bijector.name, {})
    shared = {key: kwargs[key] for key in ("seed", "conditional_input") if key in kwargs}
    if isinstance(bijector, ResidualBlock) and not bijector.conditional:
        shared.pop("conditional_input", None)
    elif isinstance(bijector, tfb.Composition) and not isinstance(bijector, Flow):
        parts = {b.name: route(b, shared) for b in tf.nest.flatten(bijector.bijectors)}
        shared = {name: part for name, part in parts.items() if part}
    elif not residual_blocks(bijector):
        shared = {}
    return shared | own


def check_arguments(flow, members, kwargs):
    """Raises a ValueError for arguments that no member of the flow would take."""
    if "conditional_input" in kwargs and not any(b.conditional for b in residual_blocks(flow)):
        raise ValueError(f"{flow.name} got conditional_input, but none of its blocks is conditional.")
    unknown = set(kwargs) - {"seed", "conditional_input"} - {b.name for b in members}
    if unknown:
        raise ValueError(
            f"{flow.name} takes seed, conditional_input, or a dictionary under the name of a member "
            f"({', '.join(b.name for b in members)}); got {', '.join(sorted(unknown))}."
        )


def check_unique_names(owner, members):
    """Raises a ValueError for two members of one name, or two blocks of one name at any depth.

    Names key the checkpoint and salt the seeds.
    """
    blocks = {id(block): block.name for b in members for block in residual_blocks(b)}
    for names in ([b.name for b in members], list(blocks.values())):
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        if twice:
            raise ValueError(
                f"{owner}: the bijectors of a flow have different names, which key the checkpoint and "
                f"salt the seeds; given more than once: {', '.join(twice)}. Pass name= to their constructors."
            )


class _Boundary(tfb.Bijector):
    """The identity, before and after a stock bijector.

    A stock bijector's cache, handed a tensor from outside of a `tf.cond` or `tf.while_loop`, keeps the
    branch's result under that tensor, and gives it out again outside. Between two boundaries it is handed
    copies that exist in the current graph only; each tensor has one copy, so that values are still found.
    """

    _cache = ScopedCache()

    def __init__(self):
        super().__init__(forward_min_event_ndims=0, name="boundary")

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        return tf.identity(x)

    def _inverse(self, y):
        return tf.identity(y)


class Flow(tfb.Composition):
    r"""\\(f = f_n \circ \dots \circ f_1\\) from a list `[f_1, ..., f_n]`: applied in reading order, data to latent.

    (`tfb.Chain` applies its list backwards.) One `seed` serves all stochastic blocks, each of which salts
    it with its name; `conditional_input` reaches the conditional ones.

    ```python
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_resflow as resflow

    def block(name):
        return resflow.bijectors.ResidualBlock(keras.Sequential([
            keras.Input([2]),
            resflow.layers.LipschitzDense(32), resflow.layers.LipSwish(),
            resflow.layers.LipschitzDense(2)]), name=name)

    flow = resflow.bijectors.Flow([
        resflow.bijectors.ActNorm([2]), block("first"), tfp.bijectors.Scale(2.0), block("second")])
    density = tfp.distributions.TransformedDistribution(
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2)), tfp.bijectors.Invert(flow))
    print(density.log_prob([[0.0, 1.0]], bijector_kwargs={"seed": 1}).shape)
    # (1,)
    ```

    Args:
      bijectors: list of `tfb.Bijector`s, stock ones among them if you like.
      validate_args: see `tfb.Bijector`.
      name: `str`.

    Raises:
      ValueError: when the list is empty or two members share a name.
    """

    _cache = ScopedCache()

    def __init__(self, bijectors, validate_args=False, name="flow"):
        parameters = dict(locals())
        bijectors = list(bijectors)
        if not bijectors:
            raise ValueError("A Flow needs at least one bijector.")
        check_unique_names(name, bijectors)
        with tf.name_scope(name) as name:
            self._boundaries = self._no_dependency({b.name: _boundaries(b) for b in bijectors})
            super().__init__(
                bijectors,
                name=name,
                parameters=parameters,
                forward_min_event_ndims=None,
                inverse_min_event_ndims=None,
                validate_args=validate_args,
            )
        # Keyed by name, so that a checkpoint of another architecture fails to restore.
        self._bijectors_trackable = {b.name: b for b in bijectors}

    def _walk_forward(self, step_fn, x, **kwargs):
        check_arguments(self, self._bijectors, kwargs)
        for b in self._bijectors:
            before, after = self._boundaries[b.name]
            x = step_fn(b, _cross(before.forward, x), **route(b, kwargs))
            x = _cross(after.forward, x)
        return x

    def _walk_inverse(self, step_fn, y, **kwargs):
        check_arguments(self, self._bijectors, kwargs)
        for b in reversed(self._bijectors):
            before, after = self._boundaries[b.name]
            y = step_fn(b, _cross(after.inverse, y), **route(b, kwargs))
            y = _cross(before.inverse, y)
        return y


def _cross(boundary, arguments):
    """Takes the values among `arguments` (a tensor, or what a walk carries along with it) over a boundary."""
    is_value = lambda a: tf.is_tensor(a) and a.dtype.is_floating  # noqa: E731
    return tf.nest.map_structure(lambda a: boundary(a) if is_value(a) else a, arguments)


def _boundaries(bijector):
    """Two boundaries; for a bijector with a cache like theirs, nothing."""
    if isinstance(type(bijector)._cache, (ScopedCache, ScopedGreedyCache)):
        return tfb.Identity(), tfb.Identity()
    return _Boundary(), _Boundary()
