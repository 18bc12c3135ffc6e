"""Compares posteriors of simulators with `sbi`, on the ten tasks of `sbibm`.

    pip install torch sbi pyro-ppl diskcache && pip install --no-deps sbibm
    python benchmarks/simulators.py --output=simulators.json --num=10000

Each method gets the same `--num` simulations of a task and trains once on one thread with its defaults, for at most
`--seconds` of processor time. It then samples the posteriors of the ten observations of sbibm. The score is the
mean C2ST of these samples and the reference samples: the accuracy of a classifier that distinguishes them, where
0.5 is best. Results are added to `--output`; existing results are not recomputed.

The methods `tf_resflow_rounds`, `tf_resflow_warm_rounds` and `sbi_rounds` find the posterior of each observation in
ten rounds, each with a tenth of the simulations, by truncated proposals. They have no time limit. With warm rounds,
each fit continues from the weights of the last one.

The classifier is a network with two layers of 50 ReLU units on standardized values. Its training stops when the
accuracy on a tenth of its examples no longer improves. It learns from 2,000 samples of each kind and is tested on
2,000 others; then both halves are swapped. The classifier of sbibm has 10 units per parameter, trains until its
loss no longer decreases, and learns from 8,000 of 10,000 samples of each kind, in five folds. It takes far longer.
"""

import functools
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import keras
import numpy as np
import simulator_tasks
import tensorflow_probability as tfp
import torch
from absl import app, flags
from rows_file import add_rows
from sbi.inference import NPE
from sbi.utils import RestrictedPrior, get_density_thresholder
from sklearn import model_selection, neural_network, preprocessing

import tf_resflow as resflow
from tf_resflow._internal.writing import check_output_path

tfd = tfp.distributions

_ROUNDS = 10
_SAMPLES = 4000  # of each posterior, for the classifier
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_FIGURE = flags.DEFINE_string("figure", None, "PNG file for a figure of all results.")
_NUM = flags.DEFINE_multi_integer("num", [1000, 10_000, 100_000], "Number of simulations. Can be repeated.")
_SECONDS = flags.DEFINE_float("seconds", 100.0, "Maximum processor seconds of a training.", lower_bound=0.1)
_OBSERVATIONS = flags.DEFINE_integer("observations", 10, "Number of observations per task.", 1, 10)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the trainings and the samples.")
_ONLY = flags.DEFINE_multi_enum("task", simulator_tasks.TASKS, simulator_tasks.TASKS, "Task. Can be repeated.")


def sbi_posterior(prior, theta, x):
    """Trains `sbi`. Returns a function from an observation to samples, and whether the time limit was reached."""
    deadline = time.process_time() + _SECONDS.value

    class Limited(NPE):
        """Stops with the best weights when the time is over."""

        is_late = False

        def _converged(self, epoch, stop_after_epochs):
            self.is_late = time.process_time() > deadline
            return super()._converged(epoch, 0 if self.is_late and epoch > 0 else stop_after_epochs)

    trainer = Limited(prior, density_estimator="nsf", show_progress_bars=False)
    estimator = trainer.append_simulations(torch.as_tensor(theta), torch.as_tensor(x)).train()
    posterior = trainer.build_posterior(estimator)

    def sample(observation):
        given = torch.as_tensor(observation)[None]
        return posterior.sample((_SAMPLES,), x=given, show_progress_bars=False).numpy()

    return sample, trainer.is_late


class Deadline(keras.callbacks.Callback):
    """Ends a training at a processor time."""

    def __init__(self, deadline):
        super().__init__()
        self.deadline, self.is_late = deadline, False

    def on_epoch_end(self, epoch, logs=None):
        """Checks the time."""
        self.is_late = time.process_time() > self.deadline
        self.model.stop_training = self.model.stop_training or self.is_late


def resflow_posterior(prior, theta, x):
    """Does the same with this library."""
    deadline = Deadline(time.process_time() + _SECONDS.value)
    estimator = resflow.PosteriorEstimator(to_tfp(prior), x.shape[1:], seed=_SEED.value)
    estimator.fit(theta, x, callbacks=[deadline], verbose=0)

    def sample(observation):
        return estimator.posterior(observation).sample(_SAMPLES, seed=_SEED.value).numpy()

    return sample, deadline.is_late


def resflow_rounds(prior, theta, x, simulate, warm_start=False):
    """Returns a function from an observation to samples of its posterior after ten rounds."""
    num = len(theta) // _ROUNDS

    def sample(observation):
        estimator = resflow.PosteriorEstimator(to_tfp(prior), x.shape[1:], seed=_SEED.value)
        pairs = [(theta[:num], x[:num])]
        for seed in range(1, _ROUNDS):
            estimator.fit(*map(np.concatenate, zip(*pairs, strict=True)), warm_start=warm_start, verbose=0)
            new = estimator.proposal(observation, seed=seed).sample(num, seed=resflow.stateless_seed(seed)).numpy()
            pairs.append((new, simulate(new, np.random.default_rng(seed))))
        estimator.fit(*map(np.concatenate, zip(*pairs, strict=True)), warm_start=warm_start, verbose=0)
        return estimator.posterior(observation).sample(_SAMPLES, seed=_SEED.value).numpy()

    return sample, False


def sbi_rounds(prior, theta, x, simulate):
    """Does the same with `sbi`."""
    num = len(theta) // _ROUNDS

    def sample(observation):
        trainer = NPE(prior, density_estimator="nsf", show_progress_bars=False)
        given = torch.as_tensor(observation)[None]
        new = torch.as_tensor(theta[:num])
        for seed in range(1, _ROUNDS + 1):
            data = x[:num] if seed == 1 else simulate(new.numpy(), np.random.default_rng(seed))
            trainer.append_simulations(new, torch.as_tensor(data, dtype=torch.float32))
            estimator = trainer.train(force_first_round_loss=True)
            posterior = trainer.build_posterior(estimator).set_default_x(given)
            if seed < _ROUNDS:
                inside = get_density_thresholder(posterior, quantile=1e-4)
                proposal = RestrictedPrior(prior, inside, sample_with="rejection")
                new = proposal.sample((num,), show_progress_bars=False)
        return posterior.sample((_SAMPLES,), x=given, show_progress_bars=False).numpy()

    return sample, False


def to_tfp(prior):
    """Converts a PyTorch distribution to a TFP distribution."""
    base = getattr(prior, "base_dist", prior)
    if isinstance(base, torch.distributions.Uniform):
        return tfd.Independent(tfd.Uniform(base.low.numpy(), base.high.numpy()), 1)
    if isinstance(base, torch.distributions.LogNormal):
        return tfd.Independent(tfd.LogNormal(base.loc.numpy(), base.scale.numpy()), 1)
    return tfd.MultivariateNormalTriL(base.loc.numpy(), base.scale_tril.numpy())


METHODS = {
    "tf_resflow": lambda prior, theta, x, simulate: resflow_posterior(prior, theta, x),
    "sbi_nsf": lambda prior, theta, x, simulate: sbi_posterior(prior, theta, x),
    "tf_resflow_rounds": resflow_rounds,
    "tf_resflow_warm_rounds": functools.partial(resflow_rounds, warm_start=True),
    "sbi_rounds": sbi_rounds,
}
_METHOD = flags.DEFINE_multi_enum("method", list(METHODS)[:2], list(METHODS), "Method. Can be repeated.")


def c2st(samples, reference):
    """Returns the accuracy of a ReLU network that distinguishes samples from a reference, on folds it did not see.

    The inputs `[num, dimensions]` are standardized by the reference. Accuracies are comparable for equal numbers of
    samples only.
    """
    values = preprocessing.StandardScaler().fit(reference).transform(np.concatenate([samples, reference]))
    label = np.repeat([0, 1], len(samples))
    options = {"learning_rate_init": 3e-3, "batch_size": 100, "early_stopping": True}
    classifier = neural_network.MLPClassifier((50, 50), max_iter=1000, random_state=0, **options)
    folds = model_selection.StratifiedKFold(2, shuffle=True, random_state=0)
    return float(np.mean(model_selection.cross_val_predict(classifier, values, label, cv=folds) == label))


def run(seed, num, task, method):
    """Returns the other fields of a row."""
    theta, x = simulator_tasks.pairs(task, num)
    torch.manual_seed(seed)
    start = time.process_time()
    prior, simulate = simulator_tasks.make_task(task)
    sample, is_late = METHODS[method](prior, theta, x, simulate)
    row = {"is_late": is_late, "seconds": time.process_time() - start}
    start = time.process_time()
    numbers = range(1, 1 + _OBSERVATIONS.value)
    samples = [sample(simulator_tasks.observation(task, i)) for i in numbers]
    row["sampling_seconds"] = time.process_time() - start
    references = [simulator_tasks.reference(task, i)[-_SAMPLES:] for i in numbers]
    row["c2st"] = [c2st(*pair) for pair in zip(samples, references, strict=True)]
    row["mean_c2st"] = float(np.mean(row["c2st"]))
    return row


def main(_):
    """Computes the missing results, and draws the figure."""
    if _FIGURE.value:
        check_output_path(_FIGURE.value, [".png"])
    torch.set_num_threads(1)
    cases = itertools.product([_SEED.value], _NUM.value, _ONLY.value, _METHOD.value)
    rows = add_rows(_OUTPUT.value, ("seed", "num", "task", "method"), cases, run)
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


def _score(rows, num, task, method):
    """Returns the mean C2ST of this case over seeds; NaN without results."""
    found = [row["mean_c2st"] for row in rows if (row["num"], row["task"], row["method"]) == (num, task, method)]
    return np.mean(found) if found else np.nan


def draw(rows, path):
    """Draws a panel per number of simulations, with the C2ST of this library and of `nsf` on each task."""
    import matplotlib.pyplot as plt

    numbers = sorted({row["num"] for row in rows})
    figure, panels = plt.subplots(
        1, len(numbers), figsize=(4 + 3 * len(numbers), 4), sharey=True, layout="constrained", squeeze=False
    )
    for panel, num in zip(panels[0], numbers, strict=True):
        for method, marker in zip(list(METHODS)[:2], "os", strict=True):
            scores = [_score(rows, num, task, method) for task in simulator_tasks.TASKS]
            panel.plot(scores, simulator_tasks.TASKS, marker, label=method)
        panel.set(title=f"{num:,} simulations", xlabel="C2ST (0.5 is best)", xlim=(0.49, 1.01))
        panel.grid(alpha=0.3)
    panels[0, 0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    app.run(main)
