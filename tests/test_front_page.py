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
        {speed.w64:.1f} times as fast as with the published PyTorch code at width 64
        {speed.w128:.1f} times at width 128, and {speed.w512:.1f} times at the paper's width of 512
        adds {memory.ours_per_block:.0f} MB to the memory of a training step
        instead of {memory.published_per_block:.0f} MB
        means over {time_to_score.seeds} seeds
        The published code reaches {time_to_score.published_1500_score:.2f} bits/dim
        after {time_to_score.published_1500_published:,.0f} s
        same model and settings take {time_to_score.published_1500_here_same_settings:,.0f} s here
        the published code takes {time_to_score.published_1500_published_our_schedule:,.0f} s
        takes {time_to_score.published_1500_here_best_small:,.0f} s, much of it
        reaches {scores.mnist_small:.2f} after 2,000 steps
        takes {small_flows.RealNVP_2:.1f} times as long as that of a RealNVP
        in 2 dimensions, {small_flows.RealNVP_10:.1f} times in 10, and {small_flows.RealNVP_20:.1f} times in 20
        reaches {scores.digits:.2f} ± {scores.digits_stderr:.2f} bits/dim
        a uniform density has {scores.digits_uniform:.2f}, a Gaussian {scores.digits_gaussian:.2f}
        On {tables.num_tables} tables of ADBench, its mean AUC for anomalies is {tables.FlowDensity:.3f}
        {tables.5 nearest neighbors:.3f} for nearest neighbors
        {tables.GaussianMixture:.3f} for Gaussian mixtures
        measured at commit {tables.commit}
        measured at commits {speed.commit} and {scores.commit}
    """,
    "docs/index.md": """
        after 2,000 steps: {scores.pinwheel:.3f} ± {scores.pinwheel_stderr:.3f} nats
        entropy of the data is {scores.pinwheel_entropy:.3f}, and a Gaussian has {scores.pinwheel_gaussian:.3f}
        reaches {time_to_score.published_1500_score:.2f} bits/dim
        after {time_to_score.published_1500_published:,.0f} s
        settings take {time_to_score.published_1500_here_same_settings:,.0f} s here
        takes [{time_to_score.published_1500_here_best_small:,.0f} s]
        is {speed.w64:.1f} times as fast as with the published code at width 64
        and {speed.w512:.1f} times at the paper's width of 512
        adds {memory.ours_per_block:.0f} MB to a training step, instead of {memory.published_per_block:.0f} MB
        16 blocks, a step needs {memory.ours_16_blocks:,.0f} MB instead of {memory.published_16_blocks:,.0f} MB
        with 4 blocks, {memory.ours_4_blocks:,.0f} MB instead of [{memory.published_4_blocks:,.0f} MB]
        the largest relative difference is {checkpoints.largest_difference:.0e}
    """,
}
# Numbers that were not measured: versions, sizes, years, and the paper's own score.
GIVEN = re.compile(
    r"\bet al\. 20\d\d|Jacobsen 2019|Python 3\.10 to 3\.13|Keras 3\b|8 ?x ?8|0\.970|three to ten minutes|p\(x\)"
    r"|2-D|Apache-2\.0"
)
CODE = re.compile(r"```.*?```|^ {4}.*?$|`[^`]*`|\]\([^)]*\)|<[^>]*>", re.DOTALL | re.MULTILINE)


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
    text = re.sub(
        r"\s+", " ", re.sub(CODE, lambda code: code[0] if "](" in code[0] else "", (ROOT / page).read_text())
    )
    for template in STATEMENTS[page].strip().splitlines():
        statement = filled(template.strip())
        assert statement in text, f"{page} should say: {statement}"
        text = text.replace(statement, "")
    others = re.findall(r".{0,30}\d.{0,10}", GIVEN.sub("", re.sub(r"\]\([^)]*\)", "", text)))
    assert others == [], "Add these figures to STATEMENTS, and measure them in benchmarks/front_page.py."


def test_tables_of_the_results_page():
    text = results_page.PAGE.read_text()
    assert results_page.with_tables(text) == text, "Run python -m benchmarks.results_page."
    assert len(re.findall("<!-- table: ", text)) > 10
