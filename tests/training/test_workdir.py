import dataclasses
import json
import os
import pathlib
import socket

import numpy as np
import pytest

from tf_resflow._internal.settings import flat_fields
from tf_resflow.data import Dataset
from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.config import FREE_FIELDS, default_config
from tf_resflow.training.workdir import Workdir

pytestmark = pytest.mark.quick


def changed(**fields):
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in fields.items()})
    return config


INFO = DataInfo("demo", (2,), None)


def begin(path, config):
    """Creates the workdir of a run with a checkpoint."""
    files = Workdir(path)
    files.check_config(config)
    files.begin(config, INFO)
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001"):
        (files.checkpoints / name).touch()
    return files


def test_a_run_without_a_field_that_is_new_has_its_default(tmp_path, refused):
    files = begin(tmp_path, default_config())
    content = json.loads(files.config.read_text())
    content["model"].pop("block")
    files.config.write_text(json.dumps(content))
    files.check_config(default_config())
    message = "config.model.block = 'residual', but now it is 'affine_coupling'"
    refused(message, files.check_config, changed(model__block="affine_coupling"))


MATTERS = {  # the other fields are free
    "": "seed task",
    "data.": "name levels split_train split_validation split_test flip crop_padding image_size max_image_size path "
    "path_validation path_test key validation_fraction test_fraction split_seed skip_unreadable num_test",
    "model.": "kind num_blocks coefficient activation norms learned_norms lipschitz_constant "
    "act_norm compute_dtype condition branch depth growth affine_layers hidden block inv_1x1_conv width kernels "
    "num_fc_blocks fc_width logit_alpha whiten squeeze_first factor_out dequantization dequantization_blocks "
    "dequantization_width",
    "model.estimator.train.": "kind num_probes rtol num_exact_terms distribution p num_terms",
    "hybrid.": "density_weight features",
    "train.": "steps batch_size optimizer learning_rate warmup_steps schedule beta_2 weight_decay ema_momentum "
    "global_clipnorm",
}
OTHER_VALUES = {str: "other", bool: True, int: 77, float: 0.25, tuple: (9,), type(None): 0.25}


def test_every_field_matters_or_is_free(tmp_path, refused):
    """A run resumes with another value of each free field, and of no other field."""
    matters = [f"{section}{name}" for section, names in MATTERS.items() for name in names.split()]
    defaults = flat_fields(default_config().to_dict())
    assert sorted([*matters, *FREE_FIELDS]) == sorted(defaults)  # each in exactly one
    files = begin(tmp_path, default_config())
    for field, default in defaults.items():
        other = not default if isinstance(default, bool) else OTHER_VALUES[type(default)]
        config = default_config()
        config.update_from_flattened_dict({field: other})
        assert other != default
        if field in FREE_FIELDS:
            files.check_config(config)
        else:
            refused(f"run with config.{field} = .*another --workdir", files.check_config, config)


def test_a_run_with_other_free_fields_is_continued(tmp_path):
    fields = {"train__steps": 9000, "train__log_every": 7, "eval__batch_size": 3}
    same = {"model__num_blocks": (2, 3, 4), "model__logit_alpha": 1e-6}
    begin(tmp_path / "new" / "run", changed(**same))
    config = changed(**same, **fields)
    read = begin(tmp_path / "new" / "run", config).read_config()
    assert read.to_dict() == config.to_dict() and read.model.num_blocks == (2, 3, 4) and read.is_locked


def test_another_config_is_refused_by_key(tmp_path, refused):
    files = begin(tmp_path, default_config())
    before = files.config.read_bytes()
    wrong = {"train__steps": 10, "train__learning_rate": 0.5, "model__num_blocks": (4, 5), "seed": 3}
    for key, value in (wrong | {"model__estimator__train__p": 0.25, "train__batch_size": 32}).items():
        message = f"config.{key.replace('__', '.')} = .*another --workdir"
        refused(message, files.check_config, changed(**{key: value}))
    assert files.config.read_bytes() == before
    cosine = begin(tmp_path / "cosine", changed(train__schedule="cosine"))
    message, longer = "config.train.steps = .* .steps may only increase", {"train__steps": 3001}
    refused(message, cosine.check_config, changed(train__schedule="cosine", **longer))


def test_a_run_without_its_files_is_not_begun_anew_but_one_without_a_checkpoint_gives_way(tmp_path, refused):
    files = begin(tmp_path, default_config())
    for name in ("data.json", "config.json"):
        (tmp_path / name).rename(tmp_path / "moved")
        refused(f"{name} is missing, but there are checkpoints .*backup", files.check_config, default_config())
        (tmp_path / "moved").rename(tmp_path / name)
    other, data = changed(seed=3), dataclasses.replace(INFO, event_shape=(3,))
    for path in files.checkpoints.iterdir():
        path.unlink()
    files.check_config(other)
    files.check_data(data)
    refused("has no checkpoint yet", files.check_trained)
    line = {"step": 400, "examples_per_second": 1.0}  # before the first checkpoint, at step 500
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line))
    files.check_config(other)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line | {"step": 600}))
    refused("metrics up to step 600, .*checkpoints is empty", files.check_config, other)


def test_data_are_found_from_anywhere(tmp_path, monkeypatch, refused):
    """Data are found by the absolute path, or else by the path in the config. A resumed run may use either path."""
    for folder in ("home", "away"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "home")
    pathlib.Path("t.npz").touch()
    config = changed(data__name="images", data__path="t.npz", data__data_dir="tfds")
    files = begin(tmp_path / "run", config)
    assert files.read_config().to_dict() == config.to_dict()
    monkeypatch.chdir(tmp_path / "away")
    absolute = str(tmp_path / "home" / "t.npz")
    found = files.config_of_data().data
    assert (found.path, found.path_test, found.data_dir) == (absolute, "", "tfds")
    for path in ("t.npz", absolute):
        files.check_config(changed(data__name="images", data__path=path, data__data_dir="tfds"))
    other = changed(data__name="images", data__path="other.npz", data__data_dir="tfds")
    refused("config.data.path = 't.npz', but now", files.check_config, other)
    other = changed(data__name="images", data__path="t.npz", data__path_test="u.npz", data__data_dir="tfds")
    refused("config.data.path_test = '', but now", files.check_config, other)
    pathlib.Path(absolute).unlink()
    refused(f"not at {absolute} or .*away/t.npz. .*--data_path", files.config_of_data)
    refused(r"not at [^ ]*gone.npz\. Give", files.config_of_data, data_path="gone.npz")
    pathlib.Path("t.npz").touch()
    assert files.config_of_data().data.path == "t.npz"
    assert files.config_of_data(data_path="../away/t.npz").data.path == "../away/t.npz"


def test_the_data_of_a_run(tmp_path, refused):
    """The properties of the data are restored, and different data are refused."""
    images = {split: np.zeros([4, 2, 2, 1]) for split in ("train", "test")}
    labels = {split: np.arange(4) for split in images}
    dataset = Dataset.from_arrays("demo", images, 17, labels=labels, num_classes=4).with_channel_statistics()
    files = Workdir(tmp_path)
    files.check_data(dataset)
    files.begin(default_config(), dataset)
    (files.checkpoints / "ckpt-1.index").touch()
    content = json.loads(files.data.read_text())
    files.data.write_text(json.dumps(content | {"codes": None, "columns": None}))  # as in the pretrained models
    info = files.read_data()
    assert (info.name, info.event_shape, info.levels, info.num_classes) == ("demo", (2, 2, 1), 17, 4)
    assert info.sizes == {"train": 4, "test": 4}
    np.testing.assert_allclose(info.mean, [0.5 / 17], rtol=1e-6)
    other = dataclasses.replace(dataset, num_classes=5)
    refused("data 'demo' differ from .* num_classes was 4", files.check_data, other)


def test_a_config_file_that_is_not_one(tmp_path, refused):
    files = Workdir(tmp_path)
    refused("no config.json", files.read_config)
    for content, message in [
        (b"[]", "valid JSON"),
        (b"\xff\xfe\x00", "valid JSON"),
        (b'{"seed": "many"}', "many is of original type"),
        (b'{"train": {"steps": 0}}', "config.train.steps is 0"),
        (b'{"train": 5}', "of this version"),
        (b'{"train": {"stesp": 5}}', "stesp"),
        (b'{"model": {"normalization": "schatten"}}', "config.model.normalization must be 'induced'"),
    ]:
        files.config.write_bytes(content)
        refused(f"config.json is not .*{message}", files.read_config)
        assert files.config.read_bytes() == content
    files.config.write_text('{"data": {"name": "tabular", "columns": "age"}}')
    refused("is a run on a table of an earlier version", files.read_config)
    files.config.write_text('{"model": {"normalization": "induced"}}')  # a field of an earlier version
    assert files.read_config() == default_config()


def test_a_workdir_has_one_trainer(tmp_path, refused):
    """The error of a second trainer names the first. Other workers and later trainers may use the workdir."""
    pytest.importorskip("fcntl")
    files, this = Workdir(tmp_path), f"process {os.getpid()} on {socket.gethostname()}"
    for _ in range(2):
        with files.locked():
            assert (tmp_path / "lock").read_text() == f"{this}\n"
            message = f"Another trainer is running in .*: {this}. Wait until it ends"
            refused(message, files.locked().__enter__, error=BlockingIOError)
            with Workdir(tmp_path, is_chief=False).locked():
                pass
