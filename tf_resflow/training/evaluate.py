"""Evaluation of a trained model, metric by metric, as in `resflow-evaluate`."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import data, evaluation
from tf_resflow.console import track
from tf_resflow.evaluation.estimator_noise import stderr_parts
from tf_resflow.evaluation.planning import held_out_plan
from tf_resflow.models.build import check_only_stderr
from tf_resflow.training.evaluation_metrics import METRICS
from tf_resflow.training.report import Report, known
from tf_resflow.training.runs import Run

__all__ = ["Evaluation"]

_NOISE_DRAWS = {"dequantizations": 2, "draws": 4}  # measures standard deviations to a few percent with 100 examples


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
      stderr: Target standard error of each example's score, in `unit`. Replaces `log_det_estimator` and
        `num_probes` by a plan for the first batch, see `tf_resflow.evaluation.plan_likelihood`.

    Attributes:
      unit: Unit of the scores of the density, "bits_per_dim" or "nats".
      plan: The `LikelihoodPlan` of the evaluation.

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
        check_only_stderr(stderr, log_det_estimator, num_probes)
        self._stderr: Any = stderr
        if stderr is not None:
            self._name, self.plan = "planned", self._make_plan()
        else:
            self._name, estimator = run.estimator(log_det_estimator, num_probes)
            self.plan = held_out_plan(run.model, estimator)
        self._report = Report(run.config, run.model, dataset, plan=self.plan)

    def _make_plan(self, **options):
        x, condition = self._first_batch
        nats = self._stderr * self._space.nats_per_unit
        return evaluation.plan_likelihood(self._run.density, x, nats, condition=condition, **options)

    @property
    def metrics(self) -> list[str]:
        """Names of the default metrics of the model."""
        return [name for name, metric in METRICS.items() if metric.is_default(self._model)]

    def header(self) -> dict[str, Any]:
        """Returns the "name", "split", "step", "unit" of the scores, "log_det_estimator", "num_probes" or "plan".

        It adds the "dequantization" of integer data, and "checkpoint": "best" for the best weights on validation.
        """
        return self._report.header(self._run.step) | known(
            checkpoint="best" if self._run.is_best else None,
            unit=self.unit,
            log_det_estimator=self._name,
            plan=None if self.plan.stderr is None else self.plan.as_dict(),
            num_probes=getattr(self.plan.log_det_estimator, "num_probes", None),
        )

    def likelihood(self) -> dict[str, Any]:
        """Returns the score, its standard error and the parts of this error, the baselines and the entropy.

        The keys are those of result.json and "bits_per_dim_stderr_parts" (or "nats_..."), the contributions of the
        "data", the "dequantization" and the "estimator". The "bound" is "elbo" for integer data, the mean of
        log p(z) - log q(z | x); "importance_weighted" for discrete columns, whose error has no parts; else "none".
        """
        noise, score = self._evaluation_noise, self._report.score()
        bound = "none" if self._space.levels is None else "elbo"
        result: dict[str, Any] = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr}
        if self._space.cells is not None:
            bound = "importance_weighted"
        else:
            result[f"{self.unit}_stderr_parts"] = stderr_parts(score, noise, self._report.likelihood.num_samples)
        return result | known(
            num_examples=score.num_examples,
            bound=bound,
            example_stderr=score.example_stderr,
            baselines=self._report.baselines,
            entropy=self._dataset.entropy,
        )

    def importance_weighted(self, num_samples: int = 16) -> dict[str, Any]:
        """Returns the bound from several dequantizations of integer data, see `evaluation.LogLikelihood`.

        "estimator_bias" is approximately the most that the noise of the log-determinants can lower the bound:
        (1 - 1/K) times half their variance in nats, in the unit of the score. A bias above the standard error logs
        a warning. With `stderr`, the "plan" reaches this standard error for each dequantization, not for the mean.
        """
        log_det, is_planned = self.bound_plan.log_det_estimator, self.bound_plan.stderr is not None
        noise = self._noise_of(log_det) if is_planned else self._evaluation_noise
        measured = noise.dequantization_std * self._space.nats_per_unit
        plan = evaluation.LikelihoodPlan(
            log_det_estimator=log_det, num_samples=num_samples, dequantization_std=measured
        )
        bound = evaluation.LogLikelihood(self._run.density, plan, importance_weighted=True)
        score = bound.score(track(self._report.batches(), "importance-weighted bound"), self._config.seed)
        bias = -0.5 * self._space.nats_per_unit * noise.estimator_std**2 * (1 - 1 / bound.num_samples)
        if -bias > score.stderr:
            logging.warning(
                "The noise of the log-determinants may have lowered the importance-weighted score by up to %.2g, "
                "above its standard error %.2g. Use exact log-determinants, more probes or a smaller stderr.",
                *(-bias, score.stderr),
            )
        result = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr} | known(
            bound="importance_weighted",
            num_samples=bound.num_samples,
            num_examples=score.num_examples,
            estimator_bias=bias,
            plan=self.bound_plan.as_dict() if is_planned else None,
        )
        return {"importance_weighted": result}

    @functools.cached_property
    def bound_plan(self) -> evaluation.LikelihoodPlan:
        """Plan of each dequantization in `importance_weighted`. With `stderr`, it is measured on first access."""
        return self.plan if self.plan.stderr is None else self._make_plan(num_samples=1)

    def noise(self) -> dict[str, Any]:
        """Returns the `evaluation.EstimatorNoise` of the loss, with the estimators of training and evaluation."""
        training = self._noise_of(None)._asdict()
        return {"noise": {"training": training, "evaluation": self._evaluation_noise._asdict()}}

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

    @functools.cached_property
    def _evaluation_noise(self):
        return self._noise_of(self.plan.log_det_estimator)

    def _noise_of(self, log_det_estimator):
        measure = evaluation.EstimatorNoise(self._run.density, log_det_estimator, **_NOISE_DRAWS)
        x, condition = self._first_batch
        return measure(x, self._config.seed, condition=condition)

    @functools.cached_property
    def _first_batch(self):
        return Report(self._config, self._model, self._dataset).first_batch()
