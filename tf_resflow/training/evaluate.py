"""Evaluation of a trained model, metric by metric, as in `resflow-evaluate`."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_resflow import data, evaluation
from tf_resflow.console import track
from tf_resflow.training.evaluation_metrics import METRICS
from tf_resflow.training.report import Report, known
from tf_resflow.training.runs import Run

__all__ = ["Evaluation"]


class Evaluation:
    """Evaluates a trained model. Each metric is a method that returns a part of the result.

    ```python
    run = resflow.load("runs/digits")
    data = resflow.data.load(run.config.data)
    evaluation = training.Evaluation(run, data, log_det_estimator="exact")
    print(evaluation.likelihood()["bits_per_dim"], evaluation.reconstruction())
    ```

    Args:
      run: A `Run` returned by `tf_resflow.load`. It is not modified.
      dataset: The `Dataset` of the run.
      log_det_estimator: Name of the estimator of the log-determinants, see
        `tf_resflow.models.evaluation_estimator`.
      num_probes: Number of probes per estimate.
      stderr: Target standard error of each example's score, in `unit`. The number of estimates per example is the
        one that the first batch needs, see `tf_resflow.evaluation.required_samples`.

    Attributes:
      unit: Unit of the scores of the density, "bits_per_dim" or "nats".
      log_det_estimator: Estimator of the log-determinants.
      num_samples: Number of estimates per example; None for the default.

    Raises:
      ValueError: If "adaptive_series" cannot be certified. Metrics of a density raise it for runs without one.
    """

    def __init__(
        self,
        run: Run,
        dataset: data.Dataset,
        *,
        log_det_estimator: str | None = None,
        num_probes: int | None = None,
        stderr: float | None = None,
    ):
        self._run, self._model, self._dataset, self._config = run, run.model, dataset, run.config
        self.unit = run.model.data_space.unit
        self._space = run.model.data_space
        self._name, self.log_det_estimator = run.estimator(log_det_estimator, num_probes, stderr=stderr)
        self.num_samples: int | None = None
        if stderr is not None:
            x, condition = self._first_batch
            given: dict[str, Any] = {"condition": condition, "log_det_estimator": self.log_det_estimator}
            nats = stderr * self._space.nats_per_unit
            self.num_samples = evaluation.required_samples(run.density, x, nats, **given)
        estimates = {"num_samples": self.num_samples, "log_det_estimator": self.log_det_estimator}
        self._report = Report(run.config, run.model, dataset, **estimates)

    @property
    def metrics(self) -> list[str]:
        """Names of the default metrics of the model."""
        return [name for name, metric in METRICS.items() if metric.is_default(self._model)]

    def header(self) -> dict[str, Any]:
        """Returns the "name", "split", "step", "unit" of the scores, "log_det_estimator", "num_probes"
        and, for a requested standard error, "num_samples".

        It adds the "dequantization" of integer data, and "checkpoint": "best" for the best weights on validation.
        """
        return self._report.header(self._run.step) | known(
            checkpoint="best" if self._run.is_best else None,
            unit=self.unit,
            log_det_estimator=self._name,
            num_probes=getattr(self.log_det_estimator, "num_probes", None),
            num_samples=self.num_samples,
        )

    def likelihood(self) -> dict[str, Any]:
        """Returns the score, its standard error, the baselines and the entropy. The keys are those of result.json.

        The "bound" is "elbo" for integer data, the mean of log p(z) - log q(z | x), else "none".
        """
        space, score = self._run.density.data_space, self._report.score()
        return {self.unit: score.mean, f"{self.unit}_stderr": score.stderr} | known(
            num_examples=score.num_examples,
            bound="none" if space.levels is None else "elbo",
            example_stderr=score.example_stderr,
            baselines=self._report.baselines,
            entropy=self._dataset.entropy,
        )

    def importance_weighted(self, num_samples: int = 16) -> dict[str, Any]:
        """Returns the bound from several dequantizations of integer data, see `evaluation.LogLikelihood`.

        "estimator_bias" is approximately the most that the noise of the log-determinants can lower the bound:
        (1 - 1/K) times half their variance in nats, in the unit of the score.
        """
        given: dict[str, Any] = {"num_samples": num_samples, "log_det_estimator": self.log_det_estimator}
        bound = evaluation.LogLikelihood(self._run.density, importance_weighted=True, **given)
        score = bound.score(track(self._report.batches(), "importance-weighted bound"), self._config.seed)
        variance = self._noise_of(self.log_det_estimator) ** 2
        result = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr} | known(
            bound="importance_weighted",
            num_samples=bound.num_samples,
            num_examples=score.num_examples,
            estimator_bias=-0.5 * self._space.nats_per_unit * variance * (1 - 1 / bound.num_samples),
        )
        return {"importance_weighted": result}

    def noise(self) -> dict[str, Any]:
        """Returns the `evaluation.EstimatorNoise` of the loss, with the estimators of training and evaluation."""
        estimators = {"training": None, "evaluation": self.log_det_estimator}
        return {"noise": {name: self._noise_of(estimator) for name, estimator in estimators.items()}}

    def reconstruction(self) -> dict[str, Any]:
        """Returns the result of `evaluation.reconstruct` for the first batch."""
        x, condition = self._first_batch
        result = evaluation.reconstruct(self._run.density, x, self._config.seed, condition=condition)
        return {"reconstruction": result._asdict()}

    def lipschitz(self) -> dict[str, Any]:
        """Returns the `evaluation.lipschitz_certificate` of the flow."""
        return {"lipschitz": evaluation.lipschitz_certificate(self._model.flow)}

    def fid(self, features: str | Callable[[np.ndarray], np.ndarray], num_samples: int = 10_000) -> dict[str, Any]:
        """Returns the Fréchet distance between samples and the training images.

        Args:
          features: Function of integer images that returns features `[batch, size]`; or the weights of
            `evaluation.InceptionFeatures`, for which the distance is the FID.
          num_samples: Number of samples, and maximum number of training images.
        """
        if isinstance(features, str):
            features = evaluation.InceptionFeatures(self._dataset.levels or 256, features)
        draw = tf.function(self._run.density.sample, autograph=False)
        batch_size = self._config.eval.batch_size
        images, samples = evaluation.FeatureMoments(), evaluation.FeatureMoments()
        has_condition, conditions = bool(self._model.condition), []
        train = self._dataset.eval_batches("train", batch_size, num_samples, labels=has_condition)
        for batch in track(train, "features of images"):
            x, condition = self._model.condition.split(batch)
            conditions.append(condition)
            images.update(features(x))
        given = np.resize(np.concatenate(conditions), num_samples + batch_size) if has_condition else None
        for index in track(range(math.ceil(num_samples / batch_size)), "features of samples"):
            seed = tf.constant([self._config.seed, index], tf.int32)
            labels = None if given is None else tf.constant(given[index * batch_size :][:batch_size])
            drawn = draw(batch_size, seed, condition=labels)
            samples.update(features(drawn[: num_samples - samples.num]))
        distance = evaluation.frechet_distance(samples, images)
        return {"fid": {"fid": distance, "num_samples": samples.num, "num_train": images.num}}

    def classification(self) -> dict[str, float]:
        """Returns the accuracy, cross-entropy and calibration error of a hybrid model's classifier.

        A density given labels classifies by the softmax of log p(x | label), for equally frequent classes. The keys
        are those of result.json; "cross_entropy" is in bits for integer data.
        """
        if self._model.condition.num_classes is None and self._model.classifier is None:
            raise ValueError(
                "The run has a density, but no classifier to evaluate. Train with config.task='hybrid'."
            )
        return self._report.classification()

    def _noise_of(self, log_det_estimator):
        x, condition = self._first_batch
        measure = evaluation.EstimatorNoise(self._run.density, log_det_estimator)
        return measure(x, self._config.seed, condition=condition)

    @functools.cached_property
    def _first_batch(self):
        return Report(self._config, self._model, self._dataset).first_batch()
