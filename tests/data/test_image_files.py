"""Images from folders of files and from arrays."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tf_resflow.data import load, load_image_files
from tf_resflow.data.loading import load_images

pytestmark = pytest.mark.quick

COLOR = np.random.default_rng(0).integers(256, size=[20, 6, 4, 3]).astype(np.uint8)
GRAY = COLOR[..., 0]


def _write(folder, images, suffix="png"):
    """Writes one file per image, in reverse order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in reversed([*enumerate(images)]):
        Image.fromarray(image).save(folder / f"{index:02}.{suffix}", lossless=True)
    return folder


def _load(path, **fields):
    """Loads all images as the train split, unless fields set other fractions."""
    return load_image_files(str(path), **{"test_fraction": 0, "validation_fraction": 0, **fields})


def _refuse(message, path, **fields):
    with pytest.raises(ValueError, match=message):
        _load(path, **fields)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "PNG"])
def test_reads_a_folder_in_the_order_of_its_names(tmp_path, suffix, said):
    dataset = _load(_write(tmp_path / "faces", COLOR, suffix))
    assert (dataset.name, dataset.levels, dataset.num_classes) == ("faces", 256, None) and not said
    np.testing.assert_array_equal(dataset.array("train"), COLOR)


def test_all_images_to_score(tmp_path):
    """The images of all splits are loaded. Dark ones are accepted, unlike in training data."""
    _write(tmp_path / "faces" / "train", COLOR[:3])
    _write(tmp_path / "faces" / "test", COLOR[3:5] // 64)
    examples, files = load_images(tmp_path / "faces", event_shape=(6, 4, 3), levels=32)
    np.testing.assert_array_equal(examples, [*(COLOR[:3] // 8), *(COLOR[3:5] // 64 // 8)])
    names = ["train/00.png", "train/01.png", "train/02.png", "test/00.png", "test/01.png"]
    assert files == [str(tmp_path / "faces" / name) for name in names]
    gray, _ = load_images(_write(tmp_path / "gray", GRAY), event_shape=(6, 4, 3), levels=256)
    np.testing.assert_array_equal(gray, np.repeat(GRAY[..., np.newaxis], 3, axis=-1))
    np.save(tmp_path / "dark.npy", COLOR // 64)
    dark, files = load_images(tmp_path / "dark.npy", event_shape=(6, 4, 3), levels=32)
    assert not dark.any() and files is None


def test_reads_jpeg_as_it_is_shown(tmp_path):
    """The orientation in the EXIF data is applied."""
    image = Image.fromarray(np.tile(np.repeat([0, 255], 8).astype(np.uint8), [8, 1]))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    image = _load(tmp_path).array("train")[0, ..., 0]
    assert image.shape == (16, 8) and image[:7].max() < 20 and image[9:].min() > 235


def test_gray_and_color(tmp_path, said):
    _write(tmp_path, GRAY)
    Image.fromarray(GRAY[0] > 99).save(tmp_path / "99.png")  # of one bit
    images = _load(tmp_path).array("train")
    assert images.shape == (21, 6, 4, 1) and not said
    np.testing.assert_array_equal(images[..., 0], [*GRAY, np.where(GRAY[0] > 99, 255, 0)])
    _write(tmp_path, COLOR[:1])
    mixed = _load(tmp_path).array("train")
    np.testing.assert_array_equal(mixed[0], COLOR[0])
    np.testing.assert_array_equal(mixed[1:20], np.repeat(GRAY[1:, ..., np.newaxis], 3, axis=-1))
    assert len(said) == 1 and "20 gray images converted to color, such as" in said[0] and "01.png" in said[0]


def test_transparency_is_dropped(tmp_path, said):
    _write(tmp_path, np.concatenate([COLOR, GRAY[..., np.newaxis]], axis=-1))
    palette = Image.fromarray(COLOR[0]).quantize(256)
    palette.save(tmp_path / "00.png", transparency=0)
    np.testing.assert_array_equal(_load(tmp_path).array("train"), [np.asarray(palette.convert("RGB")), *COLOR[1:]])
    assert len(said) == 1 and "transparency of 20 images, such as" in said[0]


def test_other_files_are_skipped(tmp_path, said):
    _write(tmp_path, COLOR)
    (tmp_path / ".hidden.png").write_text("x")
    for folder in (".cache", "__MACOSX"):
        _write(tmp_path / folder, COLOR)
    assert _load(tmp_path).sizes == {"train": 20} and not said
    (tmp_path / "LICENSE").write_text("x")
    assert _load(tmp_path).sizes == {"train": 20}
    assert len(said) == 1 and "skipped 1 file without the suffix of an image" in said[0] and "LICENSE" in said[0]


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    for name, images in [("dogs", COLOR[:5]), ("cats", COLOR[5:8]), ("birds/small", COLOR[8:9])]:
        _write(tmp_path / name, images)
    dataset = _load(tmp_path)
    assert dataset.num_classes == 3
    x, label = next(iter(dataset.eval_batches("train", 20, labels=True)))
    np.testing.assert_array_equal(x, np.concatenate([COLOR[8:9], COLOR[5:8], COLOR[:5]]))
    np.testing.assert_array_equal(label, [0, 1, 1, 1, 2, 2, 2, 2, 2])
    _write(tmp_path / "one" / "all", COLOR)
    assert _load(tmp_path / "one").num_classes is None


@pytest.mark.parametrize("names", [("train", "test", "validation"), ("Training", "testing", "val")])
def test_folders_that_are_splits(tmp_path, names):
    for name, images in zip(names, (COLOR[:4], COLOR[4:8], COLOR[8:12]), strict=True):
        _write(tmp_path / name / "a", images[:3])
        _write(tmp_path / name / "b", images[3:])
    dataset = load_image_files(tmp_path, validation_fraction=0.25, test_fraction=0.25)
    assert dataset.num_classes == 2
    for split, images in {"train": COLOR[:4], "test": COLOR[4:8], "validation": COLOR[8:12]}.items():
        np.testing.assert_array_equal(dataset.array(split), images)


def test_splits_of_other_folders_or_of_none(tmp_path):
    _write(tmp_path / "a" / "train", COLOR[:8])
    _write(tmp_path / "b", COLOR[8:])
    dataset = _load(tmp_path / "a", path_test=str(tmp_path / "b"), validation_fraction=0.5)
    assert dataset.sizes == {"train": 4, "validation": 4, "test": 12}
    np.testing.assert_array_equal(dataset.array("test"), COLOR[8:])
    _write(tmp_path / "a" / "valid", COLOR[8:])
    assert _load(tmp_path / "a", test_fraction=0.25).sizes == {"train": 6, "test": 2, "validation": 12}


def test_drawn_splits_are_fixed_and_partition_the_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=COLOR, labels=np.arange(20))
    dataset = load_image_files(tmp_path / "a.npz", test_fraction=0.2)
    assert dataset.sizes == {"train": 14, "validation": 2, "test": 4}
    pairs = [next(iter(dataset.eval_batches(split, 20, labels=True))) for split in dataset.sizes]
    assert sorted(np.concatenate([labels for _, labels in pairs])) == [*range(20)]
    for x, labels in pairs:
        np.testing.assert_array_equal(x, COLOR[labels])
    again, other = (load_image_files(tmp_path / "a.npz", split_seed=seed).array("train") for seed in (0, 1))
    assert set(map(bytes, again)) != set(map(bytes, other))


def test_image_size_shrinks_the_square_in_the_center(tmp_path):
    wide = np.random.default_rng(1).integers(256, size=[1, 8, 13, 3]).astype(np.uint8)
    middle = wide[:, :, 2:10]
    for image, square in [(wide, middle), (wide.swapaxes(1, 2), middle.swapaxes(1, 2)), (middle, middle)]:
        expected = np.round(square.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)))
        np.save(tmp_path / "a.npy", image)
        for path in (tmp_path / "a.npy", _write(tmp_path / str(image.shape), image)):
            np.testing.assert_array_equal(_load(path, image_size=4).array("train")[0], expected)


def test_images_larger_than_the_most_are_shrunk_as_to_a_size(tmp_path, said):
    """So are images of several sizes. Smaller images keep their size, and image_size takes precedence."""
    np.save(tmp_path / "a.npy", COLOR)
    for path in (_write(tmp_path / "folder", COLOR), tmp_path / "a.npy"):
        expected = _load(path, image_size=4).array("train")
        np.testing.assert_array_equal(_load(path, max_image_size=4).array("train"), expected)
        assert _load(path, max_image_size=4, image_size=2).event_shape == (2, 2, 3)
        assert {_load(path, max_image_size=most).event_shape for most in (5, 6, 0)} == {(6, 4, 3)}
    assert len(said) == 2 and "shrunk to 4 x 4." in said[0]
    Image.fromarray(COLOR[0, :5]).save(tmp_path / "folder" / "07.png")
    assert _load(tmp_path / "folder", max_image_size=4).event_shape == (4, 4, 3)
    _refuse("2 different sizes", tmp_path / "folder", max_image_size=5)


@pytest.mark.parametrize("images, channels", [(COLOR, 3), (GRAY, 1), (GRAY[..., np.newaxis], 1)])
def test_arrays(tmp_path, images, channels):
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20)[:, np.newaxis] % 3)
    np.savez(tmp_path / "two.npz", x=images, y=images[:2])
    for file, key, num_classes in [("a.npy", "", None), ("a.npz", "", 3), ("two.npz", "x", None)]:
        dataset = _load(tmp_path / file, key=key)
        assert dataset.num_classes == num_classes
        np.testing.assert_array_equal(dataset.array("train"), images.reshape(20, 6, 4, channels))


def test_fewer_levels(tmp_path):
    np.save(tmp_path / "a.npy", COLOR)
    config = {"name": "images", "path": str(tmp_path / "a.npy"), "test_fraction": 0.0, "validation_fraction": 0.0}
    dataset = load({**config, "levels": 32, "flip": True, "crop_padding": 1})
    assert dataset.levels == 32 and dataset.flip and dataset.crop_padding == 1
    np.testing.assert_array_equal(dataset.array("train"), COLOR // 8)
    np.save(tmp_path / "b.npy", COLOR // 8)
    _refuse("b.npy: the largest value is 31, but levels = 32", tmp_path / "b.npy", levels=32)


def test_images_of_several_sizes(tmp_path, said):
    """Only the smaller images are named or skipped. They do not change the size of the others."""
    folder = _write(tmp_path / "a", COLOR)
    Image.fromarray(COLOR[0, :3]).save(folder / "07.png")
    _refuse(r"2 different sizes, .*19.png \(4 x 6\), .*07.png \(4 x 3\)\. .*image_size=N, with N up to 3", folder)
    assert _load(folder, image_size=3).event_shape == (3, 3, 3)
    for size in ({"image_size": 4}, {"max_image_size": 4}):
        _refuse(r"1 of 20 images cannot be used:\n .*07.png \(4 x 3\) is smaller than", folder, **size)
        dataset = _load(folder, skip_unreadable=True, **size)
        assert dataset.event_shape == (4, 4, 3) and dataset.sizes == {"train": 19}
        assert "1 of 20 images cannot be used:\n" in said[-1] and "07.png (4 x 3)" in said[-1]
    np.save(tmp_path / "a.npy", COLOR)
    for path, name in ((folder, r"19.png \(4 x 6\), .*07.png \(4 x 3\)"), (tmp_path / "a.npy", r"a.npy \(4 x 6\)")):
        _refuse(f"All images are smaller than image_size = 5: .*{name}", path, image_size=5)
    other = _write(tmp_path / "b", COLOR[:, :5])
    _refuse("have different event shapes", tmp_path / "a.npy", path_test=other)


def test_files_that_cannot_be_read_are_named_at_once_or_skipped(tmp_path, said):
    """Five of 25 files in two classes cannot be read."""
    cats, dogs = _write(tmp_path / "cats", COLOR[:12]), _write(tmp_path / "dogs", COLOR[12:])
    images = [Image.fromarray(x) for x in COLOR]
    images[0].save(cats / "moving.gif", save_all=True, append_images=images[1:4])
    Image.fromarray(GRAY[0].astype(np.uint16) * 200).save(dogs / "deep.png")
    Image.fromarray(GRAY[0].astype(np.float32)).save(dogs / "real.tiff")
    (cats / "cut.png").write_bytes((cats / "00.png").read_bytes()[:-60])  # its header is intact
    (dogs / "broken.png").symlink_to("away.png")
    reasons = ["moving.gif is an animation of 4", "deep.png has more than 8 bits", "real.tiff has more than 8 bits"]
    reasons += [f"{name}.png cannot be read as an image" for name in ("cut", "broken")]
    for reason in ["5 of 25 images cannot be used:\n", *reasons, "skip them with --config.data.skip_unreadable"]:
        _refuse(reason, tmp_path)
    dataset = _load(tmp_path, skip_unreadable=True, validation_fraction=0.25)
    assert dataset.sizes == {"train": 15, "validation": 5} and dataset.num_classes == 2
    for split in dataset.sizes:
        images = [np.asarray(Image.open(file)) for file in dataset.files[split]]
        np.testing.assert_array_equal(dataset.array(split), images)
    assert all(reason in said[-1] for reason in ["5 of 25 images cannot be used", *reasons])
    examples, files = load_images(tmp_path, event_shape=(6, 4, 3), levels=256, skip_unreadable=True)
    assert len(examples) == len(files) == 20
    for file in tmp_path.glob("*/[0-9c]*"):
        file.write_bytes(b"")
    _refuse("has no image that can be used", tmp_path, skip_unreadable=True)


def test_links_in_folders(tmp_path, said):
    """Links to folders are not followed. A link to a file that was already read is skipped."""
    for index, name in enumerate(("train/a", "train/b", "test/a", "test/b")):
        _write(tmp_path / name, COLOR[5 * index :][:5])
    links = {"up": "..", "train/c": "../test/a", "train/b/00_again.png": "../a/00.png", "train/a/here": "."}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    dataset = _load(tmp_path)
    assert dataset.sizes == {"train": 10, "test": 10}
    np.testing.assert_array_equal(dataset.array("train"), COLOR[:10])
    assert dataset.files["train"] == [str(tmp_path / f"train/{n}/0{i}.png") for n in "ab" for i in range(5)]
    assert f"already read by another path: {tmp_path}/train/b/00_again.png." in said[-1]


def test_a_split_within_another_and_a_folder_of_links(tmp_path):
    inner = _write(tmp_path / "all" / "b", COLOR[15:])
    _write(tmp_path / "all" / "a", COLOR[:15])
    dataset = _load(tmp_path / "all", path_test=inner)
    assert dataset.sizes == {"train": 15, "test": 5}
    (tmp_path / "links").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "links" / name).symlink_to(inner / "00.png")
    np.testing.assert_array_equal(_load(tmp_path / "links").array("train"), COLOR[15:16])


def test_folders_without_images_are_errors(tmp_path):
    _refuse("none cannot be read as an array", tmp_path / "none")
    _refuse("has no images .* Expected files that end in .png", tmp_path)
    _refuse("has no images of its own", _write(tmp_path / "dogs", COLOR), path_test=tmp_path / "dogs")
    _write(tmp_path, COLOR[:1])
    _refuse("both images and folders with images, such as dogs", tmp_path)


@pytest.mark.parametrize("names", [("test",), ("train", "cats"), ("val", "train", "valid")])
def test_folders_of_splits_that_are_not_clear_are_errors(tmp_path, names):
    for name in names:
        _write(tmp_path / name, COLOR[:1])
    _refuse(f"the folders {', '.join(sorted(names))}. Expected either train and, optionally", tmp_path)


def test_too_few_images_are_an_error(tmp_path):
    folder = _write(tmp_path / "b", COLOR[:4])
    _refuse("{'test': 4, 'train': 0}, but no split may be empty", folder, test_fraction=0.9)


def test_more_than_2_gb_are_an_error(tmp_path):
    """The error comes before any pixel is read."""
    num = 2**31 // 3000**2 + 1
    _write(tmp_path / "folder", np.zeros([1, 3000, 3000], np.uint8))
    for index in range(1, num):
        shutil.copy(tmp_path / "folder/00.png", tmp_path / f"folder/{index:03}.png")
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (num, 3000, 3000, 1))  # a sparse file
    for path in (tmp_path / "a.npy", tmp_path / "folder"):
        _refuse(f"{num} images of 3000 x 3000 x 1 need 2.0 GB .*store_as_tfds_dataset", path)


def test_splits_without_labels_or_with_others(tmp_path, said):
    for name in ("a", "b"):
        _write(tmp_path / "one" / name, COLOR[:3])
    _write(tmp_path / "two", COLOR[3:])
    np.savez(tmp_path / "two.npz", images=COLOR[3:], labels=np.arange(17))
    for other in ("two", "two.npz"):
        assert _load(tmp_path / "one", path_test=tmp_path / other).num_classes is None
    assert len(said) == 2 and all("labels are ignored" in text for text in said)


def test_other_arrays_are_errors(tmp_path):
    for arrays, message in [
        ([COLOR / 255], "contains float64 of shape .* Expected uint8 images"),
        ([COLOR.transpose(0, 3, 1, 2)], r"of shape \[20, 3, 6, 4\]"),
        ([np.array([[None]])], "cannot be read as an array of numbers"),
        ([COLOR, np.arange(19)], "has 19 labels of type int64. Expected 20 integers"),
    ]:
        np.savez(tmp_path / "a.npz", **dict(zip(["images", "labels"], arrays, strict=False)))
        _refuse(message, tmp_path / "a.npz")
