import pytest

from tf_resflow.cli import config_file, train

pytestmark = pytest.mark.quick


@pytest.fixture
def checked(monkeypatch):
    """`config_file.checked` with the flags of resflow-train, which are removed again."""
    before = set(train.FLAGS)
    monkeypatch.setattr("sys.path", [])
    train.define_flags()
    yield config_file.checked
    for name in set(train.FLAGS) - before:
        delattr(train.FLAGS, name)


def test_a_name_or_a_file(checked):
    folder = config_file.FOLDER
    for given, file in {
        "digits": "digits.py",
        "hybrid:mnist_small": "hybrid.py:mnist_small",
        f"{folder}/digits.py": "digits.py",
        f"{folder}/hybrid.py:digits": "hybrid.py:digits",
    }.items():
        for before in (["train", "--workdir=x", "--config="], ["train", "--workdir=x", "-config", ""]):
            argv = [
                [*before[:-1], f"{before[-1]}{value}", "--config.train.steps=5"]
                for value in (given, f"{folder}/{file}")
            ]
            assert checked(argv[0]) == argv[1]


def test_no_config(checked):
    for argv in (["train"], ["train", "--config.seed=3"], ["train", "--config"]):
        assert checked(argv) == argv
