r"""Your own images, of 8 to 64 pixels a side, with a small model, for a machine without a GPU.

resflow-train --config=images --workdir=runs/mine --config.data.path=DIR
resflow-train --config=best_small:images:32 --workdir=runs/mine --config.data.path=DIR

DIR is a folder of PNG, JPEG or WebP files, or a .npy or .npz file of uint8 images. Its subfolders are classes,
except that subfolders named train, test and validation are splits. Missing splits are drawn from the images, a
tenth for each. With a size (32 in the second command), the central square of each image is shrunk to it. Without a
size, images of several sizes or above 32 pixels a side are shrunk to 32; others keep their size, a multiple of 4 on
each side. --config.data.flip=True mirrors images at random. The weights with the best validation score are kept,
and training ends after four scores without a better one.

Start with the second command, whose model scores best on photographs. Its 4,000 steps of 16 color images took 0.2 s
each on two cores, 14 minutes. For digits and drawings on a black background, use learned noise:
--config.model.whiten=False --config.model.logit_alpha=0.05 --config.model.dequantization=variational.

A step of the first command's model, with 64 images, took 0.4 s with gray images of 28 x 28, 0.6 s with color images
of 32 x 32 and 1.0 s with ":64" at best, up to twice as long on busy cores: 3,000 steps of 0.6 s are half an hour.
"""

from tf_resflow.training import default_config


def get_config(size="0"):
    """Returns the config: three scales of two blocks, four fully connected blocks."""
    if not size.isdecimal() or int(size) not in range(0, 65, 8):
        raise ValueError(f"The size is {size!r}. It must be a multiple of 8 up to 64, as in --config=images:32.")
    config = default_config()
    config.model.activation = "lipswish"
    config.data.name = "images"
    config.data.image_size = int(size)
    config.data.max_image_size = 32
    config.model.squeeze_first = int(size) > 32
    config.model.num_blocks = (2, 2, 2)
    config.model.width = 64
    config.model.num_fc_blocks = 4
    config.model.fc_width = 64
    config.model.logit_alpha = 0.05
    config.train.steps = 3000
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 300
    config.train.schedule = "cosine"
    config.train.global_clipnorm = 1.0
    config.train.eval_every = 250
    config.train.keep_best = True
    config.train.patience = 4
    config.train.checkpoint_every = 500
    config.eval.num_examples = 500
    return config
