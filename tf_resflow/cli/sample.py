r"""Draws samples from a trained model and writes a picture, or the samples alone as an array or a table.

resflow-sample --workdir=runs/digits --output=samples.png --num=64 --temperature=0.8
resflow-sample --workdir=runs/digits --output=rows.png --temperature=0.5,0.7,0.9,1.0
resflow-sample --workdir=runs/table --output=samples.csv --num=100000
resflow-sample --workdir=runs/labels --output=threes.png --condition=3

A picture shows images as a grid, points of a 2-D density as a scatter plot, and rows of a table as scatter plots of
all pairs of columns. Each of several temperatures gets a row or a color, from the same --num latents. The first
samples of a --seed do not depend on --num, except for tables.

--condition is for conditional models. For labels, give one or more, separated by commas: each gets a row of --num
images. The default is all labels. For a table, give one value per column, as in a .csv file, in the order of
config.data.condition_columns.

A .csv or .parquet file has the columns, levels and dates of the table. --output=- writes .csv to standard output. A
table has no --temperature. Rows are drawn and written in parts of 16,384, so a large --num needs no more memory.
"""

import contextlib
import math

import numpy as np
from absl import flags

import tf_resflow as resflow
from tf_resflow import evaluation
from tf_resflow._internal.messages import counted
from tf_resflow._internal.writing import check_output_path
from tf_resflow.cli import command_line, tables
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE, write_samples

# Default numbers of samples.
_NUM_POINTS = 1000
_NUM_IMAGES = 64
_NUM_IMAGES_PER_ROW = 10  # if there are several rows
_MAX_PICTURE = 2**24  # values: 4,096 x 4,096 gray pixels

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string(
        "output",
        None,
        "File to write: a .png picture or an .npy array; for a table .png, .csv, .parquet, or - for .csv rows.",
    )
    flags.DEFINE_integer(
        "num",
        None,
        "Number of samples, for each temperature or label if there are several. Default: 1,000 vectors, 64 images, "
        "or 10 images per row.",
        1,
    )
    flags.DEFINE_list("temperature", ["1.0"], "Scale of the base distribution. Several make one row or color each.")
    flags.DEFINE_list("condition", None, "For a conditional model: labels, or one value per condition column.")
    flags.DEFINE_integer("seed", 0, "Random seed. The same seed draws the same samples.", 0, 2**63 - 1)
    flags.DEFINE_bool(
        "precise", False, "Invert to the rounding error of the dtype, not to a fraction of an image's level."
    )

    @flags.validator("temperature", f"give numbers from 0 to {MAX_TEMPERATURE:g}, separated by commas")
    def _are_temperatures(values):
        try:
            return bool(values) and all(0 <= float(value) <= MAX_TEMPERATURE for value in values)
        except ValueError:
            return False


def check() -> None:
    """Raises ValueError if the workdir has no run, or the file cannot be written."""
    if command_line.is_table():
        tables.check_sample()
        return
    command_line.check_run()
    info, labels, rows, num = _plan()
    if labels is not None and len(labels) > 1 and len(FLAGS.temperature) > 1:
        raise ValueError(
            f"--temperature={','.join(FLAGS.temperature)} names several temperatures, and there are "
            f"{len(labels)} labels. Give a single label as --condition, or a single temperature."
        )
    check_output_path(FLAGS.output, [".png", ".npy"])
    num_values = math.prod([rows, num, *info.event_shape])
    if FLAGS.output.lower().endswith(".png") and num_values > _MAX_PICTURE:
        raise ValueError(
            f"{num_values:,} values are too many for a picture, which holds at most {_MAX_PICTURE:,}. Lower --num, "
            "or write the samples to a .npy file."
        )


def _plan():
    """Returns the properties of the data, the labels if any, the number of rows, and of samples in each row.

    Each temperature or label is a row.
    """
    files = command_line.workdir()
    info = files.read_data()
    labels = None
    if files.read_config().model.condition == "label":
        labels = _labels(info.num_classes)
    elif FLAGS.condition is not None:
        raise ValueError(
            "--condition is given, but the run has a model without a condition: leave out --condition."
        )
    rows = max(len(FLAGS.temperature), 1 if labels is None else len(labels))
    if FLAGS.num:
        return info, labels, rows, FLAGS.num
    if len(info.event_shape) != 3:
        return info, labels, rows, _NUM_POINTS
    return info, labels, rows, _NUM_IMAGES if rows == 1 else _NUM_IMAGES_PER_ROW


def _labels(num_classes):
    """Returns the labels in --condition, by default all."""
    if FLAGS.condition is None:
        return np.arange(num_classes)
    if not FLAGS.condition or any(not text.isdecimal() or int(text) >= num_classes for text in FLAGS.condition):
        raise ValueError(
            f"--condition={','.join(FLAGS.condition)} names unknown labels. Give labels in 0, ..., "
            f"{num_classes - 1}, separated by commas."
        )
    return np.array([int(text) for text in FLAGS.condition])


def main() -> None:
    """Draws the samples and writes the file."""
    if command_line.is_table():
        tables.sample()
        return
    info, condition, rows, num = _plan()
    temperatures = [float(value) for value in FLAGS.temperature]
    names = [f"temperature {temperature:g}" for temperature in temperatures]
    if condition is not None:  # each row is a label, and all rows have the same temperature
        names = [f"class {label}" for label in condition] if len(condition) > 1 else names
        condition = np.repeat(condition, num)
    run = resflow.load(FLAGS.workdir)
    sampler = evaluation.Sampler(run.density, precise=FLAGS.precise)
    samples = sampler(
        rows * num // len(temperatures), seed=FLAGS.seed, temperatures=temperatures, condition=condition
    )
    shape = (rows, num, *info.event_shape)
    with contextlib.closing(samples) as batches:
        write_samples(FLAGS.output, batches, shape, levels=info.levels, labels=names, name=info.name)
    print(f"{counted(rows * num, 'sample')}{run.note}: {FLAGS.output}")


run = command_line.command(__doc__, define_flags, main, check, ["workdir", "output"])
