import numpy as np

from tf_resflow.data.augmentation import random_crop, random_flip

# Every pixel of an image differs from the others, so an image shows its shift.
IMAGES = np.tile(np.arange(30, dtype=np.uint8).reshape(1, 5, 6, 1), [4000, 1, 1, 2])


def test_crops_are_those_of_the_padded_image_and_equally_likely():
    crops = random_crop(IMAGES, 2, [3, 1]).numpy()
    assert crops.dtype == np.uint8
    padded = np.pad(IMAGES[0], [(2, 2), (2, 2), (0, 0)], mode="reflect")
    counts = [
        np.sum(np.all(crops == padded[i : i + 5, j : j + 6], axis=(1, 2, 3))) for i in range(5) for j in range(5)
    ]
    assert sum(counts) == 4000
    # Of 4,000 draws each of the 25 positions gets 160, with a standard deviation of 12.4.
    np.testing.assert_allclose(counts, 160, atol=4.5 * 12.4)


def test_half_of_the_images_are_mirrored():
    flipped = random_flip(IMAGES, [3, 1]).numpy()
    kept = np.all(flipped == IMAGES, axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~kept], IMAGES[~kept][:, :, ::-1])
    assert abs(np.mean(kept) - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_pure_functions_of_the_seed():
    for change in (random_flip, lambda x, seed: random_crop(x, 1, seed)):
        first, same, other = (change(IMAGES[:50], [0, step]) for step in (1, 1, 2))
        np.testing.assert_array_equal(first, same)
        assert np.any(first != other)
