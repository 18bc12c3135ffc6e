import sys

import pytest

from tf_resflow.cli import config_file, train


@pytest.fixture
def with_flags(monkeypatch):
    """The flags of resflow-train, which are removed again."""
    before = set(train.FLAGS)
    monkeypatch.setattr("sys.path", list(sys.path))
    train.define_flags()
    yield
    for name in set(train.FLAGS) - before:
        delattr(train.FLAGS, name)


@pytest.mark.parametrize("value", ["digits", "hybrid:mnist_small", "FOLDER/digits.py", "FOLDER/hybrid.py:digits"])
def test_a_name_or_a_file(with_flags, value):
    folder = config_file.FOLDER
    name, colon, argument = value.partition(":")
    path = name.replace("FOLDER", str(folder)) if "/" in name else f"{folder}/{name}.py"
    expected, given = f"{path}{colon}{argument}", value.replace("FOLDER", str(folder))
    for before, after in (
        ([f"--config={given}"], [f"--config={expected}"]),
        (["-config", given], ["-config", expected]),
    ):
        argv = ["train", "--workdir=x", *before, "--config.train.steps=5"]
        assert config_file.checked(argv) == ["train", "--workdir=x", *after, "--config.train.steps=5"]


def test_no_config(with_flags):
    for argv in (["train"], ["train", "--config.seed=3"], ["train", "--config"]):
        assert config_file.checked(argv) == argv
