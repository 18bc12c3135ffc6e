"""Calibration of posteriors: ranks, coverage of regions and the TARP test."""

import os
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tf_resflow._internal.messages import counted
from tf_resflow.evaluation.figures import written_figure

_BAND = 0.99  # probability that a point of the curve of a calibrated posterior lies inside its band
_CLEAR = 0.01  # p-values below this are clear
_MASSES = (0.5, 0.9)  # of the regions in the summary
_MOST_NAMED = 8  # curves in a legend


class Calibration:
    r"""Compares the parameters that generated data sets with samples of their posteriors.

    For data sets i with \\(\theta_i \sim p(\theta)\\), \\(x_i \sim p(x | \theta_i)\\) and L samples
    \\(\theta_{il} \sim q(\theta | x_i)\\), it computes three kinds of ranks:

    - of each coordinate, the number of samples below the true value (simulation-based calibration);
    - the number of samples with a larger density. Its share is the mass of the smallest highest-density region that
      contains the true parameters, so lower coverage means that regions are too small;
    - the number of samples closer than the true parameters to the parameters of another data set (TARP). Distances
      are in standard deviations of the true parameters.

    If q is the posterior, each rank is uniform on 0, ..., L. Kolmogorov-Smirnov tests compare the ranks u, scaled
    to the unit interval, and |2 u - 1| with the uniform distribution. A p-value is twice the smaller of the two.
    Calibration is necessary but not sufficient: the prior itself is calibrated. `print(calibration)` says what the
    tests show.

    ```python
    import numpy as np
    import tf_resflow as resflow
    generator = np.random.default_rng(0)
    theta = generator.normal(size=[500, 2])
    x = theta + generator.normal(size=[500, 2])  # so the posterior is N(x / 2, 1 / 2)
    samples = x / 2 + 0.5 * generator.normal(size=[99, 500, 2])  # too narrow
    log_prob = lambda value: -2 * np.sum((value - x / 2) ** 2, axis=-1)
    print(resflow.evaluation.Calibration(samples, theta, log_prob(samples), log_prob(theta)))
    # Regions of 50 % and 90 % hold 31 % and 68 % of the parameters of 500 data sets: too small (p < 1e-12).
    ```

    Args:
      samples: Independent posterior samples `[draws, num, *event_shape]` for each of `num` data sets: an array, or
        a dict or another structure of arrays.
      parameters: The true parameters `[num, *event_shape]`, in the same structure.
      sample_log_probs: `[draws, num]`: \\(\log q(\theta_{il} | x_i)\\), up to a constant for each data set, or None
        to leave out the coverage.
      parameter_log_probs: `[num]`: \\(\log q(\theta_i | x_i)\\), up to the same constants.
      seed: Seed of the reference points, and of ties.

    Attributes:
      ranks: Dict of uniform numbers `[num]` by test: "coverage", "TARP" and "rank of NAME" for each coordinate. The
        coverage of regions of mass a is the share of `ranks["coverage"]` below a.
      p_values: Dict of p-values by test.
      p_value: The smallest of them times their number (Bonferroni), at most 1.

    References:
      Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration" (2018); Hermans et
      al., "A trust crisis in simulation-based inference?" (2022), on coverage; Lemos et al., "Sampling-based
      accuracy testing of posterior estimators for general inference" (2023), on TARP.
    """

    def __init__(
        self,
        samples: Any,
        parameters: Any,
        sample_log_probs: ArrayLike | None = None,
        parameter_log_probs: ArrayLike | None = None,
        *,
        seed: int = 0,
    ):
        true = _columns(parameters, 1)
        drawn = _columns(samples, 2)
        pairs = {f"rank of {name}": (drawn.get(name, np.zeros(0)), column) for name, column in true.items()}
        if sample_log_probs is not None:
            negative_log_probs = -np.asarray(sample_log_probs), -np.asarray(parameter_log_probs, np.float64)
            pairs = {"coverage": negative_log_probs} | pairs
        for test, (values, value) in pairs.items():
            is_complete = values.shape[1:] == value.shape and len(values) and len(value) > 1
            if not is_complete or drawn.keys() != true.keys() or np.isnan(values).any() or np.isnan(value).any():
                raise ValueError(
                    f"For the {test}, the samples have the shape {values.shape}, and the parameters {value.shape}; "
                    f"the coordinates are {[*drawn]} and {[*true]}. Give samples [draws, num, *event_shape] and "
                    "parameters [num, *event_shape] of at least two data sets, without NaN."
                )
        generator = np.random.default_rng(seed)
        draws, theta = (np.stack([columns[name] for name in true], axis=-1) for columns in (drawn, true))
        scale = np.where(np.ptp(theta, axis=0) > 0, theta.std(axis=0), 1.0)
        other = np.roll(theta, generator.integers(1, len(theta)), axis=0)
        pairs["TARP"] = tuple(np.linalg.norm((points - other) / scale, axis=-1) for points in (draws, theta))
        self.ranks = {test: _uniform(values, value, generator) for test, (values, value) in pairs.items()}
        self.p_values = {test: _p_value(u) for test, u in self.ranks.items()}
        self.p_value = min(1.0, len(self.p_values) * min(self.p_values.values()))

    def __str__(self):
        test = min(self.p_values, key=self.p_values.__getitem__)
        text = counted(len(self.ranks["TARP"]), "data set")
        is_small = []
        if "coverage" in self.ranks:
            shares = [np.mean(self.ranks["coverage"] < mass) for mass in _MASSES]
            is_small = [share < mass for share, mass in zip(shares, _MASSES, strict=True)]
            held = " and ".join(f"{share:.0%}" for share in shares).replace("%", " %")
            text = f"Regions of 50 % and 90 % hold {held} of the parameters of {text}"
        if self.p_value >= _CLEAR:
            return f"{text}. The tests find no miscalibration (p = {self.p_value:.2g})."
        p = f"p = {self.p_value:.1g}" if self.p_value > 1e-12 else "p < 1e-12"
        if test == "coverage":
            word = "too small" if all(is_small) else "of the wrong size" if any(is_small) else "too large"
            return f"{text}: {word} ({p})."
        if test == "TARP":
            return f"{text}. Samples and parameters have other distances from random points (TARP, {p})."
        ranks = self.ranks[test]
        shift = ranks.mean() - 0.5
        spread = np.abs(2 * ranks - 1).mean() - 0.5
        word = "narrow" if spread > 0 else "wide"
        if abs(shift) > abs(spread):
            word = "low" if shift > 0 else "high"
        return f"{text}. Samples of {test.removeprefix('rank of ')} are too {word} ({p})."

    def figure(self, path: str | os.PathLike[str], *, title: str = "") -> None:
        """Draws the curves of the ranks: for each u, the share of ranks below u, minus u.

        The curve of the coverage is above 0 if regions hold more than their mass. At each u, the band contains 99 %
        of the curves of calibrated posteriors.
        """
        u = np.linspace(0, 1, 201)
        num = len(self.ranks["TARP"])
        band = np.array(stats.binom.interval(_BAND, num, u)) / num - u
        groups = {"mass of the region": ["coverage", "TARP"]}
        groups["share of samples below the true value"] = [t for t in self.ranks if t.startswith("rank of")]
        with written_figure(path, (8, 3.6)) as fig:
            panels = fig.subplots(1, 2, sharey=True)
            for axes, (name, tests) in zip(panels, groups.items(), strict=True):
                axes.fill_between(u, *band, color="0.85", label=f"{_BAND:.0%} if calibrated")
                for test in [test for test in tests if test in self.ranks]:
                    share = np.searchsorted(np.sort(self.ranks[test]), u, side="right") / num
                    axes.plot(u, share - u, label=test if len(tests) <= _MOST_NAMED else None)
                axes.set(xlabel=name, xlim=(0, 1))
                axes.legend(loc="best", fontsize="small")
            panels[0].set_ylabel("share of data sets, minus uniform")
            fig.suptitle(title)


def named_parts(parameters: Any, name: str) -> dict[str, Any]:
    """Returns the arrays of a structure by name; a single array, or a list of numbers, has the given one."""
    parameters = parameters._asdict() if hasattr(parameters, "_asdict") else parameters
    arrays = keras.tree.flatten_with_path(parameters)
    if any(np.ndim(array) == 0 for _, array in arrays):
        arrays = [((), np.asarray(parameters))]
    return {" ".join(map(str, path)) or name: array for path, array in arrays}


def _columns(parameters, num_axes):
    """Returns the coordinates of a structure of arrays `[*axes, *event_shape]` by name, without the event axes."""
    columns = {}
    for name, array in named_parts(parameters, "parameter").items():
        values = np.asarray(array, np.float64)
        for index in np.ndindex(values.shape[num_axes:]):
            suffix = "".join(f" {i}" for i in index)
            columns[f"{name}{suffix}"] = values[(slice(None),) * num_axes + index]
    return columns


def _uniform(samples, true, generator):
    """Returns ranks of true values `[num]` among samples `[draws, num]`, scaled to (0, 1). Ties are random."""
    ties = 1 + np.sum(samples == true, axis=0)
    below = np.sum(samples < true, axis=0) + generator.uniform(size=true.shape) * ties
    return below / (len(samples) + 1)


def _p_value(u):
    return min(1.0, 2 * min(stats.kstest(v, "uniform").pvalue for v in (u, np.abs(2 * u - 1))))
