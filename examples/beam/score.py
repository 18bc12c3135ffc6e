r"""Scores the rows of CSV or Parquet files with an exported model in Apache Beam, however many rows there are.

    pip install -r examples/beam/requirements.txt
    python examples/beam/score.py --model=served/table/1 --input='rows/*.csv' --output=scores/rows

This runs on this machine. Options of Beam run the same pipeline elsewhere:

    python examples/beam/score.py --model=gs://BUCKET/served/table/1 --input='gs://BUCKET/rows/*.parquet' \
      --output=gs://BUCKET/scores/rows --runner=DataflowRunner --project=PROJECT --region=REGION \
      --temp_location=gs://BUCKET/tmp --requirements_file=examples/beam/requirements.txt
    ... --runner=FlinkRunner --flink_master=HOST:8081
    ... --runner=SparkRunner --spark_master_url=spark://HOST:7077

The files of the output, OUTPUT-00000-of-00003.csv and so on, have the columns of the input and those of the model's
answer: log_prob, log_prob_stderr and quantile. The rows are in no order. Columns are found by their names, which
all files share. Levels and dates (as 2025-03-31) become the numbers that signatures.json tells. A row that lacks a
value of the model, or has one that cannot be read, such as an unknown level, or is too long, has an empty score;
such rows are counted.

A process of a worker holds the model, --batch_size rows, and of Parquet files a row group. In a CSV file each row
is a line: no value holds a line break.
"""

import argparse
import csv
import io
import itertools
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from pyarrow import parquet


class Served(ModelHandler):
    """An exported model, which a worker loads once."""

    def __init__(self, path, inputs, batch_size):
        """The path of a version, and for each input of the model its columns."""
        super().__init__(max_batch_size=batch_size)
        self._path, self._inputs = path, inputs

    def load_model(self):
        """Loads it, with TensorFlow alone."""
        return tf.saved_model.load(self._path)

    def run_inference(self, batch, model, inference_args=None):
        """Rows with their scores. An element is a row and its numbers, in the order of the inputs and columns."""
        numbers, start, tensors = np.stack([numbers for _, numbers in batch]), 0, {}
        for name, columns in self._inputs.items():
            tensors[name] = tf.constant(numbers[:, start : start + len(columns)])
            start += len(columns)
        answer = model.signatures["serving_default"](**tensors)
        scores = zip(*(answer[name].numpy().tolist() for name in answer), strict=True)
        return [
            row | dict(zip(answer, values, strict=True)) for (row, _), values in zip(batch, scores, strict=True)
        ]

    def get_num_bytes(self, batch):
        """The size of the numbers."""
        return sum(numbers.nbytes for _, numbers in batch)


class Parse(beam.DoFn):
    """Pairs a row, a dict, with its numbers; rows that lack one go to `unscored`."""

    def __init__(self, columns, codes, dtype):
        self._columns, self._codes, self._dtype = columns, codes, dtype
        self._unscored = beam.metrics.Metrics.counter("score", "unscored")

    def process(self, row):
        """One row; None is the name of values beyond the columns."""
        try:
            with np.errstate(over="ignore"):
                read = [number_of(row[column], self._codes.get(column, {})) for column in self._columns]
                numbers = np.array(read, self._dtype)
        except (TypeError, ValueError):
            numbers = np.array(np.nan)
        if np.isfinite(numbers).all() and None not in row:
            yield row, numbers
        else:
            self._unscored.inc()
            yield beam.pvalue.TaggedOutput("unscored", row)


def number_of(value, code):
    """The number of a value in a request: of a level its place, of a date its days since the first one.

    Raises ValueError for a value that cannot occur, since the model would refuse the whole request.
    """
    if "levels" in code:
        return [*map(in_words, code["levels"])].index(in_words(value))
    if "start" in code:
        time = value.strip() if isinstance(value, str) else value
        days = (np.datetime64(time).astype("M8[us]") - np.datetime64(code["start"])) / np.timedelta64(1, "D")
        return on_grid(days, 0.0, 1.0) if code["num"] else days
    return on_grid(float(value), code["first"], code["step"]) if "step" in code else float(value)


def on_grid(number, first, step):
    """A number, after a check that it is on a grid."""
    if abs((number - first) / step - round((number - first) / step)) > 1e-6 + 1e-15 * abs(number) / step:
        raise ValueError(f"{number} is not on the grid of its column.")
    return number


def in_words(value):
    """A level in words, whole numbers as such."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()


def scores_of(model):
    """What is known of the scores of an export: its signatures.json and their part of it."""
    with FileSystems.open(f"{model.rstrip('/')}/signatures.json") as file:
        description = json.load(file)
    signature, columns = description["signatures"]["serving_default"], description.get("columns", {})
    if "log_prob" not in signature["outputs"]:
        raise ValueError("The export has no scores as its default: export it with serving_default.")
    for name, spec in signature["inputs"].items():
        if spec["shape"] != [-1, len(columns.get(name, ()))]:
            raise ValueError(f"The export does not name the columns of {name!r}: train on a table with a header.")
    return description, signature


def schema_of(pattern):
    """The names of the columns in CSV files, or the schema of Parquet files, which must all agree."""
    paths = [file.path for found in FileSystems.match([pattern]) for file in found.metadata_list]
    if not paths:
        raise ValueError(f"There is no file {pattern}.")
    schemas = []
    for path in paths:
        with FileSystems.open(path) as file:
            if path.endswith(".parquet"):
                schemas.append(parquet.read_schema(file).remove_metadata())
            else:
                schemas.append(next(csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline="")), []))
        if schemas[-1] != schemas[0]:
            raise ValueError(f"{path} has other columns than {paths[0]}: {schemas[-1]} and {schemas[0]}.")
    return schemas[0]


def line_of(values):
    """A line of a CSV file; None is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def main(arguments=None):
    """Runs the pipeline until its end, and prints how many rows were not scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a version of an exported model")
    parser.add_argument("--input", required=True, help="pattern of .csv or .parquet files")
    parser.add_argument("--output", required=True, help="prefix of the files to write")
    parser.add_argument("--batch_size", type=int, default=1024, help="most rows that the model scores at a time")
    flags, options = parser.parse_known_args(arguments)

    description, signature = scores_of(flags.model)
    inputs = {name: description["columns"][name] for name in signature["inputs"]}
    dtype, scores = signature["inputs"]["x"]["dtype"], [*signature["outputs"]]
    served = Served(flags.model, inputs, min(flags.batch_size, description.get("max_batch", flags.batch_size)))
    needed = [column for columns in inputs.values() for column in columns]
    codes = {code["name"]: code for of_input in description.get("codes", {}).values() for code in of_input}
    schema = schema_of(flags.input)
    is_parquet = isinstance(schema, pa.Schema)
    names = schema.names if is_parquet else schema
    if missing := [column for column in needed if column not in names]:
        raise ValueError(f"{flags.input} lacks the columns {missing} of the model; it has {names}.")
    if both := [name for name in scores if name in names]:
        raise ValueError(f"{flags.input} has columns that are named as scores are, {both}: rename them.")

    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        if is_parquet:
            rows = pipeline | beam.io.ReadFromParquet(flags.input)
        else:
            lines = pipeline | beam.io.ReadFromText(flags.input, skip_header_lines=1) | beam.Filter(str.strip)
            rows = lines | beam.Map(lambda line: dict(itertools.zip_longest(names, next(csv.reader([line])))))
        parsed = rows | beam.ParDo(Parse(needed, codes, dtype)).with_outputs("unscored", main="whole")
        empty = parsed.unscored | "Empty" >> beam.Map(lambda row: row | dict.fromkeys(scores))
        scored = parsed.whole | RunInference(served)
        results = (scored, empty) | beam.Flatten()
        if is_parquet:
            fields = [*schema, *(pa.field(name, pa.float64()) for name in scores)]
            results | beam.io.WriteToParquet(flags.output, pa.schema(fields), file_name_suffix=".parquet")
        else:
            texts = results | "Join" >> beam.Map(lambda row: line_of(row[name] for name in [*names, *scores]))
            header = line_of([*names, *scores])
            texts | beam.io.WriteToText(flags.output, file_name_suffix=".csv", header=header)
    counters = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_name("unscored"))["counters"]
    print(f"{sum(counter.result for counter in counters):,} rows lack a number or are too long, and have no score.")


if __name__ == "__main__":
    main()
