"""The figures of the README and of the start page are those of benchmarks/results/, which a command writes."""

import json
import re

import pytest

from benchmarks import results_page, summaries
from tests.conftest import ROOT

FIGURES = json.loads((ROOT / "benchmarks/results/front_page.json").read_text())

# The figures on each page, in the order of the text: part.figure:format.
ORDER = {
    "README.md": """
        speed.w64:.1f; speed.w128:.1f; speed.w512:.1f; memory.ours_per_block:.0f; memory.published_per_block:.0f;
        time_to_score.published_600_seeds; time_to_score.commit; time_to_score.published_600_score:.2f;
        time_to_score.published_our_schedule_2000_score:.2f; time_to_score.published_600_published:,.0f;
        time_to_score.published_final:.2f; time_to_score.published_steps:,;
        time_to_score.published_600_published_our_schedule:,.0f;
        time_to_score.published_our_schedule_2000_published_our_schedule:,.0f;
        time_to_score.published_our_schedule_final:.2f; time_to_score.published_our_schedule_steps:,;
        time_to_score.published_600_here_same_settings:,.0f; time_to_score.here_same_settings_final:.2f;
        time_to_score.here_same_settings_steps:,; time_to_score.published_600_here_best_small:,.0f;
        time_to_score.published_our_schedule_2000_here_best_small:,.0f; time_to_score.here_best_small_final:.2f;
        time_to_score.here_best_small_steps:,; time_to_score.published_steps:,;
        time_to_score.here_same_settings_steps:,; small_flows.RealNVP_2:.1f; small_flows.RealNVP_10:.1f;
        small_flows.RealNVP_20:.1f; scores.digits:.2f;
        scores.digits_stderr:.3f; scores.digits_uniform:.2f; scores.digits_gaussian:.2f; tables.num_tables;
        tables.FlowDensity:.3f; tables.5 nearest neighbors:.3f; tables.GaussianMixture:.3f; tables.commit
    """,
    "docs/index.md": """
        scores.pinwheel:.3f; scores.pinwheel_stderr:.3f; scores.pinwheel_entropy:.3f; scores.pinwheel_gaussian:.3f;
        time_to_score.published_600_published:,.0f; time_to_score.published_600_score:.2f;
        time_to_score.published_600_here_same_settings:,.0f; time_to_score.published_600_here_best_small:,.0f;
        time_to_score.published_600_seeds; time_to_score.commit; speed.w64:.1f; speed.w512:.1f;
        memory.ours_per_block:.0f; memory.published_per_block:.0f; memory.ours_16_blocks:,.0f;
        memory.published_16_blocks:,.0f; memory.ours_4_blocks:,.0f; memory.published_4_blocks:,.0f;
        checkpoints.largest_difference:.0e
    """,
}
# Numbers that were not measured: versions, sizes, years, and the paper's own score.
GIVEN = re.compile(
    r"Jacobsen 2019|Python 3\.10 to 3\.13|TensorFlow 2\.21, TFP 0\.25, and Keras 3\.12, 3\.14 or 3\.15|Keras 3\b"
    r"|constant below 1|8x8|32 x 32|0\.970|Apache-2\.0|returns -1|64 hidden channels|with 128|paper's 512"
    r"|64 channels, 64 images of 28 x 28|after 2,000 steps|in 2 dimensions|in 10, and|in 20\.|Beyond 16 dimensions"
    r"|17 gray levels|with (?:16|4) blocks"
)
CODE = re.compile(r"```.*?```|^ {4}.*?$|`[^`]*`|!\[[^]]*\]|\]\([^)]*\)|<[^>]*>", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("part", FIGURES)
def test_figures_follow_from_the_results(part):
    results = json.loads((ROOT / f"benchmarks/results/{part}.json").read_text())
    assert FIGURES[part]["figures"] == summaries.figures(part, results)


@pytest.mark.parametrize("page", ORDER)
def test_figures(page):
    """Every other number on the page must be in GIVEN."""
    expected = []
    for key in ORDER[page].split(";"):
        part, name, form = re.fullmatch(r"(\w+)\.([^:]+):?(.*)", key.strip()).groups()
        expected.append(format(FIGURES[part]["figures"].get(name, FIGURES[part].get(name)), form))
    text = GIVEN.sub("", re.sub(r"\s+", " ", CODE.sub("]", (ROOT / page).read_text())))
    assert [number.strip(".,") for number in re.findall(r"[\w.,-]*\d[\w.,-]*", text)] == expected


def test_tables_of_the_results_page():
    text = results_page.PAGE.read_text()
    assert results_page.with_tables(text) == text, "Run python -m benchmarks.results_page."
    assert len(re.findall("<!-- table: ", text)) > 10
