"""Each package imports only from packages above it in the table in CONTRIBUTING.md."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import tf_resflow

ROOT = pathlib.Path(__file__).parents[1]
ROWS = re.findall(
    r"^\| ?(library|applications|) \| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
)
PACKAGES = [name for _, name in ROWS]
LIBRARY = PACKAGES[: PACKAGES.index("data")]
EXCEPTION = "models/keras_training.py", "serving"  # `FlowModel.export` imports it when called
WITHOUT_EXTRAS = """
import importlib
import sys


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, NotInstalled())
for name in {packages}:
    package = importlib.import_module(f"tf_resflow.{{name}}")
    for export in package.__all__:
        getattr(package, export)
imported = {{name.split(".")[1] for name in sys.modules if name.startswith("tf_resflow.")}}
assert imported.isdisjoint({applications}), imported
"""
EXTRAS = ["ml_collections", "tensorflow_datasets", "pandas", "sklearn"]


def imported(path):
    """Yields the packages of this library that a module imports from, even inside functions."""
    for package in imports(path):
        if (path.relative_to(ROOT / "tf_resflow").as_posix(), package) != EXCEPTION:
            yield package


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tf_resflow":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_resflow."):
            yield node.module.split(".")[1]


def test_all_packages_are_listed():
    """The packages of the library come first."""
    assert [(floor, name) for floor, name in ROWS if floor] == [("library", "layers"), ("applications", "data")]
    assert PACKAGES.index("serving") + 1 == PACKAGES.index("data")
    found = {path.parent.name for path in (ROOT / "tf_resflow").glob("*/__init__.py")} - {"_internal"}
    assert set(PACKAGES) == found and len(PACKAGES) == len(found)


def test_the_docstring_lists_the_packages_in_the_same_order():
    assert re.findall(r"^- `(\w+)`", tf_resflow.__doc__, re.MULTILINE) == PACKAGES


@pytest.mark.parametrize("package", ["_internal", *PACKAGES])
def test_imports_from_packages_before(package):
    later = set(PACKAGES[PACKAGES.index(package) + 1 :]) if package in PACKAGES else set(PACKAGES)
    paths = list((ROOT / "tf_resflow" / package).rglob("*.py"))
    assert paths
    wrong = {path.name: set(imported(path)) & later for path in paths}
    assert {name: names for name, names in wrong.items() if names} == {}


def test_the_library_needs_no_packages_of_the_applications():
    """All names of the library are imported in one process, which imports no application either."""
    code = WITHOUT_EXTRAS.format(extras=EXTRAS, packages=LIBRARY, applications=PACKAGES[len(LIBRARY) :])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_estimator_of_tables_does_not_import_what_the_commands_use():
    paths = [path for path in (ROOT / "tf_resflow" / "tables").rglob("*.py") if path.parent.name != "runs"]
    assert len(paths) > 20
    assert [path.name for path in paths if "tf_resflow.tables.runs" in path.read_text()] == []


def test_the_picture_shows_all_imports():
    """What a package can reach along the arrows is what it imports, directly or not."""
    pairs = re.findall(r"^ +(\w+) --> (\w+)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    drawn = {package: {other for own, other in pairs if own == package} for package in PACKAGES}
    real = {}
    for package in PACKAGES:
        paths = (ROOT / "tf_resflow" / package).rglob("*.py")
        real[package] = {name for path in paths for name in imported(path)} & set(PACKAGES) - {package}
    for found in (drawn, real):
        for package in PACKAGES:  # those before are complete
            found[package] = found[package].union(*(found[other] for other in found[package]))
    assert drawn == real


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_shadows_an_export(package):
    """`from tf_resflow.PACKAGE import NAME` must not depend on earlier imports."""
    exported = set(getattr(importlib.import_module(f"tf_resflow.{package}"), "__all__", ()))
    assert exported & {path.stem for path in (ROOT / "tf_resflow" / package).glob("*.py")} == set()
