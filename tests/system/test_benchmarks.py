"""Tests that each benchmark runs at its smallest size and writes plausible results.

`simulators.py` and `time_lowered_step.py` are not tested, because they need packages that are not installed.
"""

import json

import numpy as np
import pytest

import tf_resflow as resflow

SMALL_IMAGES = " ".join(f"--config.model.{field}" for field in ("num_blocks=(1,1)", "width=8", "num_fc_blocks=0"))

# Each benchmark with its arguments, and a part of its output.
BENCHMARKS = [
    (
        "compare_estimators {out} --workdir={run} --num_examples=8 --repeats=2 --probes=1,25",
        "colored probes",
    ),
    ("compare_normalizations --shapes=3 --width=4 --batch=8 --steps=2", "schatten"),
    ("compare_small_flows --dimensions=3 --depth=1 --width=4 --batch=8 --steps=2 --seconds=0.1 --seeds=1", "NVP"),
    ("compare_speed {out} --cases=inverse_per_evaluation --repeats=2", "inverse_per_evaluation"),
    ("compare_successors {out} --config=digits --steps=10", "| digits | 10 | 3 | 2.167 ± 0.120 |"),
    (f"count_operations --config=configs/digits.py --shape=8,8,1 {SMALL_IMAGES}", "seconds on one GPU"),
    ("exact_crossover {out} --sizes=2 --sides=2 --num_blocks=1 --pairs=2 --seconds=0 --steps=1", "inference"),
    ("inference {out} --task=banana --flow=real_nvp --seconds=0.05 --seeds=1 --samples=20", "| banana"),
    ("lower_step --output={tmp}/lowered", ""),
    ("neutra {out} --task=banana --sampler=plain --seeds=2 --leapfrogs=1,2 --chains=2 --steps=20", "| banana"),
    ("report_gpu --output={tmp}/gpu.md --device=CPU:1 --configs=toy2d --batch_sizes=8 --num_steps=2", ""),
    ("scores {out} --workdir={tmp}/scores --models=pinwheel --seeds=1 --steps=2", "'model': 'pinwheel'"),
    (
        "synthesis {out} --tables=breast_cancer --methods=RankCopula --seeds=1",
        "'RankCopula', 'seed': 0, 'score': 0.",
    ),
    ("tables {out} --adbench={tmp} --seeds=1 --methods=GaussianMixture --figure={tmp}/figure.png", "GaussianMix"),
    ("tables_scale {out} --cases=rows --rows=300 --steps=2", "'case': 'rows', 'rows': 300"),
    ("time_serving {out} --model_dir={model} --signatures=serving_default --sizes=1,8 --repeats=2", "serving_def"),
    ("time_to_score {out} --config=digits --seeds=1 --steps=300,600 --threads=1", "| 4.000 | 40 s (1.0 x) |"),
]


def known_results(name):
    """Returns the content of a complete results file, so the benchmark trains nothing."""
    if name == "compare_successors":
        same = {"config": "digits", "steps": 10}
        scores = [same | {"seed": i, "bits_per_dim": score} for i, score in enumerate([2.0, 2.1, 2.4])]
        return {"times": {"digits": 1.0}, "scores": scores}
    sides = {"here, same settings": [5.0, 4.0], "here, best_small": [4.5, 3.5]}
    shared = {"config": "digits", "seed": 0, "threads": 1, "num_examples": 500}
    return [
        shared | {"side": side, "step": 300 * i, "seconds": 20.0 * i, "bits_per_dim": score}
        for side, scores in sides.items()
        for i, score in enumerate(scores, start=1)
    ]


def prepared(name, tmp_path, run_without_work):
    """Creates the files that a benchmark reads, and returns the paths for its arguments."""
    paths = {"tmp": tmp_path, "run": tmp_path / "run"}
    if name in ("compare_successors", "time_to_score"):
        (tmp_path / "results.json").write_text(json.dumps(known_results(name)))
    elif name == "compare_estimators":
        config = resflow.training.default_config()
        config.data.name = "digits"
        config.model.update(num_blocks=(1,), width=4, num_fc_blocks=0, kernels=(3, 1), norms=(2.0,) * 3)
        config.train.update(steps=1, ema_momentum=0.0)
        run_without_work(config, paths["run"])
    elif name == "tables":
        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.normal(size=[80, 2]), rng.normal(6.0, 1.0, size=[10, 2])])
        np.savez(tmp_path / "2_blobs.npz", X=rows, y=np.arange(90) >= 80)
    return paths


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("command, printed", BENCHMARKS, ids=lambda text: text.split(" ")[0])
def test_benchmark(command, printed, call, tmp_path, run_without_work, exported_float32):
    name = command.split()[0]
    paths = {"out": f"--output={tmp_path}/results.json", "model": exported_float32}
    paths |= prepared(name, tmp_path, run_without_work)
    name, *arguments = command.format(**paths).split()
    done = call(f"benchmarks/{name}.py", *arguments)
    assert done.code == 0 and printed in done.output, done.output
    if "{out}" in command:
        found = []
        kinds = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), found.append)
        json.loads((tmp_path / "results.json").read_text(), **kinds)
        numbers = np.array(found, float)
        assert np.all(np.isfinite(numbers)) and np.any(numbers)
    if name == "report_gpu":
        rows = [line.split("|") for line in (tmp_path / "gpu.md").read_text().splitlines()]
        differences = [float(row[4]) for row in rows if len(row) > 4 and row[1] == " residual "]
        assert len(differences) == 4 and max(differences) < 1e-6  # both devices are CPUs
    if name == "lower_step":
        for file in ("arguments.npz", "expected.npz"):
            with np.load(tmp_path / "lowered" / file) as arrays:
                assert len(arrays) > 10
