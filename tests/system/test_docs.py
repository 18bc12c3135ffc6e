"""Tests that the documentation builds without warnings, covers every public name, and shows valid commands."""

import importlib
import os
import re
import types
import xml.etree.ElementTree as etree
import zlib

import pytest

import tf_resflow
from tests.conftest import ROOT
from tf_resflow import training
from tf_resflow._internal.settings import flat_fields
from tf_resflow.tables.runs import config as table_config
from tf_resflow.training.config import validate_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
CONFIGS = sorted(path.stem for path in (ROOT / "configs").rglob("*.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory, process):
    site = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "EXECUTE_NOTEBOOKS": "0"}
    process("-m", "mkdocs", "build", "--strict", "--site-dir", site, environment=environment, check=True)
    return site


def test_tutorials(site):
    """Each tutorial is a page with a link to its notebook. Only `make docs` executes the notebooks (minutes)."""
    for notebook in (ROOT / "docs/tutorials").glob("*.ipynb"):
        page = (site / "tutorials" / f"{notebook.stem}.html").read_text()
        assert re.search(f'href="?{notebook.name}', page)
        assert (site / "tutorials" / notebook.name).read_text() == notebook.read_text()
        assert "import tf_resflow as resflow" in re.sub("<[^>]*>", "", page)


def test_formulas_are_mathml(site):
    pages = {page.relative_to(site): page.read_text() for page in site.rglob("*.html")}
    formulas = [etree.fromstring(math) for page in pages.values() for math in re.findall(r"<math.*?</math>", page)]
    assert len(formulas) > 200
    assert all("".join(formula.itertext()).strip() for formula in formulas)
    assert [page for page, text in pages.items() if re.search(r"\\\(|\\\)|\$\$|<merror", text)] == []


def test_every_public_name_is_in_the_reference(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    reference = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    values = [getattr(tf_resflow, name) for name in tf_resflow.__all__]
    packages = [value for value in values if isinstance(value, types.ModuleType)]
    names = {f"{package.__name__}.{name}" for package in packages for name in package.__all__}
    assert len(names) > 80
    assert names - reference == set()


IN_COMMANDS = set(re.findall(r"--config=(?:configs/)?([a-z0-9_]+)(?:\.py)?(:[\w,/:]+)?", TEXT))
IN_COMMANDS |= set(re.findall(rf"`({'|'.join(CONFIGS)})(:[\w,/]+)?`", TEXT)) - {("ablations", ""), ("hybrid", "")}


def test_configs_in_commands_exist_and_every_config_is_documented():
    for name, argument in sorted(IN_COMMANDS):
        config = training.base_config(name + argument)
        validate = table_config.validate_config if config.task == table_config.TASK else validate_config
        validate(config)
    guide = (ROOT / "docs/guide/train.md").read_text()
    assert [name for name in CONFIGS if f"`{name}`" not in guide] == []


def test_fields_flags_and_files_in_commands():
    keys = set(re.findall(r"--config\.([\w.]+)", TEXT))
    configs = training.default_config(), table_config.default_config()
    fields = {field for config in configs for field in flat_fields(config.to_dict())}
    assert len(keys) > 5 and keys - fields == set()
    paths = set(re.findall(r"(?<![\w/])(?:bin|benchmarks)/\w+\.py", TEXT))
    assert len(paths) > 3 and {path for path in paths if not (ROOT / path).exists()} == set()
    folders = [ROOT / name for name in ("tf_resflow/cli", "benchmarks", "examples")]
    code = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    defined = set(re.findall(r'(?:DEFINE_\w+\(\s*"|add_argument\("--)(\w+)"', code))
    used = set(re.findall(r"--(\w+)(?=[= `,]|\n)", TEXT))
    of_other_tools = set("dir inputs logdir outdir rm runner signature_def tag_set".split())
    assert len(used) > 10 and used - defined == of_other_tools


def test_commands_are_installed():
    """The documentation mentions every script of the package, and no other command."""
    used = set(re.findall(r"(?<![\w-])resflow-[a-z-]+", TEXT))
    project = (ROOT / "pyproject.toml").read_text()
    scripts = re.findall(r'^(resflow-[a-z-]+) = "([\w.]+):(\w+)"$', project, re.MULTILINE)
    assert used == {name for name, _, _ in scripts}
    for _, module, function in scripts:
        assert callable(getattr(importlib.import_module(module), function))


def test_links_of_the_readme():
    """Links are absolute, because package indexes show the README, too. The paths in the README exist."""
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"(?<!!)\[[^]]*\]\((?!https:)", readme) == []
    paths = re.findall(r"`(docs/[\w/.]+|[A-Z]+\.(?:md|cff))`", readme)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_versions():
    """The citation has the version of the package, and a date if the changelog has one for this version."""
    sections = re.findall(r"^## (\S+)(?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [tuple(map(int, version.split("."))) for version, date in sections if date]
    citation = (ROOT / "CITATION.cff").read_text()
    version = re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1]
    date = re.search(r'^date-released: "(\S+)"$', citation, re.MULTILINE)
    assert version == tf_resflow.__version__ and released == sorted(set(released), reverse=True)
    if sections[0] == ("Unreleased", ""):
        assert tuple(map(int, version.split("."))) > released[0] and date is None
    else:
        assert sections[0] == (version, date[1])
