import pathlib

from tf_resflow.cli.plot_runs import run_names


def test_runs_with_the_same_name_are_distinguished():
    """A run that is given twice appears once."""
    paths = ["runs/a/x", "runs/b/x", "/else/runs/b/x", "runs/y/", "runs/a/../a/x"]
    names, here = run_names(paths), pathlib.Path().resolve().name
    assert list(names) == ["a/x", f"{here}/runs/b/x", "else/runs/b/x", "y"]
    assert list(names.values()) == ["runs/a/../a/x", *paths[1:4]]
