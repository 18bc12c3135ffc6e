r"""Draws samples of a trained model: as a picture, or alone as a .npy or .csv file.

resflow-sample --workdir=runs/digits --output=samples.png --num=64 --temperature=0.8
resflow-sample --workdir=runs/digits --output=rows.png --temperature=0.5,0.7,0.9,1.0
resflow-sample --workdir=runs/digits --output=paths.npy --interpolate=pairs
resflow-sample --workdir=runs/table --output=samples.csv --num=100000
resflow-sample --workdir=runs/labels --output=threes.png --condition=3

The picture of images is a grid. The picture of vectors shows samples over as many of the data: a scatter plot in
2-D, scatter plots of all pairs of columns above, a histogram below. Several temperatures make one row (or color)
each, of the same --num latents. The first samples of a --seed do not depend on --num.

--condition is for conditional models. Where it is a label, it may be several, separated by commas, and each gets a
row of --num images; by default all do. Where it is columns of a table, it is a value for each of them, in their
order in config.data.condition_columns, as in a .csv file; then the picture shows the samples alone.

A .csv file of a table has the columns, with their levels and dates, that the run was trained on. If there are
several temperatures, its first column is the temperature.

--interpolate writes points between held-out examples, which --seed chooses, to a .npy or .csv file: "pairs" in
--num rows from one to another, "corners" over a --num x --num square with one at each corner. Of images given their
label, those with a label of --condition are chosen, and a point has the label of the nearest of them; columns given
others have the condition between theirs.
"""

import contextlib
import math
from typing import Any

import numpy as np
from absl import flags, logging

import tf_resflow as resflow
from tf_resflow import evaluation
from tf_resflow.cli import command_line
from tf_resflow.evaluation.sample_files import MAX_TEMPERATURE, write_samples
from tf_resflow.plurals import counted
from tf_resflow.writing import check_output_path

_SIDE = 10  # images in a row of a sweep or a path, and rows of paths, without --num
_MAX_PICTURE = 2**24  # values: 4,096 x 4,096 gray pixels

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_workdir()
    flags.DEFINE_string("output", None, "File to write: .png; or .npy, and .csv of vectors, for the samples alone.")
    flags.DEFINE_integer(
        "num",
        None,
        "Number of samples; default 64 images or 1,000 vectors. With several temperatures or labels: images in a "
        "row; with --interpolate: rows; default 10.",
        1,
    )
    flags.DEFINE_list("temperature", ["1.0"], "Scales the base distribution; several make one row or color each.")
    flags.DEFINE_list("condition", None, "Of a conditional model: labels, or a value for each condition column.")
    flags.DEFINE_enum(
        "interpolate", None, ["pairs", "corners"], "Walk through the latent space between held-out examples."
    )
    flags.DEFINE_integer("seed", 0, "The same seed draws the same samples.", 0, 2**63 - 1)
    flags.DEFINE_bool(
        "precise", False, "Invert to the rounding of the type, not to a fraction of a level of images."
    )
    command_line.define_data_flags()
    flags.mark_flag_as_required("output")

    @flags.validator("temperature", f"it must be numbers from 0 to {MAX_TEMPERATURE:g}, separated by commas")
    def _are_temperatures(values):
        try:
            return bool(values) and all(0 <= float(value) <= MAX_TEMPERATURE for value in values)
        except ValueError:
            return False

    @flags.multi_flags_validator(
        ["temperature", "precise", "interpolate"], "--interpolate takes no --temperature and no --precise"
    )
    def _exclude_each_other(values):
        return not values["interpolate"] or (values["temperature"] == ["1.0"] and not values["precise"])

    @flags.multi_flags_validator(["num", "interpolate"], "a square of --interpolate=corners has --num=2 or more")
    def _is_a_square(values):
        return values["interpolate"] != "corners" or values["num"] != 1


def check() -> None:
    """Raises ValueError if the workdir has no run, or the file cannot be written."""
    command_line.check_run()
    info = command_line.workdir().read_data()
    if FLAGS.interpolate and info.condition_mean is not None:
        if FLAGS.condition is not None:
            raise ValueError(
                "The ends of paths are held-out examples with their own condition: leave out --condition."
            )
    else:
        condition = _condition(info)
        if _has_labels() and len(condition) > 1 and len(FLAGS.temperature) > 1:
            raise ValueError(f"{', '.join(FLAGS.temperature)}: several temperatures take a single --condition.")
    suffixes = [".npy"] if FLAGS.interpolate else [".png", ".npy"]
    check_output_path(FLAGS.output, suffixes if len(info.event_shape) == 3 else [*suffixes, ".csv"])
    if _is_picture() and (values := math.prod([*_grid(info), *info.event_shape])) > _MAX_PICTURE:
        raise ValueError(
            f"{values:,} values are too many for a picture, which holds at most {_MAX_PICTURE:,}: lower --num, or "
            "write the samples to a .npy file."
        )
    if FLAGS.interpolate:
        command_line.check_data()


def main() -> None:
    """Samples and writes the file."""
    (_interpolate if FLAGS.interpolate else _sample)(command_line.workdir().read_data())


def _grid(info):
    """The rows and columns of the samples: each temperature, or each path, is a row."""
    if FLAGS.interpolate:
        rows = FLAGS.num or _SIDE
        return rows, rows if FLAGS.interpolate == "corners" else _SIDE
    rows = max(len(FLAGS.temperature), len(_condition(info)) if _has_labels() else 1)
    return rows, FLAGS.num or (1000 if len(info.event_shape) != 3 else _SIDE if rows > 1 else 64)


def _has_labels():
    """Whether the condition of the model is a label."""
    return command_line.workdir().read_config().model.condition == "label"


def _condition(info):
    """The labels, or the values of columns as numbers, as an array; None for a model without a condition."""
    given = FLAGS.condition
    if _has_labels():
        labels = [str(label) for label in range(info.num_classes)] if given is None else given
        if not labels or any(not label.isdecimal() or int(label) >= info.num_classes for label in labels):
            raise ValueError(
                f"--condition takes labels in 0, ..., {info.num_classes - 1}; got {', '.join(labels)!r}."
            )
        return np.array([int(label) for label in labels])
    if info.condition_mean is None:
        if given is not None:
            raise ValueError("The run is of a model without a condition: leave out --condition.")
        return None
    size, reason = len(info.condition_mean), ""
    if len(given or ()) == size:
        import pandas

        row = info.condition_codes.encode(pandas.DataFrame([given], columns=list(info.condition_codes.kinds)))
        if not row.reasons[0]:
            return row.values[0]
        reason = f": {row.reasons[0]}"
    raise ValueError(
        f"The run is of a conditional model: --condition takes {size} values, separated by commas, in the order of "
        f"config.data.condition_columns; got {given}{reason}."
    )


def _sample(info):
    temperatures = [float(value) for value in FLAGS.temperature]
    condition, (rows, num) = _condition(info), _grid(info)
    run, examples, lacks = resflow.load(FLAGS.workdir), None, ""
    if _is_picture() and len(info.event_shape) != 3 and condition is None:
        split = run.config.eval.split
        try:
            examples = {f"{split} data": command_line.load_data().array(split, num)}
        except ValueError as error:
            logging.warning("The picture shows no data: %s", error)
            lacks = ", without the data"
    labels = [f"temperature {temperature:g}" for temperature in temperatures]
    if _has_labels():  # the rows of several labels are one temperature
        labels = [f"class {label}" for label in condition] if len(condition) > 1 else labels
        condition = np.repeat(condition, num)
    drawn = {"seed": FLAGS.seed, "temperatures": temperatures, "condition": condition, "precise": FLAGS.precise}
    samples = evaluation.draw_samples(run.density, rows * num // len(temperatures), **drawn)
    written = {"levels": info.levels, "labels": labels, "temperatures": temperatures, "data": examples}
    written |= {"names": info.columns, "codes": info.codes, "name": info.name}
    with contextlib.closing(samples) as batches:
        write_samples(FLAGS.output, batches, (rows, num, *info.event_shape), **written)
    print(f"{counted(rows * num, 'sample')}{run.note}{lacks}: {FLAGS.output}")


def _interpolate(info):
    num, length = _grid(info)
    examples, condition = _held_out(info)
    least = 4 if FLAGS.interpolate == "corners" else 2
    if len(examples) < least:
        raise ValueError(f"Paths need at least {least} held-out examples; got {len(examples)}.")
    run = resflow.load(FLAGS.workdir)
    order = np.random.default_rng(FLAGS.seed).permutation(len(examples))
    if FLAGS.interpolate == "corners":
        interpolate: Any = evaluation.interpolate_corners
        ends = order[np.newaxis, :4]
    else:
        interpolate, ends = evaluation.interpolate_pairs, order[: 2 * min(num, len(order) // 2)].reshape(2, -1)
    if condition is not None:
        condition = condition[ends[0]] if len(ends) == 1 else tuple(condition[ends])
    paths = interpolate(run.density, *examples[ends], num=length, seed=FLAGS.seed, condition=condition)
    points = paths.numpy().reshape(-1, *info.event_shape)
    write_samples(FLAGS.output, [points], paths.shape, names=info.columns, codes=info.codes)
    print(f"{len(paths):,} x {counted(paths.shape[1], 'sample')}{run.note}: {FLAGS.output}")


def _held_out(info):
    """The held-out examples, of the labels of --condition alone, and their conditions or None."""
    split, data = command_line.workdir().read_config().eval.split, command_line.load_data()
    if not _has_labels() and info.condition_mean is None:
        return data.array(split), None
    batches = data.eval_batches(split, 1000, labels=True).as_numpy_iterator()
    examples, condition = map(np.concatenate, zip(*batches, strict=True))
    chosen = np.isin(condition, _condition(info)) if _has_labels() else slice(None)
    return examples[chosen], condition[chosen]


def _is_picture():
    return FLAGS.output.lower().endswith(".png")


run = command_line.command(__doc__, define_flags, main, check)
