"""Runs every Python example in docstrings, the README and docs/, and compares its output with its comments."""

import contextlib
import importlib
import inspect
import io
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow
from tests.conftest import ROOT

BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
# Examples that contain one of these texts need a trained run. tests/training covers them.
NEEDS_A_RUN = 'resflow.load("runs/', "AveragedWeights("
NAMES = {"keras": keras, "np": np, "resflow": tf_resflow, "tf": tf}


def examples():
    """Yields each example once. The README, the pages and the docstrings share some examples."""
    known = set()
    for name, text in documents():
        for i, code in enumerate(BLOCK.findall(text)):
            code = inspect.cleandoc("\n" + code)
            if code not in known and not any(start in code for start in NEEDS_A_RUN):
                known.add(code)
                yield pytest.param(code, id=f"{name}-{i}")


def documents():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield path.relative_to(ROOT), path.read_text()
    for info in pkgutil.walk_packages(tf_resflow.__path__, "tf_resflow."):
        for attribute, value in vars(importlib.import_module(info.name)).items():
            if getattr(value, "__module__", None) == info.name:
                yield f"{info.name}.{attribute}", inspect.getdoc(value) or ""


EXAMPLES = list(examples())
assert len(EXAMPLES) > 5


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(code, tmp_path, monkeypatch, process):
    monkeypatch.chdir(tmp_path)
    if "MirroredStrategy(" in code:  # collective operations of two strategies in one process interfere
        printed = process("-c", code, cwd=tmp_path, check=True).stdout
    else:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, "example", "exec"), dict(NAMES))
        printed = output.getvalue()
    expected = re.findall(r"^(?:print\(.*)?\)(?: +#.*)?\n((?:#.*\n?)+)", code, re.MULTILINE)
    assert printed.splitlines() == [line[2:] for block in expected for line in block.splitlines()]
