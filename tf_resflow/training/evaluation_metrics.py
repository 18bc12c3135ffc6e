"""The metrics of `resflow-evaluate`: to add a metric, add an entry."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tf_resflow as resflow


class Metric(NamedTuple):
    """What a metric measures, and what has it.

    Attributes:
      description: the metric and its keys in the JSON file, for `--help`.
      measure: function of an `Evaluation` and the flags that returns a part of the result.
      is_default: function of a model that says whether it has the metric when none is named.
      refusal: function of the `DataInfo` of a run and the flags that returns why it cannot be measured, or None.
    """

    description: str
    measure: Callable[[Any, Any], Mapping[str, Any]]
    is_default: Callable[[Any], bool] = lambda model: False
    refusal: Callable[[Any, Any], str | None] = lambda info, flags: None


def _has_density(model):
    return model.trained_density() is not None


def _no_importance_weights(info, flags):
    return None if info.is_dequantized else "importance_weighted is for dequantized data: leave it out."


def _no_fid(info, flags):
    if len(info.event_shape) != 3:
        return f"FID is for images; {info.name!r} are vectors. Leave it out of --metrics."
    if flags.fid_weights != "imagenet" and not pathlib.Path(flags.fid_weights).is_file():
        return f"--fid_weights={flags.fid_weights}: there is no such file."
    return None


def _no_classification(info, flags):
    return None if info.num_classes else f"classification needs labels, which {info.name!r} do not have."


METRICS = {
    "likelihood": Metric(
        """`bits_per_dim`, `bits_per_dim_stderr`, and the sources of that standard error,
  `bits_per_dim_stderr_parts` (data, dequantization, estimator); `num_examples`; `bound`, "elbo" for integer data,
  "importance_weighted" for tables with discrete columns, whose error has no parts; `baselines`; `entropy`.""",
        lambda measured, flags: measured.likelihood(),
        _has_density,
    ),
    "noise": Metric(
        """the mean, standard deviations and excess kurtosis of the estimate of one example's loss, with the
  estimators of the training (`noise.training`) and of this evaluation (`noise.evaluation`).""",
        lambda measured, flags: measured.noise(),
        _has_density,
    ),
    "reconstruction": Metric(
        """the error of encoding and decoding, in the flow's input space and in levels, and the solver's
  iterations and failures.""",
        lambda measured, flags: measured.reconstruction(),
        _has_density,
    ),
    "lipschitz": Metric(
        "`layers`, `blocks`, `flow` and `inverse`, nominal and certified for the current weights.",
        lambda measured, flags: measured.lipschitz(),
        lambda model: bool(resflow.bijectors.flow.residual_blocks(model.flow)),
    ),
    "importance_weighted": Metric(
        """the tighter bound of --iw_samples dequantizations. It needs precise log-determinants:
  --log_det_estimator=exact; many --num_probes; or a small --stderr, here of each dequantization. `estimator_bias`
  is how much their noise can have lowered the score.""",
        lambda measured, flags: measured.importance_weighted(flags.iw_samples),
        refusal=_no_importance_weights,
    ),
    "fid": Metric(
        """the Fréchet distance between --fid_samples samples and train images in Inception's features. (Keras'
  weights differ from those of the literature: see `InceptionFeatures`.)""",
        lambda measured, flags: measured.fid(flags.fid_weights, num_samples=flags.fid_samples),
        refusal=_no_fid,
    ),
    "classification": Metric(
        """of a hybrid model, `accuracy` and its standard error, `cross_entropy` (in bits for images) and
  `calibration_error` (expected calibration error, 15 bins). If it is named, also of a model of images given their
  label, by the label under which an image is most likely: as many evaluations as there are classes.""",
        lambda measured, flags: measured.classification(),
        lambda model: model.classifier is not None,
        _no_classification,
    ),
}
