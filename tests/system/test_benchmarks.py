"""Tests that each benchmark runs at its smallest size and writes plausible results.

`simulators.py` is not tested, because it needs packages that are not installed.
"""

import json

import numpy as np
import pytest

# Each benchmark with its arguments, and a part of its output.
BENCHMARKS = [
    ("compare_small_flows {out} --dimensions=3 --depth=1 --width=4 --batch=8 --steps=2", "NVP"),
    ("compare_speed {out} --cases=evaluation_28x28x1_w64 --repeats=2", "evaluation_28x28x1_w64"),
    ("cycles {out} --tables=simulated --rows=400 --steps=2", "'kind': 'date + day + week + year'"),
    ("explain {out} --tables=wine --rows=5 --repeats=1 --steps=2", "'table': 'wine'"),
    ("inference {out} --task=funnel --seconds=0.05 --seeds=1 --learning_rates=0.003", "'flow': 'autoregressive'"),
    ("scores {out} --workdir={tmp}/scores --models=pinwheel --seeds=1 --steps=2", "'model': 'pinwheel'"),
    ("sets {out} --task=scale --flow=couplings --seconds=0.05 --seeds=1", "'flow': 'couplings'"),
    ("splines {out} --task=iris --flow=spline --seconds=0.05 --seeds=1 --learning_rates=0.003", "'flow': 'spline'"),
    (
        "synthesis {out} --tables=breast_cancer --methods=RankCopula --seeds=1",
        "'method': 'RankCopula', 'score': 0.",
    ),
    ("tables {out} --adbench={tmp} --seeds=1 --methods=GaussianMixture --figure={tmp}/figure.png", "GaussianMix"),
    ("tables_scale {out} --cases=rows --rows=300 --steps=2", "'case': 'rows', 'rows': 300"),
    ("tables_time {out} --rows=30 --steps=2", "'rows': 30"),
    ("thresholds {out} --cases=mixture:60 --fits=2 --steps=2", "'table': 'mixture'"),
    ("time_serving {out} --model_dir={model} --signatures=serving_default --sizes=1,8 --repeats=2", "serving_def"),
    ("time_to_score {out} --config=digits --seeds=1 --steps=300,600 --threads=1", "| 4.000 | 40 s (1.0 x) |"),
]


def known_results():
    """Returns the content of a complete results file of time_to_score, so that it trains nothing."""
    sides = {"here, same settings": [5.0, 4.0], "here, best_small": [4.5, 3.5]}
    shared = {"config": "digits", "seed": 0, "threads": 1, "num_examples": 500}
    return [
        shared | {"side": side, "step": 300 * i, "seconds": 20.0 * i, "bits_per_dim": score}
        for side, scores in sides.items()
        for i, score in enumerate(scores, start=1)
    ]


def prepare(name, tmp_path):
    """Creates the files that a benchmark reads."""
    if name == "time_to_score":
        (tmp_path / "results.json").write_text(json.dumps(known_results()))
    elif name == "tables":
        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.normal(size=[80, 2]), rng.normal(6.0, 1.0, size=[10, 2])])
        np.savez(tmp_path / "2_blobs.npz", X=rows, y=np.arange(90) >= 80)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("command, printed", BENCHMARKS, ids=lambda text: text.split(" ")[0])
def test_benchmark(command, printed, call, tmp_path, exported_float32):
    paths = {"out": f"--output={tmp_path}/results.json", "model": exported_float32, "tmp": tmp_path}
    name, *arguments = command.format(**paths).split()
    prepare(name, tmp_path)
    done = call(f"benchmarks/{name}.py", *arguments)
    assert done.code == 0 and printed in done.output, done.output
    if "{out}" in command:
        found = []
        kinds = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), found.append)
        json.loads((tmp_path / "results.json").read_text(), **kinds)
        numbers = np.array(found, float)
        assert np.all(np.isfinite(numbers)) and np.any(numbers)
