"""Tests that the wheel, installed outside the checkout, trains a config by name and contains all commands."""

import functools
import json
import os
import pathlib
import re
import shutil
import sysconfig
import zipfile

import pytest

from tests.conftest import ROOT

TINY = ["--config.model.num_blocks=(1,)", "--config.data.num_test=20"]
TINY += [f"--config.train.{field}" for field in ("steps=3", "warmup_steps=1", "batch_size=16")]

MINE = """
from configs.toy2d import RATE
from tf_resflow.training import base_config

def get_config():
    config = base_config("monotone:toy2d")
    config.train.learning_rate = RATE
    return config
"""


# Without the variables that make Python find the checkout.
OUTSIDE = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory, process):
    """A wheel of a copy of the sources, and the folder with its commands in a new environment."""
    folder, run = tmp_path_factory.mktemp("wheel"), functools.partial(process, check=True)
    sources = folder / "sources"
    for name in ("tf_resflow", "configs"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = ["-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", sources, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    python = folder / "environment/bin/python"
    run("-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    done = run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", program=python, cwd=folder)
    # Python does not read the .pth files in this folder. One of them would add the checkout to the path.
    (pathlib.Path(done.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return wheel, folder / "environment/bin"


def test_a_training_by_name(installed, tmp_path, process):
    options = {"cwd": tmp_path, "environment": OUTSIDE, "check": True}
    code = "import tf_resflow; print(tf_resflow.__file__)"
    where = process("-c", code, program=installed[1] / "python", **options).stdout
    assert pathlib.Path(where).is_relative_to(installed[1].parent)
    arguments = ["--config=ablations:relu,toy2d", f"--workdir={tmp_path}/run", *TINY]
    assert "after 3 steps" in process(*arguments, program=installed[1] / "resflow-train", **options).stdout
    assert json.loads((tmp_path / "run/result.json").read_text())["num_examples"] == 20


def test_a_users_config_in_a_folder_of_the_same_name(installed, tmp_path, process):
    """The config extends a config of the package and imports another file. An invalid value stops the training."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "toy2d.py").write_text("RATE = -3.0\n")
    (folder / "mine.py").write_text(MINE)
    options = {"program": installed[1] / "resflow-train", "cwd": tmp_path, "environment": OUTSIDE}
    done = process("--config=configs/mine.py", f"--workdir={tmp_path}/run", **options)
    assert done.returncode == 2 and "config.train.learning_rate is -3.0" in done.stderr


def test_contents(installed):
    """The wheel contains the commands, all modules, stubs and configs, and py.typed, and nothing else."""
    commands = set(re.findall(r"^(resflow-[a-z-]+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert {path.name for path in installed[1].glob("resflow-*")} == commands and len(commands) == 6
    names = zipfile.ZipFile(installed[0]).namelist()
    files = {name for name in names if ".dist-info/" not in name}
    modules = {
        path for pattern in ("*.html", "*.py", "*.pyi", "py.typed") for path in (ROOT / "tf_resflow").rglob(pattern)
    }
    configs = {f"tf_resflow/experiments/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert files == {path.relative_to(ROOT).as_posix() for path in modules} | configs
