"""Each package imports only from packages above it in the table in CONTRIBUTING.md."""

import ast
import graphlib
import importlib
import importlib.util
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
APPLICATIONS = PACKAGES[len(LIBRARY) :]
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
assert imported.isdisjoint({not_imported}), imported
"""
EXTRAS = ["ml_collections", "tensorflow_datasets", "pandas", "sklearn"]


def files_of(package):
    """Returns the modules of a package, and the stubs with the names that its `__init__.py` imports lazily."""
    return [path for path in (ROOT / "tf_resflow" / package).rglob("*.py*") if path.suffix in (".py", ".pyi")]


def imports(path):
    """Yields the full names that a file imports, even inside functions, such as tf_resflow.layers.update_norms."""
    package = ".".join(path.parent.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_packages(package):
    """Returns the packages and other modules in `tf_resflow` that a package imports from, itself included.

    The name "tf_resflow" stands for `import tf_resflow`, which reaches all packages.
    """
    names = {name for path in files_of(package) for name in imports(path)}
    return {name.split(".")[:2][-1] for name in names if name.split(".")[0] == "tf_resflow"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_all_packages_are_listed():
    """The packages of the library come first."""
    assert [(floor, name) for floor, name in ROWS if floor] == [("library", "layers"), ("applications", "data")]
    assert LIBRARY == ["layers", "logdet", "solvers", "bijectors", "flows", "vi", "models"]
    found = {path.parent.name for path in (ROOT / "tf_resflow").glob("*/__init__.py")} - {"_internal"}
    assert set(PACKAGES) == found and len(PACKAGES) == len(found)


def test_the_docstring_lists_the_packages_in_the_same_order():
    assert re.findall(r"^- `(\w+)`", tf_resflow.__doc__, re.MULTILINE) == PACKAGES


@pytest.mark.parametrize("package", ["_internal", *PACKAGES])
def test_imports_from_packages_before(package):
    """The modules beside the packages import applications, so only the commands import them."""
    before = PACKAGES[: PACKAGES.index(package)] if package in PACKAGES else []
    allowed = {"_internal", "version", package, *before}
    if package == "cli":
        allowed.add("tf_resflow")
    assert files_of(package)
    assert imported_packages(package) - allowed == set()


def test_the_library_imports_only_by_statements():
    """Other imports would escape these tests. `extras` imports optional packages of other projects."""
    texts = {path: path.read_text() for package in ["_internal", *LIBRARY] for path in files_of(package)}
    pattern = rf"['\"]tf_resflow\.({'|'.join(APPLICATIONS)})[\w.]*['\"]|__import__"
    assert [path for path, text in texts.items() if re.search(pattern, text)] == []
    tools = re.compile(r"(importlib|lazy_loader|pkgutil|runpy)\b")
    users = [path.name for path in texts if any(map(tools.match, imports(path)))]
    assert set(users) == {"__init__.py", "extras.py"}


def test_no_files_import_each_other_in_a_circle():
    """A lazy package counts as an import of all of its names."""
    modules = {module_name(path) for path in files_of("")}
    graph = {name: set() for name in modules}
    for path in files_of(""):
        for name in imports(path):
            module = name if name in modules else name.rpartition(".")[0]
            graph[module_name(path)] |= {module} & modules - {module_name(path)}
    assert len(graph) > 150
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that has the circle


@pytest.mark.parametrize("packages", [LIBRARY, [*LIBRARY, "evaluation", "serving"]], ids=["library", "serving"])
def test_the_library_and_serving_need_no_packages_of_the_applications(packages):
    """All names of these packages are imported in one process, which imports no other application either."""
    not_imported = sorted(set(PACKAGES) - set(packages))
    code = WITHOUT_EXTRAS.format(extras=EXTRAS, packages=packages, not_imported=not_imported)
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
        real[package] = imported_packages(package) & set(PACKAGES) - {package}
    for found in (drawn, real):
        for package in PACKAGES:  # those before are complete
            found[package] = found[package].union(*(found[other] for other in found[package]))
    assert drawn == real


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_shadows_an_export(package):
    """`from tf_resflow.PACKAGE import NAME` must not depend on earlier imports."""
    exported = set(getattr(importlib.import_module(f"tf_resflow.{package}"), "__all__", ()))
    assert exported & {path.stem for path in (ROOT / "tf_resflow" / package).glob("*.py")} == set()
