r"""Draws samples of a trained model: images as a PNG grid, vectors as .npy or, in 2-D, as a PNG.

python bin/sample.py --workdir=runs/digits --output=samples.png --num=64 --temperature=0.8
python bin/sample.py --workdir=runs/digits --output=rows.png --temperature=0.5,0.7,0.9,1.0
python bin/sample.py --workdir=runs/digits --output=paths.png --interpolate=pairs

Several temperatures make one row each, of the same --num latents. --interpolate goes through the latent
space between held-out examples, which --seed chooses: "pairs" in --num rows from one to another, "corners"
over a --num x --num square with one at each corner.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import flags

from tf_resflow import data, evaluation, training

_SIDE = 10  # images in a row of a sweep or a path, and rows of paths, unless --num says otherwise

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .png, or .npy for the bare samples.")
_NUM = flags.DEFINE_integer("num", None, "Number of samples, 64; in a row, or of rows, 10.", 1)
_TEMPERATURE = flags.DEFINE_list("temperature", ["1.0"], "Scales the base distribution.")
_INTERPOLATE = flags.DEFINE_enum("interpolate", None, ["pairs", "corners"], "Between examples.")
_SEED = flags.DEFINE_integer("seed", 0, "The same seed draws the same samples.", 0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, if not where they were.")
flags.mark_flags_as_required(["workdir", "output"])


@flags.validator("temperature", "it must be numbers of at least 0, separated by commas")
def _are_temperatures(values):
    try:
        return bool(values) and all(float(value) >= 0.0 for value in values)
    except ValueError:
        return False


@flags.multi_flags_validator(["temperature", "interpolate"], "--interpolate takes no temperature")
def _exclude_each_other(values):
    return not values["interpolate"] or values["temperature"] == ["1.0"]


def main():
    """Samples and writes the file."""
    evaluation.check_samples_path(_OUTPUT.value)
    model = training.load(_WORKDIR.value)
    samples, columns = _interpolations(model) if _INTERPOLATE.value else _samples(model)
    evaluation.write_samples(_OUTPUT.value, samples, model.levels, columns)
    print(f"{len(samples)} samples: {_OUTPUT.value}")


def _samples(model):
    """The samples of each temperature, and how many make a row."""
    temperatures = [float(value) for value in _TEMPERATURE.value]
    sweep = len(temperatures) > 1
    num = _NUM.value or (_SIDE if sweep else 64)
    draw = tf.function(model.sample, autograph=False)
    temperatures = tf.constant(temperatures, model.distribution.dtype)
    samples = [draw(num, _SEED.value, temperature=t).numpy() for t in temperatures]
    return np.concatenate(samples), num if sweep else None


def _interpolations(model):
    """Row after row of the points between held-out examples, and how many make a row."""
    num, config = _NUM.value or _SIDE, model.config
    if _DATA_DIR.value is not None:
        config.data.data_dir = _DATA_DIR.value
    examples = data.load(config.data).array(config.eval.split)
    order = np.random.default_rng(_SEED.value).permutation(len(examples))
    if _INTERPOLATE.value == "corners":
        points = evaluation.interpolate_corners(model, examples[order[:4]], num, _SEED.value)
        return points.numpy().reshape(-1, *model.event_shape), num
    first, second = np.split(examples[order[: 2 * min(num, len(order) // 2)]], 2)
    points = evaluation.interpolate_pairs(model, first, second, _SIDE, _SEED.value)
    return points.numpy().reshape(-1, *model.event_shape), _SIDE


if __name__ == "__main__":
    training.run(main)
