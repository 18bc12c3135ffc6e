"""Metrics of `resflow-evaluate`. To add a metric, add an entry to `METRICS`."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tf_resflow as resflow


class Metric(NamedTuple):
    """A metric of `resflow-evaluate`.

    Attributes:
      description: Text for `--help`, with the keys of the metric in the JSON file.
      measure: Function of an `Evaluation` and the flags that returns a part of the result.
      is_default: Function of a model that returns whether the metric is computed by default.
      refusal: Function of a run's `DataInfo` and the flags. Returns why the metric cannot be computed, or None.
    """

    description: str
    measure: Callable[[Any, Any], Mapping[str, Any]]
    is_default: Callable[[Any], bool] = lambda model: False
    refusal: Callable[[Any, Any], str | None] = lambda info, flags: None


def _has_density(model):
    return model.trained_density() is not None


def _no_fid(info, flags):
    if len(info.event_shape) != 3:
        return f"FID is for images, but {info.name!r} has vectors. Leave fid out of --metrics."
    if flags.fid_weights != "imagenet" and not pathlib.Path(flags.fid_weights).is_file():
        return f"--fid_weights={flags.fid_weights}: there is no such file. Give a file, or leave out --fid_weights."
    return None


METRICS = {
    "likelihood": Metric(
        """`bits_per_dim`; its standard error `bits_per_dim_stderr`; `num_examples`; `example_stderr`, the
  standard error of an example's score; `bound`, "elbo" for integer data, else "none"; `baselines`; `entropy`.""",
        lambda measured, flags: measured.likelihood(),
        _has_density,
    ),
    "noise": Metric(
        """standard deviation of an example's loss due to the estimates of the log-determinants, with the
  estimators of training (`noise.training`) and of this evaluation (`noise.evaluation`).""",
        lambda measured, flags: measured.noise(),
        _has_density,
    ),
    "reconstruction": Metric(
        """error of encoding and decoding, in the flow's input space and in levels, and the number of
  iterations and failures of the solver.""",
        lambda measured, flags: measured.reconstruction(),
        _has_density,
    ),
    "lipschitz": Metric(
        "Lipschitz bounds of `layers`, `blocks`, `flow`, `inverse`: nominal and certified for the current weights.",
        lambda measured, flags: measured.lipschitz(),
        lambda model: bool(resflow.bijectors.flow.residual_blocks(model.flow)),
    ),
    "importance_weighted": Metric(
        """tighter bound from --iw_samples dequantizations. It needs precise log-determinants:
  --log_det_estimator=exact or many --num_probes. `estimator_bias` is the most that their noise can have lowered the
  score.""",
        lambda measured, flags: measured.importance_weighted(flags.iw_samples),
        refusal=lambda info, flags: (
            None if info.levels is not None else "The data have no noise: leave out importance_weighted."
        ),
    ),
    "fid": Metric(
        """Fréchet distance between --fid_samples samples and training images in Inception's features. Keras's
  weights differ from those in the literature, see `InceptionFeatures`.""",
        lambda measured, flags: measured.fid(flags.fid_weights, num_samples=flags.fid_samples),
        refusal=_no_fid,
    ),
    "classification": Metric(
        """for a hybrid model, `accuracy` and its standard error, `cross_entropy` (in bits for images) and
  `calibration_error` (expected calibration error, 15 bins). If named, also for a model of images given their label,
  which predicts the label with the largest likelihood. This takes one evaluation per class.""",
        lambda measured, flags: measured.classification(),
        lambda model: model.classifier is not None,
        lambda info, flags: None if info.num_classes else f"{info.name!r} has no labels: leave out classification.",
    ),
}
