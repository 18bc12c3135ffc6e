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

from absl import flags, logging

from tf_resflow import evaluation, progress, training

_SIDE = 10  # images in a row of a sweep or a path, and rows of paths, unless --num says otherwise
_POINTS = 50  # of a path that is drawn as a line

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .png, or .npy for the bare samples.")
_NUM = flags.DEFINE_integer("num", None, "Number: 64 images, 1,000 vectors; of images in a row, or of rows, 10.", 1)
_TEMPERATURE = flags.DEFINE_list("temperature", ["1.0"], "Scales the base distribution.")
_INTERPOLATE = flags.DEFINE_enum("interpolate", None, ["pairs", "corners"], "Between examples.")
_SEED = flags.DEFINE_integer("seed", 0, "The same seed draws the same samples.", 0, 2**63 - 1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "The TFDS folder of the data, if it is not where it was.")
_DATA_PATH = flags.DEFINE_string("data_path", None, "The file or folder of the data, if it is not where it was.")
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


def check():
    """Refuses what is not the workdir of a run, and what cannot be written."""
    training.Workdir(_WORKDIR.value).read_config()
    info = _info()
    check = evaluation.check_paths if _INTERPOLATE.value else evaluation.check_samples
    rows, columns = _grid(info)
    check(_OUTPUT.value, (rows * columns, *info.event_shape), info.levels)


def main():
    """Samples and writes the file."""
    with progress.shown():
        (_interpolate if _INTERPOLATE.value else _sample)(_info())


def _info():
    return training.Workdir(_WORKDIR.value).read_data()


def _grid(info):
    """The rows and columns of the samples: those of a temperature, or of a path, are a row."""
    if _INTERPOLATE.value:
        rows = _NUM.value or _SIDE
        return rows, rows if _INTERPOLATE.value == "corners" else _POINTS if _is_drawn_as_lines(info) else _SIDE
    rows = len(_TEMPERATURE.value)
    return rows, _NUM.value or (1000 if len(info.event_shape) != 3 else _SIDE if rows > 1 else 64)


def _sample(info):
    temperatures = [float(value) for value in _TEMPERATURE.value]
    rows, num = _grid(info)
    model = training.load(_WORKDIR.value)
    is_drawn_with_data = _is_picture() and len(info.event_shape) != 3
    examples = _examples_if_any(model.config.eval.split, num) if is_drawn_with_data else None
    shape = (rows, num, *info.event_shape)
    with contextlib.closing(evaluation.draw_samples(model, num, _SEED.value, temperatures)) as batches:
        evaluation.write_samples(_OUTPUT.value, batches, shape, info.levels, temperatures, examples, info.name)
    print(f"{rows * num:,} samples: {_OUTPUT.value}")


def _interpolate(info):
    import tensorflow as tf

    kind, (num, length) = _INTERPOLATE.value, _grid(info)
    examples = _data().array(training.Workdir(_WORKDIR.value).read_config().eval.split)
    model = training.load(_WORKDIR.value)
    paths = evaluation.interpolate_examples(model, examples, kind, num, length, _SEED.value)
    if _is_drawn_as_lines(info):
        title = f"{info.name}: paths between {model.config.eval.split} examples"
        log_prob = tf.function(functools.partial(model.log_prob, seed=0, evaluation=True), autograph=False)
        evaluation.paths_figure(_OUTPUT.value, paths, examples, log_prob, kind == "corners", title)
    else:
        evaluation.write_samples(_OUTPUT.value, [paths.reshape(-1, *info.event_shape)], paths.shape, info.levels)
    print(f"{len(paths):,} x {paths.shape[1]:,} samples: {_OUTPUT.value}")


def _data():
    return training.load_data(_WORKDIR.value, _DATA_DIR.value, _DATA_PATH.value)


def _examples_if_any(split, num):
    """As many held-out examples, by their name; `None` if the data are not there."""
    try:
        examples = _data().array(split, num)
    except ValueError as error:
        logging.warning("The picture shows no data: %s", error)
        return None
    return {f"{split} data": examples}


def _is_drawn_as_lines(info):
    return info.event_shape == (2,) and _is_picture()


def _is_picture():
    return _OUTPUT.value.lower().endswith(".png")


if __name__ == "__main__":
    training.run(main, check)
