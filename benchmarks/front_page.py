r"""Measures the figures that README.md and docs/index.md state, each beside its peer in one run.

    python -m benchmarks.front_page --output=benchmarks/results/front_page.json --workdir=runs/front_page \
      --data_dir=DIR --published_dir=CHECKOUT --published_python=PYTHON --adbench=FOLDER

CHECKOUT is a clone of github.com/rtqichen/residual-flows, PYTHON an interpreter that has torch, and FOLDER holds
ADBench's .npz files (github.com/Minqi824/ADBench, adbench/datasets/Classical). --parts chooses what to measure:

- speed, memory: training steps beside the published code (compare_speed.py, ten minutes)
- small_flows: training steps of vectors beside TFP's RealNVP and MAF (compare_small_flows.py, two minutes)
- time_to_score: trainings beside the published code (time_to_score.py, two hours of one core)
- scores: held-out scores over three seeds (scores.py, one and a half hours of one core)
- tables: anomaly detectors on 22 tables (tables.py, two hours)
- checkpoints: converted checkpoints beside what the published code computed with them (a minute)

Each part writes its results to WORKDIR/PART.json and its figures to --output, with the commit, the date and the
machine. An interrupted part continues from --workdir, if the commit is still the same.
`tests/test_front_page.py` compares the pages with --output.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags

_FOLDER = pathlib.Path(__file__).parent
sys.path[:0] = [str(_FOLDER.parent), str(_FOLDER)]

from rows_file import provenance

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the figures, read and written.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what the parts write.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of TensorFlow data sets.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_ADBENCH = flags.DEFINE_string("adbench", None, "Folder of ADBench's .npz files.")

_STEPS = ("train_step_28x28x1_w64", "train_step_14x14x4_w128", "train_step_16x16x12_w512")
_EVALUATION = "evaluation_28x28x1_w64"
_STOPS = (300, 600, 1500)  # steps of the published code whose scores are to be reached
_BEST_STEPS = 2000  # of best_small


def _benchmark(part, script, *arguments):
    """Runs a script of this folder, which writes its results to WORKDIR/PART.json, and returns them."""
    output = pathlib.Path(_WORKDIR.value) / f"{part}.json"
    command = [sys.executable, str(_FOLDER / f"{script}.py"), f"--output={output}", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"Error: the part {part} failed; see the messages above.")
    return json.loads(output.read_text())


def _beside_published():
    if not _PUBLISHED_DIR.value:
        sys.exit("Error: --published_dir is missing. Pass a clone of github.com/rtqichen/residual-flows.")
    return f"--published_dir={_PUBLISHED_DIR.value}", f"--published_python={_PUBLISHED_PYTHON.value}"


def speed():
    """How many times as fast a training step is as that of the published code."""
    cases = f"--cases={','.join((*_STEPS, _EVALUATION))}"
    results = _benchmark("speed", "compare_speed", cases, "--keep_memory", *_beside_published())
    return {f"w{name.partition('_w')[2]}": results[name]["ratio"] for name in _STEPS}


def memory():
    """Peak memory of a training step in MB with 4 and 16 blocks, and of each further block."""
    cases = "--cases=memory_4_blocks,memory_16_blocks"
    results = _benchmark("memory", "compare_speed", cases, *_beside_published())
    return {
        f"{side}_{name.removeprefix('memory_')}": row[side]["megabytes"]["median"]
        for name, row in results.items()
        for side in ("ours", "published")
    }


def small_flows():
    """How many times as long as a step of RealNVP and of MAF a step of the default flow takes."""
    rows = _benchmark("small_flows", "compare_small_flows", "--dimensions=2,10,20", "--seconds=0")["times"]
    times = {(row["flow"], row["dimensions"]): row["step_ms"] for row in rows}
    return {
        f"{peer}_{size}": times["residual", size] / times[peer, size]
        for peer in ("RealNVP", "MAF")
        for size in (2, 10, 20)
    }


def time_to_score():
    """Processor seconds of each side until a score, and the scores: means over seeds."""
    import time_to_score as benchmark

    rows = _benchmark(
        "time_to_score",
        "time_to_score",
        "--config=mnist_small",
        "--threads=1",
        f"--steps={','.join(map(str, _STOPS))}",
        f"--data_dir={_DATA_DIR.value}",
        *_beside_published(),
    )
    figures = {"seeds": len({row["seed"] for row in rows})}
    owners = [("published", stop) for stop in _STOPS] + [("published, our schedule", _BEST_STEPS)]
    for owner, stop in owners:
        found = benchmark.times(rows, "mnist_small", owner, stop)
        key = f"{owner}_{stop}".replace(", ", "_").replace(" ", "_")
        figures[f"{key}_score"] = found["score"]
        for side, seconds in found["seconds"].items():
            if math.isfinite(seconds):
                figures[f"{key}_{side}".replace(", ", "_").replace(" ", "_")] = seconds
    last = [row["bits_per_dim"] for row in rows if row["side"] == "here, best_small" and row["step"] == _BEST_STEPS]
    return figures | {"best_small_score": float(np.mean(last))}


def scores():
    """Held-out scores, their standard deviation over seeds, and the mean standard error over examples."""
    rows = _benchmark("scores", "scores", f"--workdir={_WORKDIR.value}/scores", f"--data_dir={_DATA_DIR.value}")
    figures = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        figures[name] = float(np.mean([row["score"] for row in own]))
        figures[f"{name}_stderr"] = float(np.mean([row["stderr"] for row in own]))
        figures[f"{name}_deviation"] = float(np.std([row["score"] for row in own], ddof=1))
        figures[f"{name}_minutes"] = float(np.mean([row["processor_minutes"] for row in own]))
        figures |= {f"{name}_{key}": value for key, value in own[0].get("baselines", {}).items()}
        if "entropy" in own[0]:
            figures[f"{name}_entropy"] = own[0]["entropy"]
    return figures


def tables():
    """Mean AUC of detectors on ADBench's tables of even numbers, and how often FlowDensity is ahead."""
    import tables as benchmark

    if not _ADBENCH.value:
        sys.exit("Error: --adbench is missing. Pass the folder of ADBench's .npz files.")
    return table_figures(benchmark.means, _benchmark("tables", "tables", f"--adbench={_ADBENCH.value}"))


def table_figures(means, rows):
    """The figures of the rows of tables.py, whose function `means` averages them over seeds."""
    names, methods, found = means(rows)
    ours = found[:, methods.index("FlowDensity")]
    figures = {"num_tables": len(names)}
    for method, values in zip(methods, found.T, strict=True):
        figures[method] = float(np.mean(values))
        figures[f"{method}_behind"] = int(np.sum(values < ours))
        seconds = [row["seconds"] for row in rows if row["method"] == method]
        figures[f"{method}_seconds"] = float(np.median(seconds))
    return figures


def checkpoints():
    """The largest relative difference of bits/dim to the published code, over converted checkpoints."""
    import tensorflow as tf

    import tf_resflow as resflow

    folder, largest = _FOLDER.parent / "tests" / "interop", 0.0
    paths = sorted((folder / "checkpoints").glob("*.npz"))
    for path in paths:
        workdir = pathlib.Path(_WORKDIR.value) / "checkpoints" / path.stem
        if not workdir.exists():
            resflow.interop.convert_checkpoint(path, workdir)
        model, expected = resflow.load(workdir).model, np.load(folder / "results" / path.name)
        flow = resflow.bijectors.with_log_det_estimator(model.flow, resflow.logdet.Exact())
        x = tf.constant(np.moveaxis(expected["x"], 1, -1))
        y = flow.forward(x).numpy().reshape(len(x), -1).astype(np.float64)
        log_prob = -0.5 * np.sum(y**2 + math.log(2 * math.pi), axis=1) + flow.forward_log_det_jacobian(x, 3)
        bits_per_dim = math.log2(model.data_space.levels) - log_prob / (y.shape[1] * math.log(2))
        differences = np.abs(bits_per_dim / expected["ema_bits_per_dim"] - 1)
        print(f"{path.stem:15} {differences.max():.1e}", flush=True)
        largest = max(largest, float(differences.max()))
    return {"num_checkpoints": len(paths), "largest_difference": largest}


_MEASURES = (speed, memory, small_flows, time_to_score, scores, tables, checkpoints)
_PARTS = {function.__name__: function for function in _MEASURES}
_CHOSEN = flags.DEFINE_list("parts", list(_PARTS), "Parts to measure.")
flags.register_validator("parts", lambda names: set(names) <= set(_PARTS), f"The parts are {', '.join(_PARTS)}.")


def _started(part):
    """The provenance of a part, from when it was started in --workdir."""
    path, now = pathlib.Path(_WORKDIR.value) / f"{part}.provenance.json", provenance()
    if not path.exists():
        path.write_text(json.dumps(now))
    started = json.loads(path.read_text())
    if started["commit"] != now["commit"]:
        sys.exit(
            f"Error: {path.parent} holds results of the part {part} for commit {started['commit']}, but the "
            f"checkout is at {now['commit']}. Pass another --workdir, or check out that commit."
        )
    return started


def main(_):
    """Measures the chosen parts, one after the other."""
    os.makedirs(_WORKDIR.value, exist_ok=True)
    path = pathlib.Path(_OUTPUT.value)
    for part in _CHOSEN.value:
        started = _started(part)
        figures = _PARTS[part]()
        found = json.loads(path.read_text()) if path.exists() else {}
        found[part] = {**started, "figures": figures}
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps({part: found[part]}, indent=2), flush=True)


if __name__ == "__main__":
    app.run(main)
