"""What the commands do with runs on tables."""

import ast
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

import tf_resflow as resflow
from tf_resflow.cli import command_line
from tf_resflow.cli.command_line import say
from tf_resflow.console import stage, track
from tf_resflow.data.files import check_table
from tf_resflow.messages import counted, shortened
from tf_resflow.tables.files import TABLE_OUTPUTS, find_columns, pandas, read_table, write_frames
from tf_resflow.writing import STANDARD_STREAM, check_output_path

FLAGS = flags.FLAGS

_ESTIMATES = ("log_det_estimator", "num_probes", "stderr")  # flags
_EXPLAINED_AT_ONCE = 1000  # rows
_COLUMNS = ("example", "log_prob", "p_value", "column", "nats", "reason")  # of the output of resflow-score


class Scores(NamedTuple):
    """Scores of resflow-score.

    Attributes:
      columns: the columns of the output by name, arrays `[num]`.
      ranking: `[num]`, the scores that rank the examples; NaN for no score.
      num_held_out: number of the scores that give the p-values.
      note: addition to the summary.
      places: `[num]`, where each example is in the input.
    """

    columns: dict[str, np.ndarray]
    ranking: np.ndarray
    num_held_out: int
    note: str = ""
    places: Any = ()


def check_score() -> None:
    """Raises ValueError if a flag of resflow-score is wrong."""
    command_line.refuse_flags([*_ESTIMATES, "batch_size", "seed", "data_dir"])
    command_line.check_run()
    read_options(FLAGS.read_options)
    if FLAGS.input is None:
        if FLAGS.id_columns:
            raise ValueError("--id_columns needs a table as --input. Give a table, or leave out --id_columns.")
        _check_test_rows()
    elif FLAGS.input != STANDARD_STREAM:
        check_table(pathlib.Path(FLAGS.input).expanduser())


def scored_rows() -> Scores:
    """Scores the rows of --input, by default the test rows of the run."""
    from tf_resflow.tables.runs import score_rows  # imported here because it needs TensorFlow

    run = resflow.load(FLAGS.workdir)
    options = {**run.config.data.read_options.to_dict(), **read_options(FLAGS.read_options)}
    if FLAGS.input is None:
        table, ids = run.rows(data_path=FLAGS.data_path)["test"], {}
    else:
        table, ids = _read_input(run, options)
    with stage("scores"):
        scores = score_rows(run.density, table, options.get("date_format"))
    places = [f"{table.index.name or 'row'} {number}" for number in table.index]
    wrong = np.flatnonzero(scores.reasons != "")
    if FLAGS.strict and len(wrong):
        raise ValueError(
            f"{FLAGS.input or run.config.data.path}, {places[wrong[0]]}, {scores.reasons[wrong[0]]}. "
            f"{len(wrong):,} of {len(table):,} rows have invalid values or unknown levels. Correct them, or leave "
            "out --strict to score the other rows."
        )
    columns = {"example": 1 + np.arange(len(table)), **ids, "log_prob": scores.log_prob, "p_value": scores.p_value}
    if FLAGS.explain is not None:
        columns |= _explanations(run.density, scores)
    columns["reason"] = scores.reasons
    return Scores(columns, scores.compared, len(run.density.held_out_[0]), "", places)


def _read_input(run, options):
    """Returns the columns of the fit, and the columns to copy to the output."""
    path, columns = pathlib.Path(FLAGS.input).expanduser().absolute(), run.density.encoder_.columns
    names = [column.name for column in columns]
    texts = [column.name for column in columns if any(isinstance(level, str) for level in column.levels or ())]
    texts += [name for name in FLAGS.id_columns if name not in names]
    given: dict[str, Any] = {"key": run.config.data.key or None, "read_options": options}
    table = read_table(path, texts=texts, typed=False, **given)
    if not len(table):
        empty = {name: np.zeros(0, object) for name in FLAGS.id_columns}
        return pandas.DataFrame(columns=names), empty
    own = find_columns(path, table, [str(name) for name in names])
    kept = find_columns(path, table, FLAGS.id_columns)
    ids = {str(table.columns[place]): table.iloc[:, place].to_numpy(object) for place in kept}
    if taken := [name for name in ids if name in _COLUMNS]:
        raise ValueError(
            f"--id_columns names {taken[0]!r}, but the output has a column {taken[0]!r} of its own. Rename the "
            "column in --input."
        )
    if others := [repr(name) for place, name in enumerate(table) if place not in {*own, *kept}]:
        ignored = f"{counted(len(others), 'column')} that the fit does not have"
        say(f"{path.name}: ignored {ignored}: {shortened(others)}.")
    return table.iloc[:, own].set_axis(names, axis=1), ids


def _explanations(density, scores):
    """Returns the columns that make the rows with small p-values unlikely, and by how many nats."""
    chosen = np.flatnonzero(scores.p_value <= FLAGS.explain)
    names, nats = np.full(len(scores.p_value), "", object), np.full(len(scores.p_value), np.nan)
    if len(chosen):
        parts = np.array_split(scores.values[chosen], -(-len(chosen) // _EXPLAINED_AT_ONCE))
        gains = np.concatenate([density.gains(part) for part in track(parts, "explanations")])
        labels = [str(density.encoder_.columns[place].name) for place, _ in density.reference_.values()]
        nats[chosen], names[chosen] = gains.max(axis=1), [labels[place] for place in gains.argmax(axis=1)]
    return {"column": np.where(nats > 0, names, ""), "nats": np.where(nats > 0, nats, np.nan)}


def read_options(text: str | None) -> dict[str, Any]:
    """Parses --read_options, such as "sep=;,decimal=,". A comma separates options only before the name of one."""
    from tf_resflow.tables.config import READ_OPTIONS  # imported here because it needs an extra

    start, *parts = re.split(rf"(?:^|,)\s*({'|'.join(READ_OPTIONS)})=", text or "")
    if start:
        raise ValueError(
            f"--read_options={text} is malformed at {start!r}. Write it like --read_options='sep=;,decimal=,', "
            f"with names among {', '.join(READ_OPTIONS)}."
        )
    return {name: _literal(value) for name, value in zip(parts[::2], parts[1::2], strict=True)}


def _literal(text):
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return "\t" if text == r"\t" else text


def _check_test_rows():
    command_line.check_data()
    if "test" not in command_line.workdir().read_sizes():
        raise ValueError(
            "The run has no test rows, because config.data.test_fraction is 0. Score a table with resflow-score "
            "--input, or train with test rows."
        )


def check_sample() -> None:
    """Raises ValueError if a flag of resflow-sample is wrong."""
    from tf_resflow.tables.config import names_of  # imported here because it needs an extra

    command_line.refuse_flags(["precise", "data_dir"])
    command_line.check_run()
    if [float(value) for value in FLAGS.temperature] != [1.0]:
        raise ValueError(
            f"--temperature={','.join(FLAGS.temperature)} does not apply to a run on a table, whose samples follow "
            "the fitted density. Leave it out."
        )
    names = names_of(command_line.workdir().read_config().data.condition_columns)
    if len(names) != len(FLAGS.condition or ()):
        expected = f"one value for each of {', '.join(names)}, separated by commas" if names else "no --condition"
        raise ValueError(f"--condition is {FLAGS.condition}. The run has a density that needs {expected}.")
    check_output_path(FLAGS.output, [".png", *TABLE_OUTPUTS])


def sample() -> None:
    """Draws rows and writes a table or a picture."""
    from tf_resflow.tables.figures import pairs_figure  # imported here because they need TensorFlow
    from tf_resflow.tables.runs import conditions

    run, num = resflow.load(FLAGS.workdir), FLAGS.num or 1000
    condition, lacks = None, ""
    if FLAGS.condition is not None:
        try:
            condition = conditions(run.density, FLAGS.condition, num)
        except ValueError as error:
            raise ValueError(f"--condition={','.join(FLAGS.condition)}: {error}.") from None
    with stage("samples"):
        drawn = run.density.sample(num, random_state=FLAGS.seed % 2**32, condition=condition)
    if pathlib.Path(FLAGS.output).suffix.lower() == ".png":
        groups = {"samples": drawn}
        if condition is None:
            try:
                split, rows = list(run.rows(data_path=FLAGS.data_path).items())[-1]
                groups = {f"{split} rows": rows[:num], **groups}
            except ValueError as error:
                logging.warning("The picture does not show the data, because they cannot be loaded: %s", error)
                lacks = ", without the data"
        title = f"{pathlib.Path(run.config.data.path).stem}: {counted(num, 'sample')}"
        pairs_figure(FLAGS.output, run.density.encoder_, groups, title=title)
    else:
        write_frames(FLAGS.output, [drawn])
    say(f"{counted(num, 'sample')}{lacks}: {FLAGS.output}")


def check_evaluate() -> None:
    """Raises ValueError if a flag of resflow-evaluate is wrong."""
    command_line.refuse_flags(["metrics", "data_dir", "split", "num_examples", "batch_size", *_ESTIMATES])
    command_line.refuse_flags(["iw_samples", "fid_samples", "fid_weights"])
    command_line.check_run()
    _check_test_rows()


def evaluate() -> dict[str, Any]:
    """Returns the scores of the test rows."""
    run = resflow.load(FLAGS.workdir)
    with stage("scores"):
        found = run.evaluate(run.rows(data_path=FLAGS.data_path))
    return {"name": pathlib.Path(run.config.data.path).stem, "split": "test", "unit": "nats", **found}


def check_export() -> None:
    """Raises ValueError if a flag of resflow-export is wrong."""
    names = ["num_samples", "seed", "signatures", "data_dir", "data_path", "precise"]
    command_line.refuse_flags([*names, *_ESTIMATES])


def export() -> pathlib.Path:
    """Exports the density and returns the path of the version."""
    from tf_resflow.tables.export import export_density  # imported here because it needs TensorFlow

    run = resflow.load(FLAGS.workdir)
    options: dict[str, Any] = {name: FLAGS[name].value for name in ("version", "max_samples", "max_batch")}
    about = f"resflow-train fitted it to {pathlib.Path(run.config.data.path).name}."
    return export_density(run.density, FLAGS.export_dir, about=about, **options)
