from tests.training.conftest import few_points, image_config, set_step, train, train_without_steps  # noqa: F401
