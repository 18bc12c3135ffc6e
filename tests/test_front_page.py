"""The figures of the README and of the start page are those of benchmarks/results/, which a command writes."""

import json
import re

import pytest

from benchmarks import results_page, summaries
from tests.conftest import ROOT

FIGURES = json.loads((ROOT / "benchmarks/results/front_page.json").read_text())

# What a page says of each figure: {part.figure:format}.
STATEMENTS = {
    "README.md": """
        takes {speed.w64:.1f} times as long for a training step with 64 hidden channels,
        {speed.w128:.1f} times with 128, and {speed.w512:.1f} times with the paper's 512;
        With 64 channels, 64 images of 28 x 28 pixels
        adds {memory.ours_per_block:.0f} MB to the peak memory of a step;
        in the published code it adds {memory.published_per_block:.0f} MB
        means over {time_to_score.published_600_seeds} seeds (measured at commit {time_to_score.commit})
        After {time_to_score.published_600_published:,.0f} s the published code
        reaches {time_to_score.published_600_score:.2f} bits/dim
        needs {time_to_score.published_600_here_same_settings:,.0f} s with the same model and settings
        needs {time_to_score.published_600_published_our_schedule:,.0f} s with our learning rate
        ends at {time_to_score.published_our_schedule_2000_score:.2f}
        after {time_to_score.published_our_schedule_2000_published_our_schedule:,.0f} s
        in {time_to_score.published_600_here_best_small:,.0f} and
        {time_to_score.published_our_schedule_2000_here_best_small:,.0f} s, about half a minute
        reaches {scores.mnist_small:.2f} after 2,000 steps
        takes {small_flows.RealNVP_2:.1f} times as long in 2 dimensions,
        {small_flows.RealNVP_10:.1f} times in 10, and {small_flows.RealNVP_20:.1f} times in 20
        Beyond 16 dimensions
        reaches {scores.digits:.2f} bits/dim
        a standard error of {scores.digits_stderr:.3f}
        uniform density over the 17 gray levels has {scores.digits_uniform:.2f}
        a Gaussian with full covariance {scores.digits_gaussian:.2f}
        On {tables.num_tables} tables of ADBench
        area under the ROC curve is {tables.FlowDensity:.3f}
        {tables.5 nearest neighbors:.3f} for nearest neighbors
        {tables.GaussianMixture:.3f} for Gaussian mixtures
        measured at commit {tables.commit}
    """,
    "docs/index.md": """
        after 2,000 steps: {scores.pinwheel:.3f} ± {scores.pinwheel_stderr:.3f} nats
        entropy of the data is {scores.pinwheel_entropy:.3f}, and a Gaussian has {scores.pinwheel_gaussian:.3f}
        After {time_to_score.published_600_published:,.0f} s the published PyTorch code
        reaches {time_to_score.published_600_score:.2f} bits/dim
        needs {time_to_score.published_600_here_same_settings:,.0f} s with the same model
        [{time_to_score.published_600_here_best_small:,.0f} s]
        means over {time_to_score.published_600_seeds} seeds, measured at commit {time_to_score.commit}
        takes {speed.w64:.1f} times as long for a training step with 64 hidden channels
        {speed.w512:.1f} times with [the paper's 512]
        adds {memory.ours_per_block:.0f} MB to the peak memory of a step;
        code it adds {memory.published_per_block:.0f} MB
        16 blocks needs {memory.ours_16_blocks:,.0f} MB instead of {memory.published_16_blocks:,.0f} MB
        with 4 blocks, {memory.ours_4_blocks:,.0f} MB instead of [{memory.published_4_blocks:,.0f} MB]
        the largest relative difference is {checkpoints.largest_difference:.0e}
    """,
}
# Numbers that were not measured: versions, sizes, years, and the paper's own score.
GIVEN = re.compile(
    r"Jacobsen 2019|Python 3\.10 to 3\.13|TensorFlow 2\.21, TFP 0\.25, and Keras 3\.12, 3\.14 or 3\.15|Keras 3\b"
    r"|constant below 1|8x8|32 x 32|0\.970|Apache-2\.0|returns -1"
)
CODE = re.compile(r"```.*?```|^ {4}.*?$|`[^`]*`|!\[[^]]*\]|\]\([^)]*\)|<[^>]*>", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("part", FIGURES)
def test_figures_follow_from_the_results(part):
    results = json.loads((ROOT / f"benchmarks/results/{part}.json").read_text())
    assert FIGURES[part]["figures"] == summaries.figures(part, results)


def filled(template):
    """The template with its figures."""

    def figure(match):
        part = FIGURES[match[1]]
        value = part["figures"].get(match[2], part.get(match[2]))
        return format(value, match[3] or "")

    return re.sub(r"\{(\w+)\.([^:}]+):?([^}]*)\}", figure, template)


@pytest.mark.parametrize("page", STATEMENTS)
def test_figures(page):
    text = re.sub(r"\s+", " ", CODE.sub("]", (ROOT / page).read_text()))
    for template in STATEMENTS[page].strip().splitlines():
        statement = filled(template.strip())
        assert statement in text, f"{page} should say: {statement}"
        text = text.replace(statement, "")
    others = re.findall(r".{0,30}\d.{0,10}", GIVEN.sub("", text))
    assert others == [], "Add these figures to STATEMENTS, and measure them in benchmarks/front_page.py."


def test_tables_of_the_results_page():
    text = results_page.PAGE.read_text()
    assert results_page.with_tables(text) == text, "Run python -m benchmarks.results_page."
    assert len(re.findall("<!-- table: ", text)) > 10
