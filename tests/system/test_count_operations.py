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
    assert f"{(operations + moved) / 0.5e12 / 3600:,.1f} hours on one GPU, at 50%" in done.output


def test_a_model_without_residual_blocks_is_refused(call):
    done = call("benchmarks/count_operations.py", "--config=configs/toy2d.py")
    assert done.code == 1 and "residual blocks on images" in done.output
