import numpy as np
import pytest
from PIL import Image

from tf_resflow.evaluation import check_samples_path, write_samples


def test_bare_samples(tmp_path):
    samples = np.random.default_rng(0).normal(size=[4, 7])
    write_samples(tmp_path / "samples.npy", samples)
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), samples)


def test_points_in_the_plane(tmp_path):
    write_samples(tmp_path / "samples.png", np.random.default_rng(0).normal(size=[400, 2]))
    assert np.asarray(Image.open(tmp_path / "samples.png").convert("L")).std() > 5


def test_images(tmp_path):
    samples = np.full([4, 3, 3, 1], 16, np.uint8)
    write_samples(tmp_path / "samples.png", samples, levels=17)
    assert np.asarray(Image.open(tmp_path / "samples.png")).max() == 255


@pytest.mark.parametrize("name, match", [("a.txt", "neither"), ("none/a.png", "does not exist")])
def test_paths(tmp_path, name, match):
    with pytest.raises(ValueError, match=match):
        check_samples_path(tmp_path / name)


def test_vectors_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="npy"):
        write_samples(tmp_path / "samples.png", np.zeros([4, 7]))
