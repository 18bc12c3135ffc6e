import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tf_resflow import data
from tf_resflow.data import Dataset
from tf_resflow.training.config import default_config, with_fitting_warmup
from tf_resflow.training.workdir import Workdir


def begin(path, config):
    files = Workdir(path)
    files.prepare(config)
    files.write_config(config)


def test_config_round_trip(tmp_path):
    config = default_config()
    config.model.num_blocks = (2, 3, 4)
    config.model.logit_alpha = 1e-6
    begin(tmp_path / "new" / "run", config)
    read = Workdir(tmp_path / "new" / "run").read_config()
    assert read.to_dict() == config.to_dict()
    assert read.model.num_blocks == (2, 3, 4)
    assert read.is_locked


def test_a_run_without_a_field_that_is_new_has_its_default(tmp_path):
    config = default_config()
    older = config.to_dict()
    del older["model"]["block"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    Workdir(tmp_path).prepare(config)
    config.model.block = "affine_coupling"
    with pytest.raises(ValueError, match="config.model.block = 'residual', but now it is 'affine_coupling'"):
        Workdir(tmp_path).prepare(config)


def test_the_same_config_is_taken_again(tmp_path):
    for _ in range(2):
        begin(tmp_path, default_config())


@pytest.mark.parametrize(
    "key, value",
    [
        ("train.steps", 9000),
        ("data.data_dir", "elsewhere"),
        ("data.download", True),
        ("train.log_every", 7),
        ("eval.batch_size", 3),
    ],
)
def test_what_leaves_the_weights_alone_may_change(tmp_path, key, value):
    begin(tmp_path, default_config())
    config = default_config()
    config.update_from_flattened_dict({key: value})
    begin(tmp_path, config)
    assert Workdir(tmp_path).read_config().to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "key, value",
    [
        ("train.steps", 10),
        ("train.learning_rate", 0.5),
        ("model.num_blocks", (4, 5)),
        ("seed", 3),
        ("model.estimator.train.p", 0.25),
        ("train.batch_size", 32),
    ],
)
def test_another_config_is_refused_by_key(tmp_path, key, value):
    begin(tmp_path, default_config())
    before = (tmp_path / "config.json").read_bytes()
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"config.{key} = ") as error:
        Workdir(tmp_path).prepare(config)
    assert "another --workdir" in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_steps_may_not_grow_under_a_schedule_that_ends_with_them(tmp_path):
    config = default_config()
    config.train.schedule = "cosine"
    begin(tmp_path, config)
    config.train.steps += 1
    with pytest.raises(ValueError, match="config.train.steps = .* .the learning rate.s schedule ends with them."):
        begin(tmp_path, config)


@pytest.mark.parametrize("path", ["file/run", "file"])
def test_an_unwritable_workdir(tmp_path, path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ValueError, match="Cannot write to the workdir"):
        Workdir(tmp_path / path).prepare(default_config())


def test_a_run_whose_warm_up_was_shortened_takes_its_command_again(tmp_path):
    config = default_config()
    config.update_from_flattened_dict({"train.schedule": "cosine", "train.steps": 20})
    Workdir(tmp_path).write_config(with_fitting_warmup(config))
    Workdir(tmp_path).check_config(config)


def test_not_a_workdir(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        Workdir(tmp_path).read_config()


def test_an_unknown_key_of_another_version(tmp_path):
    Workdir(tmp_path).write_config(default_config())
    config = json.loads((tmp_path / "config.json").read_text())
    config["train"]["stesp"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'train.stesp'.*'train.steps'"):
        Workdir(tmp_path).read_config()


def test_the_data_of_a_run(tmp_path):
    """They come back; a run of an older version has not their classes; other data are refused."""
    images = {split: np.zeros([4, 2, 2, 1]) for split in ("train", "test")}
    labels = {split: np.arange(4) for split in images}
    dataset = Dataset.from_arrays("demo", images, 17, labels=labels, num_classes=4).with_channel_statistics()
    files = Workdir(tmp_path)
    files.write_data(dataset)
    info = files.read_data()
    assert (info.name, info.event_shape, info.levels, info.num_classes) == ("demo", (2, 2, 1), 17, 4)
    np.testing.assert_allclose(info.mean, [0.5 / 17], rtol=1e-6)
    older = json.loads(files.data.read_text())
    del older["num_classes"]
    files.data.write_text(json.dumps(older))
    assert files.read_data().num_classes is None
    files.check_data(dataset)
    files.write_data(dataset)
    assert files.read_data().num_classes == 4
    files.check_data(dataclasses.replace(dataset, mean=dataset.mean * (1 + 1e-7)))
    with pytest.raises(ValueError, match=r"their mean was \[0.0294\], but now it is \[0.0394\]"):
        files.check_data(dataclasses.replace(dataset, mean=dataset.mean + 0.01))
    with pytest.raises(ValueError, match="data 'demo' are not those"):
        other = Dataset.from_arrays("demo", images, 17, labels=labels, num_classes=5)
        files.check_data(other.with_channel_statistics())


def test_data_of_other_sizes_are_refused(tmp_path):
    files = Workdir(tmp_path)
    rows = {"train": np.zeros([4, 2]), "test": np.zeros([3, 2])}
    files.write_data(Dataset.from_arrays("demo", rows))
    assert files.read_data().sizes == {"train": 4, "test": 3}
    with pytest.raises(ValueError, match="their sizes was .*'train': 4.*, but now it is .*'train': 3"):
        files.check_data(Dataset.from_arrays("demo", rows | {"train": np.zeros([3, 2])}))


def _written_by_an_older_version(path, config, dataset):
    files = Workdir(path)
    files.write_config(config)
    files.write_data(dataset)
    older = json.loads(files.data.read_text())
    del older["sizes"]
    files.data.write_text(json.dumps(older))
    return files


def test_a_run_of_an_older_version_trains_on_all_its_images(tmp_path):
    """Its config has a fraction for validation, which was for tables alone."""
    config = default_config()
    all_images = data.load(config.data.to_dict() | {"validation_fraction": 0.0})
    files = _written_by_an_older_version(tmp_path, config, all_images)
    assert data.load(files.read_config().data).sizes == all_images.sizes
    files.check_data(data.load(files.read_config().data))
    with pytest.raises(ValueError, match=r"fraction = 0.0, but now it is 0.1 \(older .*fraction=0 resumes"):
        files.check_config(config)
    config.data.validation_fraction = 0.0
    files.check_config(config)
    files.write_data(all_images)
    files.write_config(config)
    assert files.read_config().data.validation_fraction == 0.0


def test_a_run_of_an_older_version_keeps_what_it_held_back_of_a_table(tmp_path):
    config = default_config()
    config.data.name = "tabular"
    rows = {split: np.zeros([4, 2]) for split in ("train", "validation", "test")}
    files = _written_by_an_older_version(tmp_path, config, Dataset.from_arrays("table", rows))
    assert files.read_config().data.validation_fraction == 0.1
    files.check_config(config)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[]", r"config.json should hold a JSON object, not \[\]"),
        (b"\xff\xfe\x00", "config.json is not valid JSON"),
        (b"{", "config.json is not valid JSON"),
        (b'{"seed": "many"}', "config.json has seed = 'many', which should be a value like 0"),
        (b'{"seed": null}', "config.json has seed = None"),
        (b'{"train": {"steps": 0}}', "config.json has a wrong value: config.train.steps is 0"),
        (b'{"model": {"norms": ["a", 2, 2, 2]}}', "config.json has a wrong value"),
        (b'{"train": 5}', "unknown key 'train'"),
    ],
)
@pytest.mark.parametrize("read", [Workdir.read_config, lambda files: files.prepare(default_config())])
def test_a_config_file_that_is_not_one(tmp_path, content, message, read):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(Workdir(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == content


@pytest.mark.parametrize("content", ["[]", "{}", '{"name": "demo", "mean": "a", "std": null, "event_shape": 5}'])
def test_a_data_file_that_is_not_one(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match="data.json"):
        Workdir(tmp_path).read_data()


def test_a_workdir_has_one_trainer(tmp_path):
    """The second is told who the first is; workers beside the chief and a later trainer are not kept out."""
    with Workdir(tmp_path / "run").locked():
        with pytest.raises(ValueError, match=f"Another trainer is at work in .*: process {os.getpid()} on "):
            with Workdir(tmp_path / "run").locked():
                pass
        with Workdir(tmp_path / "run", is_chief=False).locked():
            pass
    with Workdir(tmp_path / "run").locked():
        pass


def test_the_lock_of_a_killed_trainer_is_free_at_once(tmp_path):
    script = "import pathlib, sys, time, fcntl\nfile = open(sys.argv[1], 'a')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
    script += "file.write('process 1 on host0')\nfile.flush()\nprint('locked', flush=True)\ntime.sleep(60)"
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match="process 1 on host0. Wait until it ends"):
            with Workdir(tmp_path).locked():
                pass
        process.kill()
    with Workdir(tmp_path).locked():
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
