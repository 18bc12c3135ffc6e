"""The table of configs, from a file that holds all results."""

import json

import numpy as np

from tf_resflow import training


def test_a_table_of_what_is_known(call, tmp_path):
    """Nothing is trained again; means and standard errors are NumPy's."""
    scores = [2.0, 2.1, 2.4]
    rows = [{"config": "digits", "seed": i, "steps": 10, "bits_per_dim": s} for i, s in enumerate(scores)]
    rows += [
        {"config": "idensenet:digits", "seed": i, "steps": steps, "bits_per_dim": 1.9, "stderr": 0.02}
        for i in range(3)
        for steps in (10, 5)
    ]
    output = tmp_path / "known.json"
    output.write_text(json.dumps({"times": {"digits": 1.0, "idensenet:digits": 2.0}, "scores": rows}))
    names = ["--config=digits", "--config=idensenet:digits"]
    done = call("benchmarks/compare_successors.py", f"--output={output}", "--steps=10", *names)
    assert done.code == 0, done.output
    error = np.std(scores, ddof=1) / np.sqrt(3)
    assert f"| digits | 10 | 3 | {np.mean(scores):.3f} ± {error:.3f} |" in done.output
    assert "| idensenet:digits | 5 | 3 | 1.900 ± 0.000 |" in done.output
    assert "| idensenet:digits | 2.00 |" in done.output


def test_with_a_constant_rate_one_training_gives_both_scores(call, tmp_path, monkeypatch):
    """At equal steps and at equal time, from the lines of the validation split."""
    trained = []

    def train(config, workdir):
        trained.append((config.train.schedule, config.train.learning_rate, config.train.steps))
        every, steps = config.train.eval_every, config.train.steps
        workdir.mkdir()
        with open(workdir / "metrics.jsonl", "w") as file:
            for step in sorted({*range(every, steps + 1, every), steps}):
                for split, score in (("train", 9.0), ("validation", 2.0 - step / 100)):
                    line = {"step": step, "split": split, "bits_per_dim": score, "bits_per_dim_stderr": 0.1}
                    file.write(json.dumps(line) + "\n")

    monkeypatch.setattr(training, "train", train)
    output = tmp_path / "known.json"
    output.write_text(json.dumps({"times": {"digits": 1.0, "idensenet:digits": 2.5}, "scores": []}))
    names = ["--config=digits", "--config=idensenet:digits", "--learning_rate=0.01", "--seeds=0"]
    done = call("benchmarks/compare_successors.py", f"--output={output}", "--steps=10", *names)
    assert done.code == 0, done.output
    assert trained == [("constant", 0.01, 10)] * 2
    assert "| digits | 10 | 1 | 1.900 ± 0.100 |" in done.output
    assert "| idensenet:digits | 4 | 1 | 1.960 ± 0.100 |" in done.output
    assert "| idensenet:digits | 10 | 1 | 1.900 ± 0.100 |" in done.output
    known = json.loads(output.read_text())
    known["scores"] = [row for row in known["scores"] if row["steps"] == 10]
    output.write_text(json.dumps(known))
    done = call("benchmarks/compare_successors.py", f"--output={output}", "--steps=10", *names)
    assert trained[2:] == [("constant", 0.01, 10)]  # not a shorter one, with another warm-up
    assert done.output.count("| digits | 10 |") == 1 and "| idensenet:digits | 4 | 1 | 1.960" in done.output
