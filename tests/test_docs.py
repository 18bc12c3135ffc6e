"""The documentation builds without a warning, has every public name, and speaks of commands that there are."""

import importlib
import re
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

import tf_resflow
from tf_resflow import training
from tf_resflow.training.config import flat_keys

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The names in the reference of a site that was built from nothing."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}


def test_every_public_name_is_in_the_reference(reference):
    values = [getattr(tf_resflow, name) for name in tf_resflow.__all__]
    packages = [value for value in values if isinstance(value, types.ModuleType)]
    names = {f"{package.__name__}.{name}" for package in packages for name in package.__all__}
    assert len(names) > 80
    assert names - reference == set()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"configs/([a-z0-9_]+)\.py(:[\w,/]+)?", TEXT))))
def test_configs_in_commands(command):
    name, argument = command
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(argument[1:]) if argument else module.get_config()
    training.validate_config(config)


def test_every_config_is_told_of():
    told = (ROOT / "docs/guide/train.md").read_text()
    assert [name for name in CONFIGS if f"`{name}`" not in told] == []


def test_fields_in_commands():
    keys = set(re.findall(r"--config\.([\w.]+)", TEXT))
    assert len(keys) > 5
    assert keys - set(flat_keys(training.default_config())) == set()


def test_flags_in_commands():
    defined = "".join(path.read_text() for path in (ROOT / "bin").glob("*.py"))
    defined = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', defined))
    told = set(re.findall(r"--(\w+)(?=[= `,]|\n)", TEXT))
    assert len(told) > 10
    assert told - defined == {"dir", "inputs", "outdir", "signature_def", "tag_set"}  # saved_model_cli's


def test_binaries_in_commands():
    told = set(re.findall(r"(?<!tests/)bin/(\w+)\.py", TEXT))
    assert {name for name in told if not (ROOT / f"bin/{name}.py").exists()} == set()


def test_numbers_of_parameters():
    """They are those of the configs' docstrings, which tests/configs counts."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]{9,}) \|$", (ROOT / "docs/results.md").read_text(), re.MULTILINE)
    assert len(rows) == 5
    for name, number in rows:
        assert f"({number})" in importlib.import_module(f"configs.{name}").__doc__


def test_links_of_the_readme():
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).exists()] == []
