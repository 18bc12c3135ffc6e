import pytest
from absl import flags
from ml_collections import config_flags

from tf_resflow.cli import train
from tf_resflow.training import base_config

pytestmark = pytest.mark.quick


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """Parses a value of `--config`, in a folder that has files with the names of our configs."""
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.argv", ["train"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for path in ("digits.py", "configs/digits.py"):
        (tmp_path / path).write_text("raise ImportError('not ours')")
    return train.ConfigParser().parse


def test_a_name_or_a_file(parse, tmp_path):
    lines = ["from tf_resflow.training import base_config", "def get_config(steps='7'):"]
    lines += ["    config = base_config('digits')", "    config.train.steps = int(steps)", "    return config"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert parse("digits").to_dict() == base_config("digits").to_dict()
    assert parse("hybrid:mnist_small").task == "hybrid"
    assert parse("mine.py").train.steps == 7 and parse("mine.py:9").train.steps == 9


def test_arguments_of_pandas(monkeypatch):
    """Arguments arrive as a shell passes them: strings need no extra quotes, and other values are literals."""
    given = {"sep": ";", "decimal": ",", "encoding": "utf-16", "skiprows": "2", "na_values": "['-', '?']"}
    argv = ["train", "--config=tabular", *(f"--config.data.read_options.{k}={v}" for k, v in given.items())]
    monkeypatch.setattr("sys.argv", argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    values["config"].parser = train.ConfigParser()
    values(argv)
    options = {k: v for k, v in values.config.data.read_options.items() if v is not None}
    assert options == given | {"skiprows": 2, "na_values": ["-", "?"]}


def test_a_typo_in_a_field(parse, monkeypatch):
    for override, near in (("-config.steps=5", "train.steps"), ("--noconfig.data.flp", "data.flip")):
        monkeypatch.setattr("sys.argv", ["train", "--config=digits", "--config.data.path[0]=5", override])
        with pytest.raises(ValueError, match=f"has no field .*; did you mean '{near}'?"):
            parse("digits")
