import numpy as np
import pytest
from scipy import stats

from tf_resflow.evaluation import coverage_figure, rank_figure


def stairs(axes):
    """The band and the histogram of an axes."""
    band, histogram = (patch.get_data() for patch in axes.patches)
    return band, histogram


def test_histograms_and_bands(tmp_path, figures):
    """Two bins of 5 and of 6 ranks, of the 11 that 10 draws have."""
    ranks = np.stack([np.arange(11), np.zeros(11, int)], axis=1)
    rank_figure(tmp_path / "ranks.png", ranks, 10, num_bins=2, names=["a", "b"], title="T")
    (fig,) = figures
    assert (tmp_path / "ranks.png").stat().st_size > 1000
    assert [axes.get_xlabel() for axes in fig.axes] == ["rank of a", "rank of b"]
    counts = [stairs(axes)[1].values for axes in fig.axes]
    edges = stairs(fig.axes[0])[1].edges
    lower = int(edges[1] + 0.5)  # ranks in the first bin
    assert {lower, 11 - lower} == {5, 6}
    assert counts[0].tolist() == [lower, 11 - lower] and counts[1].tolist() == [11, 0]
    low, high = stats.binom.interval(0.99, 11, np.array([lower, 11 - lower]) / 11)
    band = stairs(fig.axes[0])[0]
    assert band.baseline.tolist() == low.tolist() and band.values.tolist() == high.tolist()


def test_few_draws_have_a_bin_for_each_rank(tmp_path, figures):
    rank_figure(tmp_path / "ranks.png", [[0], [3]], 3)
    assert stairs(figures[0].axes[0])[1].values.tolist() == [1, 0, 0, 1]


def test_many_parameters_wrap(tmp_path, figures):
    rank_figure(tmp_path / "ranks.png", np.zeros([3, 6], int), 4)
    assert len(figures[0].axes) == 6 and figures[0].axes[5].get_xlabel() == "rank of parameter 6"


def test_curves(tmp_path, figures):
    """Coverage is the share of the levels up to a mass."""
    levels = {"narrow": [0.9, 0.9, 0.5, 0.9], "calibrated": np.linspace(0.005, 0.995, 100)}
    coverage_figure(tmp_path / "coverage.png", levels)
    axes = figures[0].axes[0]
    curves = {line.get_label(): line.get_data() for line in axes.lines if not line.get_label().startswith("_")}
    mass, coverage = curves["narrow"]
    assert coverage[mass < 0.499].max() == 0 and coverage[(mass > 0.501) & (mass < 0.899)].tolist() == [0.25] * 79
    assert coverage[-1] == 1
    mass, coverage = curves["calibrated"]
    assert np.abs(coverage - mass).max() <= 0.01


@pytest.mark.parametrize(
    "arguments, match",
    [
        (([0, 1], 4), r"integers \[num, dimensions\]"),
        (([[0.5]], 4), "float64"),
        (([[0], [5]], 4), "from 0 to 4; got 0 to 5"),
    ],
)
def test_bad_ranks(tmp_path, arguments, match):
    with pytest.raises(ValueError, match=match):
        rank_figure(tmp_path / "ranks.png", *arguments)


def test_bad_names(tmp_path):
    with pytest.raises(ValueError, match="Expected 1 names"):
        rank_figure(tmp_path / "ranks.png", [[0]], 4, names=["a", "b"])


@pytest.mark.parametrize("levels, match", [({}, "no levels"), ({"q": [0.5, 1.5]}, "between 0 and 1")])
def test_bad_levels(tmp_path, levels, match):
    with pytest.raises(ValueError, match=match):
        coverage_figure(tmp_path / "coverage.png", levels)
