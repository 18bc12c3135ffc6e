"""Every Python example in a docstring, the README or docs/ runs, and prints the output in its comments."""

import contextlib
import importlib
import inspect
import io
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_resflow

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
# Fragments that need a trained run; tests/training covers them.
NEEDS_A_RUN = 'resflow.load("runs/', "AveragedWeights("
NAMES = {"keras": keras, "np": np, "resflow": tf_resflow, "tf": tf}


def examples():
    """Each once: the README, the pages and the docstrings share some."""
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
    names = [info.name for info in pkgutil.walk_packages(tf_resflow.__path__, "tf_resflow.")]
    for name in names:
        module = importlib.import_module(name)
        for attribute, value in vars(module).items():
            if getattr(value, "__module__", None) == name:
                yield f"{name}.{attribute}", inspect.getdoc(value) or ""


EXAMPLES = list(examples())


def test_there_are_examples():
    assert len(EXAMPLES) > 5


def in_this_process(code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), dict(NAMES))
    return printed.getvalue()


def in_another_process(code):
    """The collective operations of two strategies in one process interfere."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = in_another_process if "MirroredStrategy(" in code else in_this_process
    printed = run(code)
    expected = re.findall(r"^print\(.*\)\n((?:#.*\n?)+)", code, re.MULTILINE)
    lines = [line[2:] for block in expected for line in block.splitlines()]
    assert printed.splitlines() == lines
