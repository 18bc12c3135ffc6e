"""A flow and a classifier on its features as one Keras model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow import bijectors
from tf_resflow._internal.seeds import split_seed, stateless_seed
from tf_resflow._internal.typing import Seed, TensorLike
from tf_resflow.bijectors.networks import check_built, variables_by_name
from tf_resflow.flows.classifier import ActNormLayer
from tf_resflow.models.flow_model import FlowModel
from tf_resflow.models.keras_training import KerasTraining


class HybridModel(KerasTraining):
    r"""The joint density of examples and labels: a flow for p(x), and a classifier p(y | x) of the flow's features.

    Training maximizes \\(\log p(y \mid x) + \lambda \log p(x)\\), where
    \\(\lambda = \mathrm{density\_weight} / D\\) for D coordinates. The loss of an example is

        cross entropy + density_weight * (negative log-likelihood of x per dimension).

    Both terms are in bits for integer data with `levels`, where the second term is bits/dim, and in nats for
    continuous data. With `density_weight=0.0`, the model is only a classifier and evaluates no log-determinants.

    The classifier receives the values after each scale of the flow (see `tf_resflow.bijectors.forward_features`),
    from the same pass as the log-likelihood. Call `fit` with examples and integer labels.

    ```python
    import numpy as np, tf_resflow as resflow

    options = {"width": 8, "kernels": (3, 1), "num_fc_blocks": 0, "factor_out": True}
    flow = resflow.flows.image_flow((8, 8, 1), (1, 1), **options)
    shapes = flow.feature_shapes((8, 8, 1))
    classifier = resflow.flows.multiscale_classifier(shapes, num_classes=10)
    model = resflow.HybridModel(flow, classifier, (8, 8, 1), levels=17, density_weight=1.0)

    images = np.random.default_rng(0).integers(0, 17, size=[32, 8, 8, 1])
    labels = np.random.default_rng(1).integers(0, 10, size=[32])
    model.initialize(images)
    model.compile(optimizer="adamw")
    history = model.fit(images, labels, batch_size=32, epochs=1, verbose=0)
    print(sorted(history.history))
    # ['accuracy', 'bits_per_dim', 'cross_entropy', 'loss']
    print(model.classify(images)["probabilities"].shape)
    # (32, 10)
    ```

    See `FlowModel` for saving and for the other arguments.

    Args:
      classifier: Built `keras.Model` that maps the list of the flow's features to logits, such as
        `tf_resflow.flows.multiscale_classifier`.
      density_weight: Weight of the second term of the loss, at least 0.

    Attributes:
      density: A `FlowModel` of the same flow, for samples and likelihoods. It is not trained if the weight is 0.
      data_space: The `DataSpace` of `density`.

    References:
      Chen et al. 2019, Section 5.3 and its appendix on hybrid modeling.
      Nalisnick et al., Hybrid Models with Deep and Invertible Features, 2019.
    """

    classifier: keras.Model
    # Checkpoints store the variables of the flow and the settings once, under `flow` and not also under `density`.
    _only_in_saved_models = ("condition", "density")

    def __init__(
        self,
        flow: bijectors.FlowBijector,
        classifier: keras.Model,
        event_shape: Sequence[int],
        *,
        levels: int | None = None,
        density_weight: float = 1.0,
        base: tfp.distributions.Distribution | None = None,
        evaluation_log_det_estimator: Callable[..., Any] | None = None,
        seed: int = 0,
        name: str = "hybrid_model",
    ):
        super().__init__(name=name)
        self.autocast = False
        if not 0 <= density_weight < math.inf:
            raise ValueError(f"density_weight is {density_weight}, but must be at least 0 and finite.")
        check_built(classifier)
        self.density = FlowModel(
            flow, event_shape, levels=levels, base=base, evaluation_log_det_estimator=evaluation_log_det_estimator
        )
        self.flow = flow
        self.seed = seed
        self.classifier = classifier
        self.density_weight = float(density_weight)
        self.data_space = self.density.data_space
        self.condition = self.density.condition
        self.distribution = self.density.distribution
        # Keyed by name, so that checkpoints of other classifiers do not restore.
        self._classifier_variables = tf.Module()
        self._classifier_variables.by_name = variables_by_name(classifier)
        self.objective = "loss"
        self.expects_pairs = True
        names = ["loss", "cross_entropy", "accuracy"] + [self.data_space.unit] * (density_weight > 0)
        self._means = [keras.metrics.Mean(name) for name in names]
        self.built = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments that the model was built with."""
        inherited = self.density.parameters
        shared = ("flow", "event_shape", "levels", "base", "evaluation_log_det_estimator")
        return {name: inherited[name] for name in shared} | {
            "classifier": self.classifier,
            "density_weight": self.density_weight,
            "seed": self.seed,
            "name": self.name,
        }

    def trained_density(self) -> FlowModel | None:
        """Returns `density`, or None if `density_weight` is 0."""
        return self.density if self.density_weight > 0 else None

    @tf.autograph.experimental.do_not_convert
    def example_losses(
        self, batch: tuple[TensorLike, TensorLike], seed: Seed = None, *, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Returns the losses of each example that a training step minimizes or reports.

        Args:
          batch: `(x, labels)`: examples as for `FlowModel.log_prob`, and integers `[batch]`.
          seed: See `FlowModel.example_losses`, also for `training`.

        Returns:
          A dict of tensors `[batch]`: "loss"; "cross_entropy", in bits for integer data, else in nats; "accuracy",
          1 or 0; and, if `density_weight` is not 0, "bits_per_dim" or "nats".
        """
        x, labels = batch
        labels = tf.cast(labels, tf.int64)
        noise_seed, flow_seed = tf.unstack(split_seed(stateless_seed(seed), 2))
        z, log_q = self.data_space.dequantize(x, noise_seed)
        flow = self.flow
        arguments: dict[str, Any] = {"seed": flow_seed}
        if training:
            arguments["networks"] = self.networks(training=True)
        else:
            flow = bijectors.with_log_det_estimator(flow, self.density.evaluation_log_det_estimator)
        latent, log_det, features = bijectors.forward_features(flow, z, self.density_weight > 0, **arguments)
        logits = tf.cast(self.classifier(features, training=training), latent.dtype)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        if self.data_space.levels is not None:
            cross_entropy /= math.log(2.0)
        right = tf.equal(tf.argmax(logits, axis=-1), labels)
        losses = {"cross_entropy": cross_entropy, "accuracy": tf.cast(right, logits.dtype)}
        if self.density_weight > 0:
            log_prob = self.distribution.distribution.log_prob(latent) + log_det - log_q
            losses[self.data_space.unit] = self.data_space.to_loss(log_prob)
        return {"loss": self.total(losses), **losses}

    def total(self, losses: Mapping[str, Any]) -> Any:
        """Returns the loss: the cross entropy plus the weighted loss of the density."""
        if not self.density_weight:
            return losses["cross_entropy"]
        space = self.data_space
        dimensions = space.num_dimensions if space.levels is None else 1
        return losses["cross_entropy"] + self.density_weight / dimensions * losses[space.unit]

    def call(self, x: TensorLike) -> tf.Tensor:
        """Returns the probabilities `[batch, classes]`."""
        return self.classify(x)["probabilities"]

    @tf.autograph.experimental.do_not_convert
    def classify(self, x: TensorLike, *, networks: bijectors.Networks | None = None) -> dict[str, tf.Tensor]:
        """Returns "logits" and "probabilities" `[batch, classes]`. Integers become the centers of their cells."""
        arguments = {} if networks is None else {"networks": networks}
        x = self.data_space.centers(x)
        features = bijectors.forward_features(self.flow, x, compute_log_det=False, **arguments).features
        logits = self.classifier(features, training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def initialize(self, batch: TensorLike, seed: int = 0) -> None:
        """Initializes the ActNorms of the flow and of the classifier from examples without labels."""
        self.density.initialize(batch, seed)
        x = self.density.prepare(batch, stateless_seed(seed))
        features = bijectors.forward_features(self.flow, x, compute_log_det=False).features
        for layer in self.classifier.layers:
            if isinstance(layer, ActNormLayer):
                layer.act_norm.initialize(keras.Model(self.classifier.inputs, layer.input)(features))
