"""Sentences in sections of docstrings begin in upper case, and formulas have the delimiters of TFP's docstrings."""

import ast
import re

import pytest

from tests.conftest import ROOT

SECTION = re.compile(r"^(?:Args|Attributes|Raises):\n((?: +.*\n|\n)+)", re.MULTILINE)
# The name of an argument, and the first word of its description, unless it is a symbol, a dtype or a formula.
ENTRY = re.compile(r"^ {2}(\*{0,2}\w+): (?!log\b)([a-z]{2,})(?=[ ,.;:-]|$)", re.MULTILINE)


SINGLE_BACKSLASH = re.compile(r"(?<!\\)\\[()\[\]]")
PACKAGES = sorted({path.parent for path in (ROOT / "tf_resflow").rglob("*.py")})


def docstrings(package):
    for path in package.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path.name}: {node.name}", (ast.get_docstring(node) or "") + "\n"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_sentences_begin_in_upper_case(package):
    wrong = []
    for name, text in docstrings(package):
        entries = [entry for section in SECTION.findall(text) for entry in ENTRY.findall(section)]
        wrong += [(name, *entry) for entry in entries]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_formulas_are_between_double_backslashes(package):
    assert [name for name, text in docstrings(package) if "$$" in text or SINGLE_BACKSLASH.search(text)] == []
