"""The comparison of trainings without the published code, which is not available to the tests."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "output, override, message",
    [
        ("curves.json", "--config.model.factor_out=True", "Error: config.model.factor_out is not the default"),
        ("curves.json", "--config.task=hybrid", "Error: config.task is not the default"),
        ("no/curves.json", "--config.model.width=32", "Error: the directory of --output"),
    ],
)
def test_settings_that_cannot_be_compared(call, output, override, message, tmp_path):
    arguments = [f"--config={ROOT}/configs/mnist_small.py", f"--published_dir={tmp_path}"]
    done = call("benchmarks/compare_training.py", *arguments, f"--output={tmp_path}/{output}", override)
    assert done.code == 1 and message in done.output


def test_the_figure(tmp_path):
    curve = {"step": [1, 2], "seconds": [1.0, 3.0], "bits_per_dim": [3.0, 2.0]}
    code = f"import compare_training as b; b._draw(dict.fromkeys(b._NAMES, {curve}), 'mnist', 'curves.png')"
    environment = {"PYTHONPATH": str(ROOT / "benchmarks")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "curves.png").stat().st_size > 5000
