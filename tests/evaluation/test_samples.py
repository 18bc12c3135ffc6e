import collections
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import tf_resflow as resflow
from tf_resflow.evaluation import draw_samples, sampling, write_samples
from tf_resflow.evaluation.samples import check_paths, check_samples


def test_batches_make_the_samples_that_one_call_makes(monkeypatch):
    """Of a seed beyond 32 bits, too. All batches and temperatures are of one graph."""
    monkeypatch.setattr(sampling, "batch_size", lambda shape: 4)
    model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=1, hidden=(8,)), event_shape=[2])
    seed = 2**40
    traces, draw = [], sampling.sample_latent
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample_latent", lambda *args: traces.append(args) or draw(*args))
        batches = list(draw_samples(model, 11, seed=seed, temperatures=[1.0, 0.5, 0.0]))
    assert len(traces) == 1 and [len(batch) for batch in batches] == [4, 4, 3] * 3
    ones, halves, zeros = np.concatenate(batches).reshape(3, 11, 2)
    assert len(np.unique(ones, axis=0)) == 11
    np.testing.assert_allclose(zeros, zeros[:1].repeat(11, axis=0), atol=1e-5)
    assert np.all(np.linalg.norm(halves - zeros, axis=1) < np.linalg.norm(ones - zeros, axis=1))
    np.testing.assert_allclose(ones[:4], model.sample(4, seed), atol=1e-6)
    for fewer in (3, 6):
        drawn = np.concatenate(list(draw_samples(model, fewer, seed=seed)))
        np.testing.assert_allclose(drawn, ones[:fewer], atol=1e-6)


@pytest.mark.parametrize("levels", [None, 8])
def test_samples_that_are_not_finite(levels):
    """Of integer data, too, whose samples are integers in any case."""
    act_norm = resflow.bijectors.ActNorm([2])
    act_norm.shift.assign([np.nan, 0.0])
    model = resflow.FlowModel(resflow.bijectors.Flow([act_norm]), event_shape=[2], levels=levels)
    with pytest.raises(ValueError, match="temperature 7 are NaN or infinite"):
        list(draw_samples(model, 4, temperatures=[7.0]))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_bare_samples_are_written_as_they_come(tmp_path, dtype):
    """The first batch is in the file before the last one is drawn."""
    values = np.arange(5 * 6).reshape(5, 2, 3, 1).astype(dtype)
    path, sizes = tmp_path / "samples.NPY", []

    def batches(big):
        for start in (0, 2, 4):
            yield values[start : start + 2].repeat(big, axis=0)
            (file,) = set(tmp_path.iterdir()) - {path}
            sizes.append(file.stat().st_size)

    write_samples(path, batches(big=1), (1, 5, 2, 3, 1))
    read = np.load(path)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == dtype and os.listdir(tmp_path) == ["samples.NPY"]
    sizes.clear()
    write_samples(path, batches(big=5000), (1, 25_000, 2, 3, 1))
    assert sizes[0] < sizes[1] < sizes[2]
    assert np.load(path, mmap_mode="r").shape == (25_000, 2, 3, 1)


@pytest.mark.parametrize("name", ["samples.npy", "samples.png"])
def test_an_interrupted_draw_leaves_nothing(tmp_path, name):
    path = tmp_path / name
    path.write_text("before")

    def batches():
        yield np.zeros([3, 2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(path, batches(), (1, 6, 2))
    assert path.read_text() == "before" and os.listdir(tmp_path) == [name]


def test_vectors_are_drawn_over_data(tmp_path, figures):
    values = np.random.default_rng(0).normal(size=[2, 40, 3])
    fields = {"temperatures": [0.5, 1.0], "data": {"test data": values[0]}, "name": "demo"}
    write_samples(tmp_path / "samples.PNG", [*values], (2, 40, 3), **fields)
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["test data (40)", "temperature 0.5 (40)", "temperature 1 (40)"]
    assert figures[0].get_suptitle() == "demo"


def test_images(tmp_path):
    """One row is laid out as a square, several are as they are, with their labels."""
    values, path = np.full([4, 3, 3, 1], 16, np.uint8), tmp_path / "samples.png"
    write_samples(path, [values], (1, 4, 3, 3, 1), levels=17, temperatures=[0.5])
    square = np.asarray(Image.open(path))
    assert square.max() == 255 and square.shape[0] == square.shape[1]
    write_samples(path, [values], (2, 2, 3, 3, 1), levels=17, temperatures=[0.5, 1.0])
    rows = np.asarray(Image.open(path))
    assert rows.shape[0] == square.shape[0] and rows.shape[1] > square.shape[1] + 50


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9e9, 1e9, 8e9))
    check_samples(tmp_path / "a.npy", (10**9, 2))
    check_samples(tmp_path / "a.npy", (8 * 10**9, 1), levels=256)
    check_samples(tmp_path / "a.png", (5461, 32, 32, 3), levels=256)
    check_paths(tmp_path / "a.npy", (100, 4))
    check_paths(tmp_path / "a.png", (100, 2))
    check_paths(tmp_path / "a.npy", (2**28, 1))
    for check, name, shape, message in [
        (check_samples, "a.npy", (10**9 + 1, 2), r"1,000,000,001 samples take 8 GB, .* 8 GB free\. Lower --num"),
        (check_samples, "a.png", (5462, 32, 32, 3), "5,462 samples are too many for a picture, which takes 5,461"),
        (check_samples, "a.docx", (1, 2), "should end in .png or .npy"),
        (check_paths, "a.png", (100, 4), "Paths of vectors of 4 cannot be drawn.*npy"),
        (check_paths, "a.npy", (2**28 + 1, 1), "at most 268,435,456. Lower --num"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(tmp_path / name, shape)
