"""The evaluation of a trained model behind `resflow-evaluate`, metric by metric."""

import functools
import math

import tensorflow as tf

from tf_resflow import bijectors, evaluation, models
from tf_resflow.progress import track
from tf_resflow.training.report import Report

__all__ = ["Evaluation", "default_metrics"]

_NOISE_DRAWS = {"dequantizations": 4, "draws": 8}


def default_metrics(model):
    """The names of the metrics that suit a model.

    None of a density that is not trained, and no Lipschitz constants where there is no residual block.

    Args:
      model: a `FlowModel` of `tf_resflow.load`.

    Returns:
      A list of `str`.
    """
    names = ["classification"] if isinstance(model, models.HybridModel) else []
    names += ["likelihood", "noise"] if model.has_density else []
    return names + ["reconstruction"] + (["lipschitz"] if bijectors.residual_blocks(model.flow) else [])


class Evaluation:
    """Measures a trained model; each metric is a method that returns a part of the result.

    ```python
    model = resflow.load("runs/digits")
    evaluation = training.Evaluation(model, resflow.data.load(model.config.data), log_det="exact")
    print(evaluation.likelihood()["bits_per_dim"], evaluation.reconstruction())
    ```

    Args:
      model: a `FlowModel` of `tf_resflow.load`.
      dataset: the `Dataset` of its run.
      log_det: how log-determinants are evaluated. a name of `tf_resflow.models.evaluation_estimator`.
      num_probes: probe vectors for each example of "russian_roulette" and "adaptive".

    Raises:
      ValueError: when "adaptive" cannot be certified, or a value is unknown.
    """

    def __init__(self, model, dataset, log_det=None, num_probes=1):
        self._model, self._dataset, self._config = model, dataset, model.config
        self._num_probes = num_probes
        self._log_det, estimator = models.evaluation_estimator(
            self._config, model.flow, model.event_shape, name=log_det, num_probes=num_probes
        )
        model.evaluation_distribution = bijectors.with_log_det(model.distribution, estimator)
        self._report = Report(model.config, model, dataset)
        self.unit = self._report.unit

    def header(self):
        """What was evaluated: "name", "split", "step", "unit" of the scores, "log_det" and "num_probes"."""
        return {
            "name": self._dataset.name,
            "split": self._config.eval.split,
            "step": self._model.step,
            "unit": self.unit,
            "log_det": self._log_det,
            "num_probes": self._num_probes,
        }

    def likelihood(self):
        """The score, its standard error and the error's parts, the baselines and the entropy.

        The keys are those of the training's result.json, and "bits_per_dim_stderr_parts" (or "nats_..."),
        see `evaluation.stderr_parts`.
        """
        score = self._report.score()
        result = {
            self.unit: score.mean,
            f"{self.unit}_stderr": score.stderr,
            f"{self.unit}_stderr_parts": evaluation.stderr_parts(score, self._evaluation_noise),
            "num_examples": score.num_examples,
            "baselines": self._report.baselines,
        }
        if self._dataset.entropy is not None:
            result["entropy"] = self._dataset.entropy
        return result

    def importance_weighted(self, num_samples=16):
        """The bound of several dequantisations, see `evaluation.HeldOut`; for integer data.

        "estimator_bias" is about how much, at most, the noise of the log-determinants lowers it:
        (1 - 1 / K) times half their variance in nats, on the scale of the score.
        """
        bound = evaluation.HeldOut(self._model, num_samples=num_samples)
        batches = track(self._report.batches(), "importance-weighted bound")
        score = bound(batches, self._config.seed)
        nats = self._model.num_dimensions * math.log(2.0)
        bias = -0.5 * nats * self._evaluation_noise.estimator_std**2 * (1 - 1 / num_samples)
        return {
            "importance_weighted": {
                self.unit: score.mean,
                f"{self.unit}_stderr": score.stderr,
                "num_samples": num_samples,
                "num_examples": score.num_examples,
                "estimator_bias": bias,
            }
        }

    def noise(self):
        """The `evaluation.Noise` of the training's and of this evaluation's estimate of a loss."""
        training = self._noise_of("training")._asdict()
        return {"noise": {"training": training, "evaluation": self._evaluation_noise._asdict()}}

    def reconstruction(self):
        """The `evaluation.Reconstruction` of the first batch."""
        result = evaluation.reconstruct(self._model, self._first_batch, self._config.seed)
        return {"reconstruction": result._asdict()}

    def lipschitz(self):
        """The `evaluation.lipschitz_certificate` of the flow."""
        return {"lipschitz": evaluation.lipschitz_certificate(self._model.flow)}

    def fid(self, features, num_samples=10_000):
        """The Fréchet distance of samples and the train images.

        Args:
          features: function of integer images to features `[batch, size]`, such as an
            `evaluation.InceptionFeatures`; then the distance is FID.
          num_samples: number of samples, and at most of train images.
        """
        if len(self._dataset.event_shape) != 3:
            raise ValueError(f"FID is for images; {self._dataset.name!r} are vectors.")
        batch_size = self._config.eval.batch_size
        data, samples = evaluation.FeatureMoments(), evaluation.FeatureMoments()
        for batch in track(self._dataset.eval_batches("train", batch_size, num_samples), "features of images"):
            data.update(features(batch))
        draw = tf.function(self._model.sample, autograph=False)
        for index in track(range(math.ceil(num_samples / batch_size)), "features of samples"):
            seed = tf.constant([self._config.seed, index], tf.int32)
            samples.update(features(draw(batch_size, seed)[: num_samples - samples.num]))
        distance = evaluation.frechet_distance(samples, data)
        return {"fid": {"fid": distance, "num_samples": samples.num, "num_train": data.num}}

    def classification(self):
        """The scores of a hybrid model's classifier, see `evaluation.Classification`.

        The keys are those of the training's result.json; "cross_entropy" is in bits for integer data.
        """
        if not isinstance(self._model, models.HybridModel):
            raise ValueError("The run is of a density alone (config.task): it has no classifier to evaluate.")
        return self._report.classification()

    def ood(self, dataset):
        """How well the model tells its held-out data from other data, see `evaluation.ood_auroc`.

        Args:
          dataset: a `Dataset` whose examples are like the model's; of the same split.

        Returns:
          A dict "ood" of the "name" of the other data, "num_examples" of them, and the areas under the curves of
          log p(x), "auroc_log_prob", if a density is trained, and of the largest class probability,
          "auroc_max_probability", if there is a classifier.

        Raises:
          ValueError: when the examples differ in their shape or their levels.
        """
        kinds = [(d.event_shape, d.levels) for d in (self._dataset, dataset)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"The model takes examples of shape {kinds[0][0]} with {kinds[0][1]} levels; those of "
                f"{dataset.name!r} have the shape {kinds[1][0]} and {kinds[1][1]} levels."
            )
        settings = self._config.eval
        other = dataset.eval_batches(settings.split, settings.batch_size, settings.num_examples or None)
        views = evaluation.PerExample(self._views)
        batches = [(self._dataset.name, self._report.batches()), (dataset.name, other)]  # names may be equal
        ours, theirs = (views(track(b, f"scores of {name}"), self._config.seed) for name, b in batches)
        result = {"name": dataset.name, "num_examples": len(next(iter(theirs.values())))}
        return {"ood": result | {f"auroc_{v}": evaluation.ood_auroc(ours[v], theirs[v]) for v in ours}}

    def _views(self, x, seed):
        """What the model says of each example that is to be higher for its own data."""
        views = {}
        if self._model.has_density:
            views["log_prob"] = self._model.log_prob(x, seed, evaluation=True)
        if isinstance(self._model, models.HybridModel):
            views["max_probability"] = tf.reduce_max(self._model.classify(x)["probabilities"], -1)
        return views

    @functools.cached_property
    def _evaluation_noise(self):
        return self._noise_of("evaluation")

    def _noise_of(self, use):
        measure = evaluation.EstimatorNoise(self._model, use == "evaluation", **_NOISE_DRAWS)
        return measure(self._first_batch, self._config.seed)

    @functools.cached_property
    def _first_batch(self):
        return next(iter(self._report.batches()))
