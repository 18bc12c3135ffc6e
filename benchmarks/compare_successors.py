r"""Compares image configs on the validation split, after equal numbers of steps and after equal processor time.

    python benchmarks/compare_successors.py --output=successors.json --steps=1500 --config=digits \
      --config=idensenet:digits --config=ablations:cpila,idensenet:digits --config=variational:digits

Every config trains for `--steps` steps, and again for the number of steps that takes as long as `--steps` steps of
the first config. With `--learning_rate`, all configs use this constant rate after a warm-up of a fifth of the
steps, and one training gives both scores. If a config has no validation split, a tenth of the training split is
held out.

Results are added to `--output`; existing results are not recomputed. The time of a step is relative to the first
config. It is the median of `--timed_steps` steps in processor time over all threads; the configs take turns.
Without seeds (`--seeds=`), only times are measured.
"""

import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags

from tf_resflow import data, models, training
from tf_resflow.training.checkpoints import make_optimizer
from tf_resflow.writing import check_output_path, whole_file

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_CONFIGS = flags.DEFINE_multi_string("config", ["digits"], "Config, as in resflow-train. Can be repeated.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Number of training steps of the first config.", lower_bound=1)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the trainings.")
_RATE = flags.DEFINE_float("learning_rate", None, "Constant learning rate; by default each config's schedule.")
_TIMED = flags.DEFINE_integer("timed_steps", 20, "Number of timed steps.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer("examples", 1000, "Maximum number of validation images.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS directory.")


def _config(name, seed, steps, eval_every):
    config = training.base_config(name)
    config.seed = seed
    config.data.data_dir = _DATA_DIR.value or config.data.data_dir
    config.data.validation_fraction = config.data.validation_fraction or 0.1
    config.train.update(steps=steps, eval_every=eval_every, checkpoint_every=steps)
    if _RATE.value:
        rate = {"learning_rate": _RATE.value, "warmup_steps": steps // 5, "ema_momentum": 0.99}
        config.train.update(schedule="constant", **rate)
    config.eval.update(split="validation", num_examples=_EXAMPLES.value)
    return config


def _step(name):
    """Returns a function of a seed that takes a training step."""
    config = _config(name, 0, _STEPS.value, _STEPS.value)
    config.train.schedule = "constant"  # has no minimum number of steps
    dataset = data.load(config.data)
    model = models.build_model(config, dataset)
    model.compile(optimizer=make_optimizer(config.train, model.trainable_variables))
    batch = next(iter(dataset.train_batches(config.train.batch_size, 0)))
    model.initialize(batch)
    step = tf.function(lambda seed: models.train_step(model, batch, seed), autograph=False)
    return lambda seed: step(tf.constant([0, seed]))["gradient_norm"].numpy()


def _times(first, names):
    """Returns the median processor time of a step of each config, relative to the first config."""
    steps = {name: _step(name) for name in dict.fromkeys([first, *names])}
    times = {name: [] for name in steps}
    for seed in range(_TIMED.value + 1):
        for name, step in steps.items():
            start = time.process_time()
            step(seed)
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(several[1:]) for name, several in times.items()}
    return {name: medians[name] / medians[first] for name in names}


def _scores(name, seed, steps, missing):
    """Yields rows of the validation scores after the `missing` numbers of steps."""
    for total, eval_every in [(max(steps), min(steps))] if _RATE.value else [(n, n) for n in missing]:
        with tempfile.TemporaryDirectory() as folder:
            training.train(_config(name, seed, total, eval_every), pathlib.Path(folder) / "run")
            lines = (pathlib.Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        for line in map(json.loads, lines):
            if line["split"] == "validation" and line["step"] in missing:
                score = {"bits_per_dim": line["bits_per_dim"], "stderr": line["bits_per_dim_stderr"]}
                yield {"config": name, "seed": seed, "steps": line["step"], **score}


def main(_):
    """Computes the missing results, and prints the tables."""
    check_output_path(_OUTPUT.value, [".json"])
    output = pathlib.Path(_OUTPUT.value)
    first, names = _CONFIGS.value[0], _CONFIGS.value
    known = json.loads(output.read_text()) if output.exists() else {"times": {first: 1.0}, "scores": []}
    if missing := [name for name in names if name not in known["times"]]:
        known["times"] |= _times(first, missing)
        _write(output, known)
    for seed in map(int, _SEEDS.value):
        for name in names:
            steps = {_STEPS.value, max(1, round(_STEPS.value / known["times"][name]))}
            done = {row["steps"] for row in known["scores"] if (row["config"], row["seed"]) == (name, seed)}
            if missing := sorted(steps - done, reverse=True):
                known["scores"] += _scores(name, seed, steps, missing)
                _write(output, known)
    print_table(known)


def _write(output, known):
    with whole_file(output) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(known, indent=1))


def print_table(known):
    """Prints Markdown tables of the times, and of the mean scores with their standard errors."""
    print("| config | relative time of a step |\n|---|---|")
    for name, ratio in known["times"].items():
        print(f"| {name} | {ratio:.2f} |")
    print("\n| config | steps | seeds | bits/dim |\n|---|---|---|---|")
    groups = {}
    for row in known["scores"]:
        groups.setdefault((row["config"], row["steps"]), []).append(row)
    for (name, steps), rows in groups.items():
        scores = [row["bits_per_dim"] for row in rows]
        error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else rows[0]["stderr"]
        print(f"| {name} | {steps} | {len(rows)} | {np.mean(scores):.3f} ± {error:.3f} |")


if __name__ == "__main__":
    app.run(main)
