import tensorflow as tf

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
