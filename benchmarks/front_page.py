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
- checkpoints: converted checkpoints beside what the published code computed (check_checkpoints.py, minutes)

Each part writes its results to PART.json beside --output, and its figures to --output, with the commit, the date
and the machine. An interrupted part continues from --workdir if the checkout is still at the same commit.
`tests/system/test_front_page.py` compares the pages with --output.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from absl import app, flags

from benchmarks.rows_file import provenance
from benchmarks.summaries import SIDES, TARGETS, figures

_FOLDER = pathlib.Path(__file__).parent
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the figures, read and written.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what the parts write.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of TensorFlow data sets.")
_PUBLISHED_DIR = flags.DEFINE_string("published_dir", None, "A checkout of the published code.")
_PUBLISHED_PYTHON = flags.DEFINE_string("published_python", sys.executable, "A Python that has torch.")
_ADBENCH = flags.DEFINE_string("adbench", None, "Folder of ADBench's .npz files.")

_SPEED = ("train_step_28x28x1_w64", "train_step_14x14x4_w128", "train_step_16x16x12_w512", "evaluation_28x28x1_w64")


def _given(flag, what):
    if not flag.value:
        sys.exit(f"Error: --{flag.name} is missing. Pass {what}.")
    return f"--{flag.name}={flag.value}"


def _beside_published():
    checkout = _given(_PUBLISHED_DIR, "a clone of github.com/rtqichen/residual-flows")
    return [checkout, f"--published_python={_PUBLISHED_PYTHON.value}"]


_COMMANDS = {  # of each part: a script of this folder, and its arguments
    "speed": lambda: ["compare_speed", f"--cases={','.join(_SPEED)}", "--keep_memory", *_beside_published()],
    "memory": lambda: ["compare_speed", "--cases=memory_4_blocks,memory_16_blocks", *_beside_published()],
    "small_flows": lambda: ["compare_small_flows", "--dimensions=2,10,20"],
    "time_to_score": lambda: [
        "time_to_score",
        "--config=mnist_small",
        "--threads=1",
        f"--steps={','.join(str(steps) for side, steps in TARGETS if side == SIDES[0])}",
        f"--data_dir={_DATA_DIR.value}",
        f"--figure={_WORKDIR.value}/time_to_score.png",
        *_beside_published(),
    ],
    "scores": lambda: ["scores", f"--workdir={_WORKDIR.value}/scores", f"--data_dir={_DATA_DIR.value}"],
    "tables": lambda: ["tables", f"--figure={_WORKDIR.value}/tables.png", _given(_ADBENCH, "ADBench's folder")],
    "checkpoints": lambda: ["check_checkpoints", f"--workdir={_WORKDIR.value}/checkpoints"],
}
_CHOSEN = flags.DEFINE_list("parts", list(_COMMANDS), "Parts to measure.")
flags.register_validator(
    "parts", lambda names: set(names) <= set(_COMMANDS), f"The parts are {', '.join(_COMMANDS)}."
)


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
        script, *arguments = _COMMANDS[part]()
        started, results = _started(part), pathlib.Path(_WORKDIR.value) / f"{part}.json"
        command = [sys.executable, str(_FOLDER / f"{script}.py"), f"--output={results}", *arguments]
        if subprocess.run(command).returncode:
            sys.exit(f"Error: the part {part} failed. Its messages are above.")
        shutil.copyfile(results, path.parent / results.name)
        found = json.loads(path.read_text()) if path.exists() else {}
        found[part] = {**started, "figures": figures(part, json.loads(results.read_text()))}
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps({part: found[part]}, indent=2), flush=True)


if __name__ == "__main__":
    app.run(main)
