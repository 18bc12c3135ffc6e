"""The figures of the README and of the start page are those of benchmarks/results/, which a command writes.

A comment after a figure names it, such as `2.6<!-- speed.w64 -->`.
"""

import json
import re

import pytest

from benchmarks import results_page, summaries
from tests.conftest import ROOT

FIGURES = json.loads((ROOT / "benchmarks/results/front_page.json").read_text())
MARKED = re.compile(r"([\w.,+-]*)<!-- (\w+)\.(.+?) -->")


def formatted(value, text):
    """Formats a figure like the text: with as many decimals, and with an exponent if the text has one."""
    if isinstance(value, str):
        return value
    mantissa, exponent, _ = text.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return format(value, f".{decimals}e" if exponent else f",.{decimals}f")


@pytest.mark.parametrize("part", FIGURES)
def test_figures_follow_from_the_results(part):
    results = json.loads((ROOT / f"benchmarks/results/{part}.json").read_text())
    assert FIGURES[part]["figures"] == summaries.figures(part, results)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_marked_figures(page):
    marked = MARKED.findall((ROOT / page).read_text())
    assert len(marked) > 15
    for text, part, name in marked:
        value = FIGURES[part].get(name, FIGURES[part]["figures"].get(name))
        assert text == formatted(value, text), f"{part}.{name}"


def test_tables_of_the_results_page():
    text = results_page.PAGE.read_text()
    assert results_page.with_tables(text) == text, "Run python -m benchmarks.results_page."
    assert len(re.findall("<!-- table: ", text)) > 10
