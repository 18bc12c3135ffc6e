"""The wheel, installed outside of the checkout, trains a config by name and has all commands."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
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


def _run(command, cwd, environment=None):
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def _outside():
    """The environment variables, without those that lead to the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept | {"TF_CPP_MIN_LOG_LEVEL": "2"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of a copy of the sources, and the commands of a new environment with the present dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in ("tf_resflow", "configs"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", sources, "--no-deps", "--no-build-isolation", "--no-index", "-w", folder], folder)
    (wheel,) = folder.glob("*.whl")
    python = folder / "environment/bin/python"
    _run([sys.executable, "-m", "venv", "--without-pip", folder / "environment"], folder)
    _run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    packages = _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # Python does not read the .pth files in this folder, one of which has the checkout.
    (pathlib.Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return wheel, folder / "environment/bin"


def test_a_training_by_name(installed, tmp_path):
    _, bin_folder = installed
    code = "import tf_resflow; print(tf_resflow.__file__)"
    where = _run([bin_folder / "python", "-c", code], tmp_path, _outside())
    assert pathlib.Path(where).is_relative_to(bin_folder.parent)
    arguments = ["--config=ablations:relu,toy2d", f"--workdir={tmp_path}/run", *TINY]
    stdout = _run([bin_folder / "resflow-train", *arguments], tmp_path, _outside())
    assert "after 3 steps" in stdout
    assert json.loads((tmp_path / "run/result.json").read_text())["num_examples"] == 20


def test_a_users_config_in_a_folder_of_the_same_name(installed, tmp_path):
    """It starts from a config of the package, and imports its neighbor. A wrong value stops it before training."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "toy2d.py").write_text("RATE = -3.0\n")
    (folder / "mine.py").write_text(MINE)
    command = [installed[1] / "resflow-train", "--config=configs/mine.py", f"--workdir={tmp_path}/run"]
    done = subprocess.run(command, cwd=tmp_path, env=_outside(), capture_output=True, text=True)
    assert done.returncode == 1 and "config.train.learning_rate is -3.0" in done.stderr


def test_the_commands(installed):
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r"^(resflow-[a-z-]+) = ", project, re.MULTILINE))
    assert {path.name for path in installed[1].glob("resflow-*")} == names and len(names) == 7


def test_contents(installed):
    """All modules, stubs and configs, and the marker of types. Nothing else is at the top level."""
    names = zipfile.ZipFile(installed[0]).namelist()
    files = {name for name in names if ".dist-info/" not in name}
    modules = {path for pattern in ("*.py", "*.pyi", "py.typed") for path in (ROOT / "tf_resflow").rglob(pattern)}
    configs = {f"tf_resflow/experiments/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert files == {path.relative_to(ROOT).as_posix() for path in modules} | configs
