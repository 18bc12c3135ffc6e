r"""Searches for good settings of a config with Optuna, and stops unpromising runs early.

    pip install optuna
    python examples/sweep.py --config=digits --workdir=runs/sweep --trials=20

Arguments that this script does not know go to `resflow-train`. Each trial is a run in WORKDIR/NUMBER. Its
validation scores decide whether it continues, and its best one is the value of the trial. The study is stored in
WORKDIR/study.db: run the same command again for more trials, or in several processes at once.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

import optuna

from tf_resflow.training import read_metrics

SECONDS_BETWEEN_LOOKS = 2.0


def validation_scores(workdir):
    """Returns a dict of each evaluated step to its score, in nats or bits/dim."""
    lines = [line for line in read_metrics(workdir) if line["split"] == "validation"]
    return {line["step"]: line.get("bits_per_dim", line.get("nats")) for line in lines}


def train(trial, workdir, arguments):
    """Trains a run, reports its scores, and stops it with SIGTERM if they are worse than those of other trials."""
    program = pathlib.Path(sys.executable).with_name("resflow-train")
    command = [program, f"--workdir={workdir}", "--quiet", *arguments]
    reported = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for step, score in validation_scores(workdir).items():
                if step not in reported and score is not None:
                    trial.report(score, step)
                    reported.add(step)
            if reported and trial.should_prune():
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise optuna.TrialPruned
    if process.returncode == 2:
        sys.exit("resflow-train refused its arguments.")
    if process.returncode:
        raise RuntimeError(f"resflow-train ended with the exit code {process.returncode}.")
    return json.loads((workdir / "result.json").read_text())["best"]


def main():
    """Runs the trials, and prints the best settings."""
    options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(description=__doc__, **options)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of the runs and the study")
    parser.add_argument("--trials", type=int, default=20, help="number of trials")
    flags, arguments = parser.parse_known_args()

    def objective(trial):
        rate = trial.suggest_float("train.learning_rate", 3e-4, 1e-2, log=True)
        blocks = trial.suggest_int("model.num_blocks", 4, 16, step=4)
        chosen = [f"--config.train.learning_rate={rate}", f"--config.model.num_blocks={blocks}"]
        return train(trial, flags.workdir / str(trial.number), [*arguments, *chosen])

    flags.workdir.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{flags.workdir}/study.db"
    study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)
    study.optimize(objective, n_trials=flags.trials, catch=(RuntimeError,))
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        sys.exit("No trial was completed.")
    print(f"Trial {study.best_trial.number} is the best, with {study.best_value:.4f}: {study.best_params}")


if __name__ == "__main__":
    main()
