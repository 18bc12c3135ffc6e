import pytest
from absl import flags
from ml_collections import config_flags

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


def test_arguments_of_pandas(checked):
    """As a shell passes them: strings need no quotes of their own, and other values are literals."""
    given = {"sep": ";", "decimal": ",", "encoding": "utf-16", "skiprows": "2", "na_values": "['-', '?']"}
    argv = ["train", "--config=tabular", *(f"--config.data.read_options.{k}={v}" for k, v in given.items())]
    argv, values = checked(argv), flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    values(argv)
    options = {k: v for k, v in values.config.data.read_options.items() if v is not None}
    assert options == given | {"skiprows": 2, "na_values": ["-", "?"]}
    with pytest.raises(SystemExit, match="Did you mean 'data.read_options.sep'"):
        checked(["train", "--config=tabular", "--config.data.read_options.spe=;"])


def test_no_config(checked):
    for argv in (["train"], ["train", "--config.seed=3"], ["train", "--config"]):
        assert checked(argv) == argv
