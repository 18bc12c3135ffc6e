r"""Scores a trained model on held-out data, beside its baselines.

python bin/evaluate.py --workdir=runs/digits --output=score.json
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from tf_resflow import data, training

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the result to.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are, if not where they were.")
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "The first so many; 0: all.", 0)
flags.mark_flag_as_required("workdir")


def main():
    """Evaluates and prints the result."""
    model = training.load(_WORKDIR.value)
    config = model.config
    if _DATA_DIR.value is not None:
        config.data.data_dir = _DATA_DIR.value
    if _NUM_EXAMPLES.value is not None:
        config.eval.num_examples = _NUM_EXAMPLES.value
    report = training.Report(config, model, data.load(config.data))
    result = report.result(model.step, report.scores())
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(report.line(result))


if __name__ == "__main__":
    training.run(main)
