from tests.training.conftest import image_config, train, train_without_steps  # noqa: F401
