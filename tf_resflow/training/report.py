"""Report on a trained model: scores, baselines, figures and a summary line."""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_resflow import data, evaluation
from tf_resflow.bijectors.views import certified_bounds, uncertified_blocks
from tf_resflow.config_fields import ConfigDict
from tf_resflow.console import stage, track
from tf_resflow.evaluation import log_prob_by_class
from tf_resflow.evaluation.figures import density_figure
from tf_resflow.evaluation.reconstruction import round_trip
from tf_resflow.evaluation.sample_files import reconstruction_grid, write_png
from tf_resflow.evaluation.sampling import Sampler
from tf_resflow.evaluation.scores import PerExample, Score, classification_scores
from tf_resflow.messages import counted
from tf_resflow.models.keras_training import KerasTraining
from tf_resflow.writing import finite_or_none

_MAX_GAUSSIAN_SIZE = 4096  # largest number of coordinates for the Gaussian baseline
_MAX_GAUSSIAN_EXAMPLES = 100_000  # largest number of training examples for the Gaussian baseline
_NUM_FIGURE_POINTS = 20_000  # data points and samples in the 2-D figure


class Report:
    """Scores and figures of a model, computed with its weights at the time of each call.

    Args:
      strategy: The strategy that the model was built under.
      **estimates: `num_samples` and `log_det_estimator` of the scores, see `evaluation.LogLikelihood`.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: KerasTraining,
        dataset: data.Dataset,
        *,
        strategy: tf.distribute.Strategy | None = None,
        **estimates: Any,
    ):
        self._config, self._model, self._dataset = config, model, dataset
        self.unit, self.objective = model.data_space.unit, model.objective
        self._estimates, self._classify = known(**estimates), PerExample(self._logits_and_labels, strategy)
        self._density: Any = model.trained_density()
        if self._density is not None:
            self.likelihood = evaluation.LogLikelihood(self._density, strategy=strategy, **estimates)
            self._noise = evaluation.EstimatorNoise(self._density)
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
        return self.likelihood.score(track(self.batches(split), f"score on {split}"), self._config.seed)

    def scores(self, split: str | None = None) -> dict[str, float]:
        """Returns the scores on a split: of the density if it is trained, and of the classifier if there is one."""
        scores: dict[str, float] = {}
        if self._density is not None:
            score = self.score(split)
            scores = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr}
            examples, condition = self.first_batch(split)
            noise = self._noise(examples, self._config.seed, condition=condition)
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
        return log_prob_by_class(self._model, x, seed, **self._estimates), labels

    def sample_grid(self) -> np.ndarray | None:
        """Returns a grid of samples as a uint8 image, with one row per label if given labels; None for vectors."""
        if len(self._dataset.event_shape) != 3 or self._density is None:
            return None
        num, columns, labels = self._config.eval.num_samples, None, None
        if self._model.condition:
            columns = max(1, num // self._model.condition.num_classes)
            labels = np.repeat(np.arange(min(num, self._model.condition.num_classes)), columns)
            num = len(labels)
        return evaluation.image_grid(self._samples(num, labels), self._dataset.levels or 256, columns=columns)

    def _samples(self, num, condition=None):
        return np.concatenate(list(self._sampler(num, seed=self._config.seed, condition=condition)))

    @functools.cached_property
    def baselines(self) -> dict[str, float]:
        """The uniform and the Gaussian baseline. A missing Gaussian baseline is reported with a warning."""
        levels = self._dataset.levels
        baselines = {} if levels is None else {"uniform": math.log2(levels)}
        size, num = math.prod(self._dataset.event_shape), self._dataset.sizes.get("train", math.inf)
        if levels is not None and num <= size:
            # The covariance is singular. With the dequantization noise it gives a density, but a useless baseline.
            logging.warning(
                "There is no Gaussian baseline, because it needs more than %d training images; got %d.", size, num
            )
        elif size <= _MAX_GAUSSIAN_SIZE:
            with stage("Gaussian baseline"):
                test = np.concatenate([self._model.condition.split(batch)[0] for batch in self.batches()])
                baselines["gaussian"] = evaluation.gaussian_baseline(self._train_array(), test, levels)
        return baselines

    def header(self, step: int) -> dict[str, Any]:
        """Returns the entries that every result has."""
        place = {"name": self._dataset.name, "split": self._config.eval.split, "step": step}
        return place | known(dequantization=self._model.data_space.dequantization)

    def result(self, step: int, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the content of result.json without the figures, given the step and its `scores`."""
        baselines = self.baselines if self._density is not None else {}
        result = self.header(step) | {**scores, "baselines": baselines} | known(entropy=self._dataset.entropy)
        if bounds := certified_bounds(self._model.flow):
            result["lipschitz_bound"] = finite_or_none(max(bounds.values()))
        if uncertified := uncertified_blocks(self._model.flow):
            result["uncertified_blocks"] = uncertified
        return result

    def line(self, result: Mapping[str, Any]) -> str:
        """Returns a one-line summary of a result."""
        scores, against = [], []
        if "accuracy" in result:
            scores.append(f"accuracy {result['accuracy']:.2%} ± {result['accuracy_stderr']:.2%}")
            against.append(f"calibration error {result['calibration_error']:.3f}")
        if self.unit in result:
            mean, stderr = result[self.unit], result[f"{self.unit}_stderr"]
            scores.append(f"{mean:.3f} ± {stderr:.3f} {self.unit.replace('_per_', '/')}")
        against += [f"{name} {value:.3f}" for name, value in result["baselines"].items()]
        if "ended_by_patience" in result:
            against.append(f"ended by {result['ended_by_patience']} evaluations without a better one")
        steps = f"after {counted(result['step'], 'step')}"
        if "last_step" in result:
            steps = f"at step {result['step']:,}, the best of {result['last_step']:,} on validation"
        if "entropy" in result:
            against.append(f"entropy of the data {result['entropy']:.3f}")
        if "reconstruction_error" in result:
            against.append(f"reconstruction error {result['reconstruction_error']:.1e} levels")
        examples = counted(result["num_examples"], f"{result['split']} example")
        against = against or ["no baseline"]
        return f"{result['name']}: {', '.join(scores)} on {examples} {steps} ({'; '.join(against)})"

    def warning(self, result: Mapping[str, Any], *, best: int, last: int) -> str | None:
        """Returns advice if the density scores worse than a baseline, else None. `best` and `last` are steps."""
        score, baselines = result.get(self.unit), result["baselines"]
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
        levels, num = self._dataset.levels or 256, self._config.eval.num_samples
        images, condition = (None if rows is None else rows[:num] for rows in self.first_batch())
        x = self._density.prepare(images, tf.constant([self._config.seed, 1], tf.int32))
        again = round_trip(self._density, x, condition)[0]
        pair = np.asarray(images), self._model.data_space.to_data(again).numpy()
        write_png(path, reconstruction_grid(*pair, levels))
        return {"reconstruction_error": float(tf.reduce_max(tf.abs(again - x)) * levels)}

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


def known(**values: Any) -> dict[str, Any]:
    """Returns a dict of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
