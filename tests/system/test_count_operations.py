import re

import pytest

SMALL = ["num_blocks=(2,1)", "width=8", "num_fc_blocks=1", "fc_width=4"]
RUN = ["--config.train.steps=1000", "--config.train.batch_size=1000", "--tflops=1", "--terabytes=1", "--share=0.5"]


def test_counts_of_a_small_model(call):
    """Two blocks of 8 x 8 x 1, one of 4 x 4 x 4, a fully connected one; 7 + 4 products of each layer."""
    flags = [f"--config.model.{field}" for field in SMALL]
    done = call("benchmarks/count_operations.py", "--config=configs/digits.py", "--shape=8,8,1", *flags, *RUN)
    assert done.code == 0, done.output
    large, small = 64 * (9 * 8 + 8 * 8 + 8 * 9), 16 * (9 * 4 * 8 + 8 * 8 + 9 * 8 * 4)
    products = 2 * large + small + (64 * 4 + 4 * 4 + 4 * 64)
    channels = 2 * 64 * (9 + 16 + 9) + 16 * (12 + 16 + 12) + (68 + 8 + 68)
    operations, moved = 1e6 * 2 * 11 * products, 1e6 * 2 * 11 * 4 * channels
    assert f"1,000,000 images: {operations:.3g} operations, {moved:.3g} bytes" in done.output
    assert f"{11 * 12} products one after the other" in done.output
    assert f"{(operations + moved) / 0.5e12:,.0f} seconds on one GPU, at 50%" in done.output


def test_counts_of_learned_noise(call):
    """A block of kernels 3, 1, 3 on one channel, and the two layers of the context, which have no series."""
    flags = [f"--config.model.{field}" for field in (*SMALL, "dequantization_blocks=1", "dequantization_width=4")]
    found = []
    for noise in ("uniform", "variational"):
        arguments = ("--config=configs/digits.py", "--shape=8,8,1", f"--config.model.dequantization={noise}")
        done = call("benchmarks/count_operations.py", *arguments, *flags, *RUN)
        found.append(float(re.search("([0-9.e+]+) operations, ", done.output)[1]))
    branch, context = 64 * (9 * 4 + 4 * 4 + 9 * 4), 64 * (9 * 4 + 9 * 4 * 4)
    assert found[1] - found[0] == pytest.approx(
        1e6 * 2 * (11 * branch + 3 * context), rel=0.05
    )  # of three digits each


def test_a_model_without_residual_blocks_is_refused(call):
    done = call("benchmarks/count_operations.py", "--config=configs/toy2d.py")
    assert done.code == 1 and "residual blocks on images" in done.output
