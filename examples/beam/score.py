r"""Scores any number of rows in CSV or Parquet files with the exported density of a table, in Apache Beam.

    pip install -r examples/beam/requirements.txt
    python examples/beam/score.py --model=served/table/1 --input='rows/*.csv' --output=scores/rows

This command runs on the local machine. Options of Beam run the same pipeline elsewhere:

    python examples/beam/score.py --model=gs://BUCKET/served/table/1 --input='gs://BUCKET/rows/*.parquet' \
      --output=gs://BUCKET/scores/rows --runner=DataflowRunner --project=PROJECT --region=REGION \
      --temp_location=gs://BUCKET/tmp --requirements_file=examples/beam/requirements.txt
    ... --runner=FlinkRunner --flink_master=HOST:8081
    ... --runner=SparkRunner --spark_master_url=spark://HOST:7077

The output files, OUTPUT-00000-of-00003.csv and so on, have the columns of the input and the outputs of the model,
log_prob, p_value, reason and valid. The order of the rows is not preserved. Columns are found by name, and all
input files must have the same columns. Levels and dates (such as 2025-03-31) are converted to numbers as described
in signatures.json. An empty value is missing. Rows are not valid and have empty scores if a value cannot be read,
if they have too many values, or if a value is missing in a column that had none missing in the fit. The script
prints their number. A value that cannot occur, such as an unknown level, gives its row the score -inf and the
reason 2, or no score if it is in a column that conditions the density.

Each worker process holds the model, --batch_size rows, and a row group of each Parquet file that it reads. In CSV
files each row is one line: values must not contain line breaks.
"""

import argparse
import csv
import io
import itertools
import json
import math

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from pyarrow import parquet


class Served(ModelHandler):
    """Runs a version of an exported model, which each worker loads once."""

    def __init__(self, path, inputs, batch_size):
        """Configures the path, a dict of each input to its columns and dtype, and the maximum batch size."""
        super().__init__(max_batch_size=batch_size)
        self._path, self._inputs = path, inputs
        self._invalid = beam.metrics.Metrics.counter("score", "invalid")

    def load_model(self):
        """Loads the model with TensorFlow alone."""
        return tf.saved_model.load(self._path)

    def run_inference(self, batch, model, inference_args=None):
        """Returns rows with scores, for pairs of a row and its numbers in the order of the inputs and columns."""
        numbers, start, tensors = np.stack([numbers for _, numbers in batch]), 0, {}
        for name, (columns, dtype) in self._inputs.items():
            tensors[name] = tf.constant(numbers[:, start : start + len(columns)], dtype)
            start += len(columns)
        answer = {name: value.numpy() for name, value in model.signatures["serving_default"](**tensors).items()}
        valid = answer["valid"]
        self._invalid.inc(int(np.sum(~valid)))
        for name, value in answer.items():
            is_score = name not in ("valid", "reason")
            answer[name] = np.where(valid, value, None).tolist() if is_score else value.tolist()
        scores = zip(*answer.values(), strict=True)
        return [
            row | dict(zip(answer, values, strict=True)) for (row, _), values in zip(batch, scores, strict=True)
        ]

    def get_num_bytes(self, batch):
        """Returns the size of the numbers in bytes."""
        return sum(numbers.nbytes for _, numbers in batch)


def parse(row, columns, codes):
    """Returns a row (a dict) with its numbers in the order of the columns."""
    if None in row:  # values beyond the last column
        return row, np.full(len(columns), math.inf)
    return row, np.array([to_number(row[name], codes.get(name, {})) for name in columns])


def to_number(value, code):
    """Converts a value to a number for the model: a level to its index, a date to the days since the first date.

    A missing value is NaN, a value that cannot be read is infinity, and an unknown level is -1.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        if "levels" in code:
            levels = [*map(to_text, code["levels"])]
            return levels.index(text) if (text := to_text(value)) in levels else -1
        if "start" in code:
            time = value.strip() if isinstance(value, str) else value
            return (np.datetime64(time).astype("M8[us]") - np.datetime64(code["start"])) / np.timedelta64(1, "D")
        return float(value)
    except (TypeError, ValueError):
        return math.inf


def to_text(value):
    """Returns the text of a level. Whole numbers have no decimal point, and "true" is "True", as in pandas."""
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text.capitalize() if text.lower() in ("true", "false") else text


def read_signature(model):
    """Returns the content of signatures.json, and its part about serving_default."""
    with FileSystems.open(f"{model.rstrip('/')}/signatures.json") as file:
        description = json.load(file)
    if "columns" not in description:
        raise ValueError(f"{model} is not the density of a table. Export a run of the config tabular.")
    return description, description["signatures"]["serving_default"]


def read_schema(pattern):
    """Returns the column names of CSV files, or the schema of Parquet files. All files must agree."""
    paths = [file.path for found in FileSystems.match([pattern]) for file in found.metadata_list]
    if not paths:
        raise ValueError(f"No file matches {pattern}.")
    schemas = []
    for path in paths:
        with FileSystems.open(path) as file:
            if path.endswith(".parquet"):
                schemas.append(parquet.read_schema(file).remove_metadata())
            else:
                schemas.append(next(csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline="")), []))
        if schemas[-1] != schemas[0]:
            raise ValueError(f"{path} has the columns {schemas[-1]}, but {paths[0]} has {schemas[0]}.")
    return schemas[0]


def csv_line(values):
    """Returns a line of a CSV file, where None is an empty value."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def main(arguments=None):
    """Runs the pipeline, and prints the number of invalid rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="path of a version of an exported model")
    parser.add_argument("--input", required=True, help="pattern of .csv or .parquet files")
    parser.add_argument("--output", required=True, help="prefix of the files to write")
    parser.add_argument("--batch_size", type=int, default=1024, help="maximum number of rows per call of the model")
    flags, options = parser.parse_known_args(arguments)

    description, signature = read_signature(flags.model)
    inputs = {name: (description["columns"][name], spec["dtype"]) for name, spec in signature["inputs"].items()}
    scores = {name: spec["dtype"] for name, spec in signature["outputs"].items()}
    served = Served(flags.model, inputs, min(flags.batch_size, description.get("max_batch", flags.batch_size)))
    needed = [column for columns, _ in inputs.values() for column in columns]
    codes = {str(code["name"]): code for columns in description["codes"].values() for code in columns}
    schema = read_schema(flags.input)
    is_parquet = isinstance(schema, pa.Schema)
    names = schema.names if is_parquet else schema
    if missing := [column for column in needed if column not in names]:
        raise ValueError(f"{flags.input} lacks the columns {missing} of the model; it has {names}.")
    if clashes := [name for name in scores if name in names]:
        raise ValueError(f"{flags.input} has columns with the names of scores, {clashes}: rename them.")

    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        if is_parquet:
            rows = pipeline | beam.io.ReadFromParquet(flags.input)
        else:
            lines = pipeline | beam.io.ReadFromText(flags.input, skip_header_lines=1) | beam.Filter(str.strip)
            rows = lines | beam.Map(lambda line: dict(itertools.zip_longest(names, next(csv.reader([line])))))
        results = rows | "Parse" >> beam.Map(parse, needed, codes) | RunInference(served)
        if is_parquet:
            types = {"bool": pa.bool_(), "int32": pa.int32()}
            fields = [*schema, *(pa.field(name, types.get(dtype, pa.float64())) for name, dtype in scores.items())]
            results | beam.io.WriteToParquet(flags.output, pa.schema(fields), file_name_suffix=".parquet")
        else:
            texts = results | "Join" >> beam.Map(lambda row: csv_line(row[name] for name in [*names, *scores]))
            header = csv_line([*names, *scores])
            texts | beam.io.WriteToText(flags.output, file_name_suffix=".csv", header=header)
    counters = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_name("invalid"))["counters"]
    print(f"{sum(counter.result for counter in counters):,} rows are not valid, and have no score.")


if __name__ == "__main__":
    main()
