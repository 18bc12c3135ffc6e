"""Tests of runs in single files and of the pretrained models."""

import functools
import os
import pathlib
import re
import shutil
import zipfile

import keras
import numpy as np
import pytest

import tf_resflow as resflow
from tf_resflow import training
from tf_resflow._internal.settings import flat_fields
from tf_resflow.training import workdir
from tf_resflow.training.workdir import open_workdir

ROOT = pathlib.Path(__file__).parents[2]
KINDS = {
    "own images": {"data__name": "images", "train__keep_best": True},
    "labeled images": {"model__condition": "label", "model__dequantization": "variational"},
    "hybrid": {"task": "hybrid"},
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, image_config, run_without_work):
    """Returns a function of a kind to a run, whose weights differ from the initial weights of its seed."""

    @functools.cache
    def run_of(kind):
        folder = tmp_path_factory.mktemp("run")
        fields = KINDS[kind] | {"train__steps": 1}
        if kind == "own images":
            images = np.random.default_rng(0).integers(256, size=[80, 8, 8, 1]).astype(np.uint8)
            np.save(folder / "images.npy", images[:60])
            np.save(folder / "test.npy", images[60:])
            fields |= {"data__path": str(folder / "images.npy"), "data__path_test": str(folder / "test.npy")}
        run_without_work(image_config(**fields), folder / "run")
        run = resflow.load(folder / "run")
        rng = np.random.default_rng(1)
        for variable in run.model.trainable_variables:
            variable.assign_add(0.1 * rng.normal(size=variable.shape))
        return run

    return run_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_all_of_a_run_but_the_places_of_its_data(kind, run_of, tmp_path, refused):
    run, path = run_of(kind), tmp_path / "model.keras"
    run.save(path)
    loaded = resflow.load(path)
    for ours, theirs in zip(run.model.weights, loaded.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), ours.path)
    before, after = (flat_fields(each.config.to_dict()) for each in (run, loaded))
    changed = {key: after[key] for key in before if before[key] != after[key]}
    assert changed == ({"data.path": "images.npy", "data.path_test": "test.npy"} if kind == "own images" else {})
    assert workdir._data_info(loaded.data) == workdir._data_info(run.data)
    assert loaded.result == run.result
    assert (loaded.step, loaded.is_best) == (1, kind == "own images")
    assert loaded.workdir == path and open_workdir(path).is_begun()
    model = keras.models.load_model(path)
    np.testing.assert_equal(model.get_weights(), run.model.get_weights())
    run.model.save(tmp_path / "alone.keras")
    np.testing.assert_equal(resflow.load(tmp_path / "alone.keras").get_weights(), run.model.get_weights())
    content = b"".join(zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist())
    assert str(run.workdir.parent).encode() not in content
    if kind == "own images":
        refused("data of the run in .*model.keras are not at .*images.npy. .*--data_path", training.load_data, path)
        data_path = str(run.workdir.parent / "images.npy")
        assert training.load_data(path, data_path=data_path).sizes == run.data.sizes
        np.save(tmp_path / "fewer.npy", np.load(data_path)[:50])
        fewer = {"data_path": str(tmp_path / "fewer.npy")}
        refused("differ from the data of the run in .*: sizes was", training.load_data, run.workdir, **fewer)


def test_what_is_not_a_whole_file(run_of, tmp_path, refused):
    """Tries a file of another type, a truncated file, files with a changed byte in a member, and another model."""
    run, path = run_of("hybrid"), tmp_path / "model.keras"
    run.save(path)
    content = path.read_bytes()
    wrong = {"a.txt": b"no run", "b.zip": content[: len(content) // 2]}
    for name in ("config.json", "data.json", "weights.json", "model.weights.h5", "result.json"):
        member = name if name.endswith(".h5") else f"run/{name}"
        place = content.index(member.encode()) + len(member) + 20
        wrong[f"{name}.zip"] = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for name, changed in wrong.items():
        (tmp_path / name).write_bytes(changed)
        refused(f"{name} is not a complete file of a trained run: .*resflow.load", resflow.load, tmp_path / name)
    refused("'model.bin. should end in .keras", run.save, tmp_path / "model.bin")
    other = tmp_path / "other.keras"
    for name, new, message in (
        ("run/weights.json", b"{}", "not a complete file .*'step'"),
        ("run/data.json", b" " * 2_000_000, "run/data.json would unpack to 2,000,000 bytes"),
    ):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as target:
            for member in source.namelist():
                target.writestr(member, new if member == name else source.read(member))
        refused(message, resflow.load, other)


def test_released_models_are_found_and_checked(tmp_path, monkeypatch, refused):
    """Models are found in a checkout, or else in the cache. Wrong names, missing and wrong files are errors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_workdir("pretrained:digits").source == ROOT / "pretrained" / "digits.keras"
    monkeypatch.setattr(workdir, "_PACKED", tmp_path / "none")
    cache = tmp_path / "tf_resflow"
    refused(rf"Download digits.keras from .* to {re.escape(str(cache))}", resflow.load, "digits")
    refused("no pretrained model 'digit'; .*'digits'.*pinwheel", open_workdir, "pretrained:digit")
    refused("read-only. Give a folder", workdir.Workdir, "pretrained:digits")
    cache.mkdir()
    shutil.copy(ROOT / "pretrained" / "digits.keras", cache)
    assert open_workdir("pretrained:digits").source == cache / "digits.keras"
    shutil.copy(ROOT / "pretrained" / "pinwheel.keras", cache / "digits.keras")
    refused("is not the model 'digits' of this version", open_workdir, "pretrained:digits")
    os.mkdir("digits")
    refused("digits is not the workdir of a run", resflow.load, "digits")


def test_a_file_of_version_0_2():
    """Version 0.2 released the pinwheel model as a .zip file, whose weights have settings but no config."""
    old, new = resflow.load(pathlib.Path(__file__).with_name("run_of_version_0_2.zip")), resflow.load("pinwheel")
    x, model = new.model.sample(4, seed=0), keras.models.load_model(ROOT / "pretrained" / "pinwheel.keras")
    np.testing.assert_array_equal(old.model.log_prob(x, 1), new.model.log_prob(x, 1))
    np.testing.assert_array_equal(model.log_prob(x, 1), new.model.log_prob(x, 1))
    assert (old.step, old.result) == (new.step, new.result)
