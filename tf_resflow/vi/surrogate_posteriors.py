"""Surrogate posteriors that sample from a residual flow."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tf_resflow._internal.typing import DType
from tf_resflow.bijectors import Flow
from tf_resflow.bijectors.base import members_in_order
from tf_resflow.flows import vector_flow
from tf_resflow.flows.branches import Activation
from tf_resflow.logdet import default_estimator


def flow_surrogate_posterior(
    event_shape: Any,
    *,
    constraining_bijector: Any = None,
    num_blocks: int = 1,
    affine_layers: int = 3,
    hidden: Sequence[int] = (32, 32),
    activation: Activation = "cpila",
    coefficient: float = 0.97,
    log_det_estimator: Callable[..., Any] | None = None,
    base_distribution: Callable[..., tfd.Distribution] = tfd.Normal,
    batch_shape: Sequence[int] = (),
    dtype: DType = "float32",
    seed: int = 0,
    validate_args: bool = False,
    name: str = "flow_surrogate_posterior",
) -> tfd.TransformedDistribution:
    r"""Builds a trainable distribution over a model's parameters, for `tfp.vi.fit_surrogate_posterior`.

    A sample is \\(\theta = c(f(z))\\), where z is standard normal in D dimensions. The flow f has residual blocks
    \\(x + g(x)\\), then affine autoregressive layers, with ActNorms in between. Its output is split and reshaped
    into the parts of the event, and c applies the constraints. Residual blocks bend the density and separate modes.
    The affine layers, an inverse autoregressive flow, help where the scale of one parameter depends on another.
    \\(\log q(\theta) = \log p(z) - \log|\det J_f(z)| - \log|\det J_c|\\) comes from the same pass. `forward` maps
    latent to parameters here, so the density of a given \\(\theta\\) needs the inverse, and therefore a solver.

    ```python
    import keras, tensorflow_probability as tfp, tf_resflow as resflow
    model = tfp.distributions.JointDistributionNamed({
        "scale": tfp.distributions.LogNormal(0.0, 1.0),
        "x": lambda scale: tfp.distributions.Sample(tfp.distributions.Normal(0.0, scale), [3])})
    target = model.experimental_pin(x=[0.1, -0.5, 1.0])
    surrogate = resflow.vi.flow_surrogate_posterior(
        target.event_shape_tensor(), num_blocks=1, hidden=(8,),
        constraining_bijector=target.experimental_default_event_space_bijector())
    losses = tfp.vi.fit_surrogate_posterior(
        target.unnormalized_log_prob, surrogate, keras.optimizers.Adam(1e-2), num_steps=3, seed=1)
    print(losses.shape, surrogate.sample(5, seed=2)["scale"].shape)
    # (3,) (5,)
    ```

    Args:
      event_shape: Shape of an event, or a nested structure of shapes. Each shape is a `tf.TensorShape`, a list of
        integers, or an integer vector.
      constraining_bijector: A bijector, or a structure of bijectors and `None`, from the reals to the support of
        the posterior. It must not have trainable variables. Use `None` for a posterior on the reals.
      num_blocks: Number of residual blocks. More blocks separate modes better.
      affine_layers: Number of affine autoregressive layers. With 0 the whole flow has Lipschitz constants.
      hidden: Widths of the hidden layers of all networks.
      activation: Activation in the blocks; see `tf_resflow.flows.dense_branch`.
      coefficient: Lipschitz bound of each layer of a block, below 1.
      log_det_estimator: By default, `tf_resflow.logdet.default_estimator` for inference. Each call draws new random
        estimates unless `bijector_kwargs={"seed": ...}` is passed.
      base_distribution: Function of `loc` and `scale` that returns the distribution of each coordinate of z.
      batch_shape: Batch shape of the distribution. All members of the batch share one flow.
      dtype: Dtype of the model, "float32" or "float64".
      seed: Integer seed of the initial parameters.
      validate_args: Whether bijectors and distribution check their inputs.

    Returns:
      A `tfd.TransformedDistribution` whose events have the structure of `event_shape`.

    Raises:
      ValueError: If a shape is not fully defined, or `constraining_bijector` has trainable variables.

    References:
      Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015.
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016.
      Chen et al., Residual Flows for Invertible Generative Modeling, 2019.
    """
    dtype = tf.as_dtype(dtype)
    names = _names_of_trainable_variables(constraining_bijector)
    if names:
        raise ValueError(
            f"constraining_bijector has trainable variables, which the fit would change: {', '.join(names)}. "
            "Pass one bijector for each part, and None for a part on the reals, such as "
            "constraining_bijector={'z': None, 'scale': tfb.Exp()}."
        )
    if not callable(base_distribution):
        name = getattr(base_distribution, "name", base_distribution)
        raise ValueError(f"base_distribution is {name!r}. Pass a function of loc and scale, such as tfd.Normal.")
    size, into_events = from_vectors(event_shape, constraining_bijector, validate_args)
    options: dict[str, Any] = {"activation": activation, "coefficient": coefficient, "seed": seed}
    options["log_det_estimator"] = log_det_estimator or default_estimator(size, "inference")
    flow = vector_flow(size, num_blocks, hidden, affine_layers=(0, affine_layers), dtype=dtype.name, **options)
    base = tfd.Sample(base_distribution(tf.zeros(batch_shape, dtype), scale=tf.ones([], dtype)), [size])
    bijector = Flow([flow, *into_events], validate_args=validate_args, name="surrogate") if into_events else flow
    options = {"kwargs_split_fn": _split_kwargs, "validate_args": validate_args, "name": name}
    return tfd.TransformedDistribution(base, bijector, **options)


def _names_of_trainable_variables(bijectors):
    """Returns the names of the trainable variables of a structure of bijectors and `None`."""
    names: list[str] = []
    for bijector in tf.nest.flatten(bijectors):
        if isinstance(bijector, tf.Module):
            names += [variable.name for variable in bijector.trainable_variables]
    return names


def _split_kwargs(kwargs):
    """Splits arguments for the base and the flow. TFP's trainers pass no seed, so each call draws new estimates."""
    return kwargs.get("distribution_kwargs", {}), {"seed": None, **kwargs.get("bijector_kwargs", {})}


def from_vectors(event_shape: Any, constraint: Any, validate_args: bool = False) -> tuple[int, list[tfb.Bijector]]:
    """Returns the size of vectors that represent events of this shape, and the bijectors to these events."""
    shapes = _shapes(event_shape)
    if tf.nest.is_nested(constraint):
        bijectors = [tfb.Identity() if b is None else b for b in tf.nest.flatten(constraint)]
        constraint = tfb.JointMap(tf.nest.pack_sequence_as(constraint, bijectors), validate_args=validate_args)
    if constraint is not None:
        shapes = constraint.inverse_event_shape(shapes)
    sizes = [math.prod(shape) for shape in tf.nest.flatten(shapes)]
    members = _into_parts(shapes, sizes, validate_args)
    return sum(sizes), members if constraint is None else [*members, constraint]


def vector_part(surrogate_posterior: tfd.TransformedDistribution) -> tuple[Flow, list[tfb.Bijector]]:
    """Returns the flow of a surrogate posterior, which keeps the vector size, and the bijectors after it."""
    shape = getattr(getattr(surrogate_posterior, "distribution", None), "event_shape", None)
    if getattr(shape, "rank", None) != 1:
        raise ValueError(
            f"{surrogate_posterior!r} is not a surrogate posterior made of a flow on vectors. Pass one, such as a "
            "result of tf_resflow.vi.flow_surrogate_posterior."
        )
    members = members_in_order(surrogate_posterior.bijector)
    num_on_vectors = 0
    while num_on_vectors < len(members) and members[num_on_vectors].forward_event_shape(shape) == shape:
        num_on_vectors += 1
    if not num_on_vectors or any(member.trainable_variables for member in members[num_on_vectors:]):
        names = ", ".join(member.name for member in members)
        raise ValueError(
            f"The surrogate posterior applies these bijectors: {names}. Reorder them, so that trainable bijectors "
            "are applied first and keep the size of vectors."
        )
    return Flow(members[:num_on_vectors]), members[num_on_vectors:]


def _into_parts(shapes, sizes, validate_args):
    if not tf.nest.is_nested(shapes):
        return [tfb.Reshape(shapes.as_list(), sizes, validate_args=validate_args)] if shapes.rank != 1 else []
    split = tfb.Split(sizes, validate_args=validate_args)
    members = [split, tfb.Restructure(tf.nest.pack_sequence_as(shapes, range(len(sizes))))]
    if any(shape.rank != 1 for shape in tf.nest.flatten(shapes)):
        reshapes = tf.nest.map_structure(lambda s: tfb.Reshape(s.as_list(), [s.num_elements()]), shapes)
        members.append(tfb.JointMap(reshapes, validate_args=validate_args))
    return members


def _shapes(structure):
    """Converts each shape in the structure to a `tf.TensorShape`."""
    kind: Any = type(structure)
    if isinstance(structure, Mapping):
        return kind(zip(structure, map(_shapes, structure.values()), strict=True))
    is_sequence = isinstance(structure, (list, tuple))
    if is_sequence and not all(isinstance(size, (int, np.integer)) for size in structure):
        shapes = map(_shapes, structure)
        return kind(*shapes) if hasattr(structure, "_fields") else kind(shapes)
    if not is_sequence and not isinstance(structure, tf.TensorShape):
        structure = tf.get_static_value(structure)
    shape = tf.TensorShape(structure)
    shape.assert_is_fully_defined()
    return shape
