r"""Draws samples of a trained model: as a picture, or bare as .npy.

python bin/sample.py --workdir=runs/digits --output=samples.png --num=64 --temperature=0.8
python bin/sample.py --workdir=runs/digits --output=rows.png --temperature=0.5,0.7,0.9,1.0
python bin/sample.py --workdir=runs/digits --output=paths.png --interpolate=pairs
python bin/sample.py --workdir=runs/table --output=samples.npy --num=1000000

The picture of images is a grid; that of vectors shows samples over as many of the data: a scatter plot in 2-D,
those of all pairs of columns above, a histogram below. Several temperatures make one row (or color) each, of the
same --num latents. The first samples of a --seed are the same whatever --num is.

--interpolate goes through the latent space between held-out examples, which --seed chooses: "pairs" in --num rows
from one to another, "corners" over a --num x --num square with one at each corner. In 2-D the picture shows the
paths over the log density; vectors of another size are written as .npy.
"""

import contextlib
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import flags, logging

from tf_resflow import data, evaluation, training

_SIDE = 10  # images in a row of a sweep or a path, and rows of paths, unless --num says otherwise
_POINTS = 50  # of a path that is drawn as a line

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .png, or .npy for the bare samples.")
_NUM = flags.DEFINE_integer("num", None, "Number: 64 images, 1,000 vectors; of images in a row, or of rows, 10.", 1)
_TEMPERATURE = flags.DEFINE_list("temperature", ["1.0"], "Scales the base distribution.")
_INTERPOLATE = flags.DEFINE_enum("interpolate", None, ["pairs", "corners"], "Between examples.")
_SEED = flags.DEFINE_integer("seed", 0, "The same seed draws the same samples.", 0, 2**63 - 1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, if not where they were.")
flags.mark_flags_as_required(["workdir", "output"])


@flags.validator("temperature", f"it must be numbers from 0 to {evaluation.MAX_TEMPERATURE:g}, separated by commas")
def _are_temperatures(values):
    try:
        return bool(values) and all(0 <= float(value) <= evaluation.MAX_TEMPERATURE for value in values)
    except ValueError:
        return False


@flags.multi_flags_validator(["temperature", "interpolate"], "--interpolate takes no temperature")
def _exclude_each_other(values):
    return not values["interpolate"] or values["temperature"] == ["1.0"]


@flags.multi_flags_validator(["num", "interpolate"], "a square of --interpolate=corners has --num=2 or more")
def _is_a_square(values):
    return values["interpolate"] != "corners" or values["num"] != 1


def main():
    """Samples and writes the file."""
    run = training.Workdir(_WORKDIR.value)
    run.read_config()
    (_interpolate if _INTERPOLATE.value else _sample)(run.read_data())


def _sample(info):
    temperatures = [float(value) for value in _TEMPERATURE.value]
    rows, is_image = len(temperatures), len(info.event_shape) == 3
    num = _NUM.value or (1000 if not is_image else _SIDE if rows > 1 else 64)
    evaluation.check_samples(_OUTPUT.value, (rows * num, *info.event_shape), info.levels)
    model = _load()
    examples = _examples_if_any(model, num) if _is_picture() and not is_image else None
    shape = (rows, num, *info.event_shape)
    with contextlib.closing(evaluation.draw_samples(model, num, _SEED.value, temperatures)) as batches:
        evaluation.write_samples(_OUTPUT.value, batches, shape, info.levels, temperatures, examples, info.name)
    print(f"{rows * num:,} samples: {_OUTPUT.value}")


def _interpolate(info):
    kind, num = _INTERPOLATE.value, _NUM.value or _SIDE
    is_line = info.event_shape == (2,) and _is_picture()
    length = num if kind == "corners" else _POINTS if is_line else _SIDE
    evaluation.check_paths(_OUTPUT.value, (num * length, *info.event_shape), info.levels)
    model = _load()
    examples = data.load(model.config.data).array(model.config.eval.split)
    paths = evaluation.interpolate_examples(model, examples, kind, num, length, _SEED.value)
    if is_line:
        title = f"{info.name}: paths between {model.config.eval.split} examples"
        log_prob = tf.function(functools.partial(model.log_prob, seed=0, evaluation=True), autograph=False)
        evaluation.paths_figure(_OUTPUT.value, paths, examples, log_prob, kind == "corners", title)
    else:
        evaluation.write_samples(_OUTPUT.value, [paths.reshape(-1, *info.event_shape)], paths.shape, info.levels)
    print(f"{len(paths):,} x {paths.shape[1]:,} samples: {_OUTPUT.value}")


def _load():
    model = training.load(_WORKDIR.value)
    if _DATA_DIR.value is not None:
        model.config.data.data_dir = _DATA_DIR.value
    return model


def _examples_if_any(model, num):
    """As many held-out examples, by their name; `None` if the data are not there."""
    split = model.config.eval.split
    try:
        examples = data.load(model.config.data).array(split, num)
    except ValueError as error:
        logging.warning("The picture shows no data: %s", error)
        return None
    return {f"{split} data": examples}


def _is_picture():
    return _OUTPUT.value.lower().endswith(".png")


if __name__ == "__main__":
    training.run(main)
