"""A run with a 2-D density, for commands that run in this process."""

import pytest

import tf_resflow as resflow


@pytest.fixture(scope="session")
def plane(tmp_path_factory, make_config, run_without_work):
    """Returns the workdir of a run and the loaded run."""
    path = tmp_path_factory.mktemp("runs") / "plane"
    run_without_work(make_config(train__steps=1), path)
    return path, resflow.load(path)


@pytest.fixture
def run_on_plane(plane, run_command, monkeypatch):
    """Returns a function that runs a command on the run, given its module, the output and flags."""
    workdir, loaded = plane
    monkeypatch.setattr(resflow, "load", lambda workdir: loaded)
    return lambda command, output, *arguments: run_command(command, workdir, output, *arguments)
