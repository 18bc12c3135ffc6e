"""Converts tutorial notebooks to pages when the site is built. They are executed unless EXECUTE_NOTEBOOKS=0."""

import os
import pathlib
import re
import tempfile

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter

_SECONDS = 600  # time limit per cell
_WARNING = re.compile(r"WARNING|Warning:|AutoGraph|retracing")


def on_files(files, config):
    """Adds a page and its figures for each notebook. The page links to the notebook file."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page, figures = _page(pathlib.Path(file.abs_src_path))
        name = pathlib.PurePosixPath(file.src_uri)
        files.append(File.generated(config, str(name.with_suffix(".md")), content=page))
        for figure, content in figures.items():
            files.append(File.generated(config, str(name.parent / figure), content=content))
    return files


def _execute(notebook, path):
    """Executes a notebook and stores its outputs; raises PluginError if a cell fails."""
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        try:
            NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3", resources=resources).execute()
        except CellExecutionError as error:
            raise PluginError(f"{path.name}: {error}") from error


def _page(path):
    """Returns the page of a notebook as Markdown, and a dict from file names to figures."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["language_info"] = {"name": "python"}  # enables syntax highlighting
    if os.environ.get("EXECUTE_NOTEBOOKS") != "0":
        _execute(notebook, path)
    for cell in notebook.cells:
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        _check(cell.outputs, path)
    names = {"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    page, resources = MarkdownExporter().from_notebook_node(notebook, names)
    return f"{page}\n[Download this notebook]({path.name})\n", resources["outputs"]


def _check(outputs, path):
    """Raises PluginError if an output has a warning, because TensorFlow prints warnings to stdout in a notebook."""
    texts = [str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs]
    for text in texts:
        if _WARNING.search(text):
            raise PluginError(f"{path.name}: a cell prints a warning. Fix its cause. {text}")
