import tensorflow as tf

from tests.serving.conftest import export_dir, image_model, images  # noqa: F401

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
