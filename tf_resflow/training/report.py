"""What is said about a trained model: scores, baselines, figures and one line."""

import functools
import math

import numpy as np
import tensorflow as tf
from scipy import special

from tf_resflow import data, evaluation

__all__ = ["Report"]

_MAX_GAUSSIAN_SIZE = 4096  # coordinates up to which the Gaussian baseline is computed
_NUM_FIGURE_POINTS = 20_000  # data and samples in the 2-D figure


class Report:
    """Scores and figures of a model, with the weights that it has at that time.

    Args:
      config: the run's configuration.
      model: a `FlowModel`.
      dataset: the `Dataset` of the run.
      strategy: the strategy that the model was built under.
    """

    def __init__(self, config, model, dataset, strategy=None):
        self._config, self._model, self._dataset = config, model, dataset
        self._is_hybrid = config.task == "hybrid"
        self._has_density = not self._is_hybrid or config.hybrid.density_weight > 0
        self.unit = model.unit
        self.objective = "loss" if self._is_hybrid else self.unit
        self._held_out = evaluation.HeldOut(model, strategy)
        self._log_probs = evaluation.PerExample(functools.partial(model.log_prob, evaluation=True), strategy)
        self._classify = evaluation.PerExample(self._logits_and_labels, strategy)
        self._noise = evaluation.EstimatorNoise(model)
        self._sample = tf.function(model.sample, autograph=False)

    def score(self):
        """Returns the held-out `Score` on `config.eval.split`."""
        return self._held_out(self._batches(), self._config.seed)

    def scores(self):
        """Returns a dict of the held-out scores: those of the density, and those of the classifier.

        A hybrid model without a density, of weight 0, has the latter alone. "cross_entropy" is in bits for integer
        data, so that with the density's loss it makes up the "loss".
        """
        scores = {}
        if self._has_density:
            score = self.score()
            scores = {self.unit: score.mean, f"{self.unit}_stderr": score.stderr}
            scores |= {"num_examples": score.num_examples, "estimator_std": self.estimator_std()}
        if self._is_hybrid:
            scores |= self._classification()
            scores["loss"] = self._model.objective(scores)
        return scores

    def ood(self, dataset):
        """Compares the model's view of its held-out data with its view of other data.

        Args:
          dataset: a `Dataset` whose examples are like the model's: their split `config.eval.split` is used.

        Returns:
          A dict of the "name" and the number of other examples, and of the `evaluation.ood_auroc` of log p(x),
          "auroc_log_prob", and of the largest class probability of a hybrid model, "auroc_max_probability".

        Raises:
          ValueError: when the examples differ in their shape or their levels.
        """
        kinds = [(d.event_shape, d.levels) for d in (self._dataset, dataset)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"The model takes examples of shape {kinds[0][0]} with {kinds[0][1]} levels; those of "
                f"{dataset.name!r} have the shape {kinds[1][0]} and {kinds[1][1]} levels."
            )
        ours, theirs = self._views(self._dataset), self._views(dataset)
        result = {"name": dataset.name, "num_examples": len(next(iter(theirs.values())))}
        return result | {f"auroc_{view}": evaluation.ood_auroc(ours[view], theirs[view]) for view in ours}

    def estimator_std(self):
        """Returns the standard deviation of the training estimate of a held-out example's loss."""
        examples = next(iter(self._batches()))
        return self._noise(examples, self._config.seed)

    def sample_grid(self):
        """Returns a grid of samples as a uint8 image, or None for vectors."""
        if len(self._dataset.event_shape) != 3:
            return None
        seed = tf.constant([self._config.seed, 0], tf.int32)
        samples = self._sample(self._config.eval.num_samples, seed).numpy()
        return evaluation.image_grid(samples, self._dataset.levels)

    @functools.cached_property
    def baselines(self):
        """A dict of the uniform and the Gaussian baseline, where they exist."""
        levels = self._dataset.levels
        baselines = {} if levels is None else {"uniform": evaluation.uniform_baseline(levels)}
        if math.prod(self._dataset.event_shape) <= _MAX_GAUSSIAN_SIZE:
            test = np.concatenate(list(self._batches()))
            baselines["gaussian"] = evaluation.gaussian_baseline(self._train_array(), test, levels)
        return baselines

    def result(self, step, scores):
        """Returns the result as a dict.

        Args:
          step: training steps taken.
          scores: what `scores` gave at that step.
        """
        result = {
            "name": self._dataset.name,
            "split": self._config.eval.split,
            "step": step,
            **scores,
            "baselines": self.baselines if self._has_density else {},
        }
        bounds = evaluation.lipschitz_bounds(self._model.flow)
        if bounds:
            result["lipschitz_bound"] = max(bounds.values())
        if self._dataset.entropy is not None:
            result["entropy"] = self._dataset.entropy
        return result

    def line(self, result):
        """Returns the result in one line."""
        scores, against = [], []
        if "accuracy" in result:
            scores.append(f"accuracy {result['accuracy']:.2%} ± {result['accuracy_stderr']:.2%}")
            against.append(f"calibration error {result['calibration_error']:.3f}")
        if self.unit in result:
            mean, stderr = result[self.unit], result[f"{self.unit}_stderr"]
            scores.append(f"{mean:.3f} ± {stderr:.3f} {self.unit.replace('_per_', '/')}")
        against += [f"{name} {value:.3f}" for name, value in result["baselines"].items()]
        if "entropy" in result:
            against.append(f"entropy of the data {result['entropy']:.3f}")
        if "reconstruction_error" in result:
            against.append(f"reconstruction error {result['reconstruction_error']:.1e} levels")
        return (
            f"{result['name']}: {', '.join(scores)} on {result['num_examples']:,} {result['split']} examples "
            f"after {result['step']:,} steps ({'; '.join(against)})"
        )

    def figures(self, directory):
        """Writes the figures.

        Args:
          directory: an existing directory.

        Returns:
          A dict of what was measured on the way, such as the `reconstruction_error` in levels.
        """
        if len(self._dataset.event_shape) == 3:
            evaluation.write_png(directory / "samples.png", self.sample_grid())
            return self._reconstructions(directory / "reconstructions.png")
        if self._dataset.event_shape == (2,):
            self._density(directory / "density_2d.png")
        return {}

    def _reconstructions(self, path):
        levels, num = self._dataset.levels, self._config.eval.num_samples
        images = next(iter(self._batches()))[:num]
        x = data.dequantize(images, levels, tf.constant([self._config.seed, 1], tf.int32))
        again = tf.function(self._model.reconstruct, autograph=False)(x)
        pair = images.numpy(), data.quantize(again, levels).numpy()
        evaluation.write_png(path, evaluation.reconstruction_grid(*pair, levels))
        return {"reconstruction_error": float(tf.reduce_max(tf.abs(again - x)) * levels)}

    def _density(self, path):
        seed = tf.constant([self._config.seed, 2], tf.int32)
        samples = self._sample(_NUM_FIGURE_POINTS, seed).numpy()

        @tf.function(autograph=False, reduce_retracing=True)
        def log_prob(x):
            return self._model.log_prob(x, seed, evaluation=True)

        points = self._train_array()[:_NUM_FIGURE_POINTS]
        evaluation.density_figure(path, points, samples, log_prob, "density of the model")

    def _classification(self):
        logits, labels = self._classify(self._batches(labels=True), self._config.seed)
        scores = evaluation.classification_scores(logits, labels)._asdict()
        if self._dataset.levels is not None:
            scores["cross_entropy"] /= math.log(2)
        return scores

    def _logits_and_labels(self, batch, seed):
        del seed
        return self._model.classify(batch[0])["logits"], batch[1]

    def _views(self, dataset):
        """What the model says of each example that is to be higher for its own data."""
        views = {}
        if self._has_density:
            views["log_prob"] = self._log_probs(self._batches(dataset), self._config.seed)
        if self._is_hybrid:
            logits, _ = self._classify(self._batches(dataset, labels=True), self._config.seed)
            views["max_probability"] = special.softmax(logits.astype(np.float64), axis=-1).max(-1)
        return views

    def _batches(self, dataset=None, labels=False):
        settings = self._config.eval
        limit = settings.num_examples or None
        dataset = dataset or self._dataset
        return dataset.eval_batches(settings.split, settings.batch_size, limit, labels)

    def _train_array(self):
        """All train examples, or as many fresh ones as the figure takes if they have no end."""
        if "train" in self._dataset.sizes:
            return self._dataset.array("train")
        return next(iter(self._dataset.train_batches(_NUM_FIGURE_POINTS, seed=0))).numpy()
