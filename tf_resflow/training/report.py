"""Evaluation of a model during and after its training: scores, baselines, figures and a summary line."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import data, evaluation
from tf_resflow._internal.console import stage, track
from tf_resflow._internal.messages import counted
from tf_resflow._internal.writing import finite_or_none
from tf_resflow.bijectors.flow import residual_blocks
from tf_resflow.bijectors.views import blocks_by_name, certified_bound, uncertified_blocks
from tf_resflow.evaluation.figures import density_figure
from tf_resflow.evaluation.log_likelihood import Score
from tf_resflow.evaluation.reconstruction import round_trip
from tf_resflow.evaluation.sample_files import reconstruction_grid, write_png
from tf_resflow.evaluation.sampling import Sampler
from tf_resflow.evaluation.scores import PerExample, classification_scores
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.training.build import estimator_name
from tf_resflow.training.config_fields import ConfigDict
from tf_resflow.training.runs import Run

_MAX_GAUSSIAN_SIZE = 4096  # largest number of coordinates for the Gaussian baseline
_MAX_GAUSSIAN_EXAMPLES = 100_000  # largest number of training examples for the Gaussian baseline
_NUM_FIGURE_POINTS = 20_000  # data points and samples in the 2-D figure


class Report:
    """Scores and figures of a model, computed with its weights at the time of each call.

    Args:
      strategy: The strategy that the model was built under.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: KerasTraining,
        dataset: data.Dataset,
        *,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._config = config
        self._model = model
        self._dataset = dataset
        self.unit = model.data_space.unit
        self.objective = model.objective
        self._classify = PerExample(self._logits_and_labels, strategy)
        self._density: Any = model.trained_density()
        if self._density is not None:
            self._likelihood = evaluation.LogLikelihood(self._density, strategy=strategy)
            self._training_likelihood = evaluation.LogLikelihood(self._density, log_det_estimator={})
            self._sampler = Sampler(self._density)

    @property
    def selection_split(self) -> str:
        """The split that is scored during training: "validation" if available, else `config.eval.split`."""
        return "validation" if "validation" in self._dataset.sizes else self._config.eval.split

    def batches(self, split: str | None = None, *, labels: bool = False) -> tf.data.Dataset:
        """Returns batches of the first `config.eval.num_examples` of a split, with labels for a model of labels."""
        settings = self._config.eval
        limit = settings.num_examples or None
        labels = labels or bool(self._model.condition)
        return self._dataset.eval_batches(split or settings.split, settings.batch_size, limit, labels=labels)

    def first_batch(self, split: str | None = None) -> tuple[Any, Any]:
        """Returns the examples and the condition of the first batch of a split."""
        return self._model.condition.split(next(iter(self.batches(split))))

    def score(self, split: str | None = None) -> Score:
        """Returns the `Score` on a split, by default `config.eval.split`."""
        split = split or self._config.eval.split
        return self._likelihood.score(track(self.batches(split), f"score on {split}"), self._config.seed)

    def scores(self, split: str | None = None) -> dict[str, float]:
        """Returns the scores on a split: of the density if it is trained, and of the classifier if there is one."""
        scores: dict[str, float] = {}
        if self._density is not None:
            score = self.score(split)
            scores = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr}
            examples, condition = self.first_batch(split)
            noise = self._training_likelihood.noise(examples, self._config.seed, condition)
            scores |= {"num_examples": score.num_examples, "estimator_std": noise}
        if self._model.classifier is not None:
            scores |= self.classification(split)
        return scores | {self.objective: self._model.total(scores)}

    def classification(self, split: str | None = None) -> dict[str, float]:
        """Returns accuracy, cross-entropy and calibration error of the classifier or the density given labels."""
        batches = track(self.batches(split, labels=True), "classes")
        logits, labels = self._classify(batches, self._config.seed)
        scores = classification_scores(logits, labels)
        if self._dataset.levels is not None:
            scores["cross_entropy"] /= math.log(2)  # in bits, like the density's loss
        return scores

    def _logits_and_labels(self, batch, seed):
        x, labels = batch
        if self._model.classifier is not None:
            return self._model.classify(x)["logits"], labels
        return self._likelihood.by_class(x, seed), labels

    def sample_grid(self) -> np.ndarray | None:
        """Returns a grid of samples as a uint8 image, with one row per label if given labels; None for vectors."""
        if len(self._dataset.event_shape) != 3 or self._density is None:
            return None
        num = self._config.eval.num_samples
        columns = None
        labels = None
        if self._model.condition:
            num_classes = self._model.condition.num_classes
            columns = max(1, num // num_classes)
            labels = np.repeat(np.arange(min(num, num_classes)), columns)
            num = len(labels)
        return evaluation.image_grid(self._samples(num, labels), self._dataset.levels or 256, columns=columns)

    def _samples(self, num, condition=None):
        return np.concatenate(list(self._sampler(num, seed=self._config.seed, condition=condition)))

    @functools.cached_property
    def baselines(self) -> dict[str, float]:
        """The uniform and the Gaussian baseline. A missing Gaussian baseline is reported with a warning."""
        levels = self._dataset.levels
        baselines = {} if levels is None else {"uniform": math.log2(levels)}
        size = math.prod(self._dataset.event_shape)
        num_train = self._dataset.sizes.get("train", math.inf)
        if levels is not None and num_train <= size:
            # The covariance is singular. With the dequantization noise it gives a density, but a useless baseline.
            logging.warning(
                "There is no Gaussian baseline, because it needs more than %d training images; got %d.",
                size,
                num_train,
            )
        elif size <= _MAX_GAUSSIAN_SIZE:
            with stage("Gaussian baseline"):
                test = np.concatenate([self._model.condition.split(batch)[0] for batch in self.batches()])
                baselines["gaussian"] = evaluation.gaussian_baseline(self._train_array(), test, levels)
        return baselines

    def _origin(self, step):
        """Returns the entries that every result has."""
        origin = {"name": self._dataset.name, "split": self._config.eval.split, "step": step}
        return origin | known(dequantization=self._model.data_space.dequantization)

    def result(self, step: int, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the content of result.json without the figures, given the step and its `scores`."""
        baselines = self.baselines if self._density is not None else {}
        result = self._origin(step) | {**scores, "baselines": baselines} | known(entropy=self._dataset.entropy)
        blocks = blocks_by_name(self._model.flow).values()
        bounds = [certified_bound(block) for block in track(blocks, "Lipschitz bounds of the blocks")]
        if bounds:
            result["lipschitz_bound"] = finite_or_none(max(bounds))
        uncertified = uncertified_blocks(self._model.flow)
        if uncertified:
            result["uncertified_blocks"] = uncertified
        return result

    def line(self, result: Mapping[str, Any]) -> str:
        """Returns a one-line summary of a result."""
        scores = []
        remarks = []
        if "accuracy" in result:
            scores.append(f"accuracy {result['accuracy']:.2%} ± {result['accuracy_stderr']:.2%}")
            remarks.append(f"calibration error {result['calibration_error']:.3f}")
        if self.unit in result:
            mean = result[self.unit]
            stderr = result[f"{self.unit}_stderr"]
            scores.append(f"{mean:.3f} ± {stderr:.3f} {self.unit.replace('_per_', '/')}")
        remarks += [f"{name} {value:.3f}" for name, value in result["baselines"].items()]
        if "ended_by_patience" in result:
            remarks.append(f"ended by {result['ended_by_patience']} evaluations without a better one")
        steps = f"after {counted(result['step'], 'step')}"
        if "last_step" in result:
            steps = f"at step {result['step']:,}, the best of {result['last_step']:,} on validation"
        if "entropy" in result:
            remarks.append(f"entropy of the data {result['entropy']:.3f}")
        if "reconstruction_error" in result:
            remarks.append(f"reconstruction error {result['reconstruction_error']:.1e} levels")
        examples = counted(result["num_examples"], f"{result['split']} example")
        remarks = remarks or ["no baseline"]
        return f"{result['name']}: {', '.join(scores)} on {examples} {steps} ({'; '.join(remarks)})"

    def warning(self, result: Mapping[str, Any], *, best: int, last: int) -> str | None:
        """Returns advice if the density scores worse than a baseline, else None. `best` and `last` are steps."""
        score = result.get(self.unit)
        baselines = result["baselines"]
        name = min(baselines, key=baselines.get, default=None)
        if name is None or score is None or not score > baselines[name]:
            return None
        unit = self.unit.replace("_per_", "/")
        below = f"The model scores {score:.3f} {unit}, but the {name} baseline is better: {baselines[name]:.3f}."
        if best == last:
            return f"{below} No earlier step was better. Increase train.steps or train.learning_rate."
        return (
            f"{below} Step {best:,} of {last:,} was best, so the model overfits. Set train.keep_best=True, or try "
            "fewer blocks (model.num_blocks), a smaller train.eval_every, or more data."
        )

    def figures(self, directory: pathlib.Path) -> dict[str, float]:
        """Writes the figures. Returns the `reconstruction_error` of images for the result."""
        grid = self.sample_grid()
        if grid is not None:
            write_png(directory / "samples.png", grid)
            return self._reconstructions(directory / "reconstructions.png")
        if self._dataset.event_shape == (2,) and self._density is not None and not self._model.condition:
            self._plane(directory / "density_2d.png")
        return {}

    def _reconstructions(self, path):
        levels = self._dataset.levels or 256
        num = self._config.eval.num_samples
        images, condition = (None if rows is None else rows[:num] for rows in self.first_batch())
        x = self._density.prepare(images, tf.constant([self._config.seed, 1], tf.int32))
        decoded, _ = round_trip(self._density, x, condition)
        decoded_images = self._model.data_space.to_data(decoded).numpy()
        write_png(path, reconstruction_grid(np.asarray(images), decoded_images, levels))
        return {"reconstruction_error": float(tf.reduce_max(tf.abs(decoded - x)) * levels)}

    def _plane(self, path):
        seed = tf.constant([self._config.seed, 2], tf.int32)
        samples = self._samples(_NUM_FIGURE_POINTS)

        @tf.function(autograph=False, reduce_retracing=True)
        def log_prob(x):
            return self._density.log_prob(x, seed, evaluation=True)

        points = self._train_array()[:_NUM_FIGURE_POINTS]
        density_figure(path, points, samples, log_prob)

    def _train_array(self):
        """Returns the training examples; from an endless stream, as many as the figure shows."""
        if "train" in self._dataset.sizes:
            return self._dataset.array("train", _MAX_GAUSSIAN_EXAMPLES)
        return next(iter(self._dataset.train_batches(_NUM_FIGURE_POINTS, seed=0))).numpy()


class Evaluation(Report):
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
        `tf_resflow.training.build_estimator`.
      num_probes: Number of probes per estimate.
      stderr: Target standard error of each example's score, in `unit`. The number of estimates per example is the
        one that the first batch needs, see `tf_resflow.evaluation.LogLikelihood`.

    Attributes:
      unit: Unit of the scores of the density, "bits_per_dim" or "nats".
      log_det_estimator: Estimator of the log-determinants.
      num_samples: Number of estimates per example; None for the default.

    Raises:
      ValueError: If `log_det_estimator` is unknown. Metrics of a density raise it for runs without one.
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
        super().__init__(run.config, run.model, dataset)
        self._run = run
        in_nats = None if stderr is None else stderr * run.model.data_space.nats_per_unit
        self.log_det_estimator = run.log_det_estimator(log_det_estimator, num_probes)
        self.num_samples: int | None = None
        if self._density is not None or stderr is not None:
            self._likelihood = run.likelihood(
                log_det_estimator, num_probes, in_nats, lambda: next(iter(self.batches()))
            )
            self.log_det_estimator = self._likelihood.log_det_estimator
            self.num_samples = self._likelihood.num_samples

    @property
    def metrics(self) -> list[str]:
        """Names of the default metrics of the model."""
        names = ["likelihood", "noise", "reconstruction"] if self._density is not None else []
        names += ["lipschitz"] if residual_blocks(self._model.flow) else []
        return [*names, "classification"] if self._model.classifier is not None else names

    def header(self) -> dict[str, Any]:
        """Returns the "name", "split", "step", "unit" of the scores, "log_det_estimator", "num_probes"
        and, for a requested standard error, "num_samples".

        It adds the "dequantization" of integer data, and "checkpoint": "best" for the best weights on validation.
        """
        return self._origin(self._run.step) | known(
            checkpoint="best" if self._run.is_best else None,
            unit=self.unit,
            log_det_estimator=estimator_name(self.log_det_estimator),
            num_probes=getattr(self.log_det_estimator, "num_probes", None),
            num_samples=self.num_samples,
        )

    def likelihood(self) -> dict[str, Any]:
        """Returns the score, its standard error, the baselines and the entropy. The keys are those of result.json.

        The "bound" is "elbo" for integer data, the mean of log p(z) - log q(z | x), else "none".
        """
        space = self._run.density.data_space
        score = self.score()
        return {self.unit: score.mean, f"{self.unit}_stderr": score.stderr} | known(
            num_examples=score.num_examples,
            bound="none" if space.levels is None else "elbo",
            example_stderr=score.example_stderr,
            baselines=self.baselines,
            entropy=self._dataset.entropy,
        )

    def importance_weighted(self, num_samples: int = 16) -> dict[str, Any]:
        """Returns the bound from several dequantizations of integer data, see `evaluation.LogLikelihood`.

        "estimator_bias" is approximately the most that the noise of the log-determinants can lower the bound:
        (1 - 1/K) times half their variance in nats, in the unit of the score.
        """
        bound = evaluation.LogLikelihood(
            self._run.density,
            num_samples=num_samples,
            log_det_estimator=self.log_det_estimator,
            importance_weighted=True,
        )
        score = bound.score(track(self.batches(), "importance-weighted bound"), self._config.seed)
        variance = self._noise_of(self._likelihood) ** 2
        result = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr} | known(
            bound="importance_weighted",
            num_samples=num_samples,
            num_examples=score.num_examples,
            estimator_bias=-0.5 * self._model.data_space.nats_per_unit * variance * (1 - 1 / num_samples),
        )
        return {"importance_weighted": result}

    def noise(self) -> dict[str, Any]:
        """Returns the `noise` of the loss by the estimators of training and evaluation, see `LogLikelihood`."""
        training = evaluation.LogLikelihood(self._run.density, log_det_estimator={})
        return {"noise": {"training": self._noise_of(training), "evaluation": self._noise_of(self._likelihood)}}

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
        images = evaluation.FeatureMoments()
        samples = evaluation.FeatureMoments()
        has_condition = bool(self._model.condition)
        conditions = []
        train = self._dataset.eval_batches("train", batch_size, num_samples, labels=has_condition)
        for batch in track(train, "features of images"):
            x, condition = self._model.condition.split(batch)
            conditions.append(condition)
            images.update(features(x))
        if has_condition:  # as many as samples, in the order of the images
            conditions_of_samples = np.resize(np.concatenate(conditions), num_samples + batch_size)
        for index in track(range(math.ceil(num_samples / batch_size)), "features of samples"):
            seed = tf.constant([self._config.seed, index], tf.int32)
            condition = None
            if has_condition:
                condition = tf.constant(conditions_of_samples[index * batch_size :][:batch_size])
            drawn = draw(batch_size, seed, condition=condition)
            samples.update(features(drawn[: num_samples - samples.num]))
        distance = evaluation.frechet_distance(samples, images)
        return {"fid": {"fid": distance, "num_samples": samples.num, "num_train": images.num}}

    def classification(self, split: str | None = None) -> dict[str, float]:
        """Returns the accuracy, cross-entropy and calibration error of a hybrid model's classifier.

        A density given labels classifies by the softmax of log p(x | label), for equally frequent classes. The keys
        are those of result.json; "cross_entropy" is in bits for integer data.
        """
        if self._model.condition.num_classes is None and self._model.classifier is None:
            raise ValueError(
                "The run has a density, but no classifier to evaluate. Train with config.task='hybrid'."
            )
        return super().classification(split)

    def _noise_of(self, likelihood):
        x, condition = self._first_batch
        return likelihood.noise(x, self._config.seed, condition)

    @functools.cached_property
    def _first_batch(self):
        return self.first_batch()


def known(**values: Any) -> dict[str, Any]:
    """Returns a dict of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
