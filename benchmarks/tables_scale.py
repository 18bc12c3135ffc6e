"""Measures the time and memory of `FlowDensity` for many fits, columns, rows and processes.

    python benchmarks/tables_scale.py --output=benchmarks/results/tables_scale.json

The seconds are processor seconds on one core, so other programs change them little. Each case runs in its own
process:

- `equal_columns`, `other_columns`: --fits fits to tables of six columns, or of 2 to 12 columns with one condition.
  The growth is the resident memory after the last fit minus that after the fifth.
- `columns`: a fit to 2,000 rows of --columns columns, which are five normal factors and noise. The mean log-density
  of 500 other rows is compared with those under the true density and under a normal distribution with the sample
  covariance.
- `rows`: fits to --rows rows of eight columns (numbers, whole numbers, large integers, categories), and scores of
  rows of all columns and of the four columns of numbers. The memory is the peak in excess of a process that has
  fitted 1,000 rows.
- `processes`: `cross_val_score` with four folds of 1,000 rows, sequentially and in two processes; the largest
  difference to the sequential scores, and the peak memory of a process.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import joblib
import numpy as np
import pandas
from absl import app, flags
from rows_file import provenance, write_rows
from scipy import stats
from sklearn.model_selection import cross_val_score

from tf_resflow.tables import FlowDensity, TableEncoder
from tf_resflow.tables.density import TableDensity
from tf_resflow.tables.noise_conditioned import NoiseConditionedFlow

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results.", required=True)
_FITS = flags.DEFINE_integer("fits", 20, "Number of fits in one process.", lower_bound=6)
_COLUMNS = flags.DEFINE_list("columns", ["100", "500"], "Numbers of columns.")
_ROWS = flags.DEFINE_list("rows", ["10000", "100000", "1000000"], "Numbers of rows.")
_CASES = flags.DEFINE_list("cases", ["equal_columns", "other_columns", "columns", "rows", "processes"], "Cases.")
_STEPS = flags.DEFINE_integer(
    "steps", None, "Maximum number of training steps. The default of FlowDensity if None."
)

# Methods that are timed during a fit.
_PHASES = {
    "read_columns": (TableEncoder, "__init__"),
    "train": (NoiseConditionedFlow, "train"),
    "mixed_scores": (TableDensity, "log_probs"),
}
_SCORED = {"mixed": 20_000, "numbers": 1_000_000}  # maximum number of scored rows


def _memory(field):
    """Returns the resident memory (VmRSS) or its peak (VmHWM) in MB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


@contextlib.contextmanager
def _measured(found):
    """Adds the processor seconds and the excess of the peak memory to a dict."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = _memory("VmRSS"), time.process_time()
    yield
    found |= {"seconds": time.process_time() - start, "memory": _memory("VmHWM") - before}


def _fits(case, num, steps):
    seconds, memory = [], []
    for i in range(num):
        size = 6 if case == "equal_columns" else 2 + i % 11
        x, found = pandas.DataFrame(np.random.default_rng(i).normal(size=[1000, size])).add_prefix("x"), {}
        condition = [] if case == "equal_columns" else ["x0"]
        with _measured(found):
            fit = FlowDensity(max_steps=steps, random_state=i, condition_columns=condition).fit(x)
            fit.score_samples(x)
            fit.sample(10, condition=x[condition][:10] if condition else None)
        seconds.append(found["seconds"])
        memory.append(_memory("VmRSS"))
    return {"seconds": np.median(seconds), "memory": memory[-1], "growth": memory[-1] - memory[4]}


def _columns(size, steps):
    rng = np.random.default_rng(0)
    load, noise = rng.normal(size=[5, size]), rng.uniform(0.5, 1.5, size=size)
    train, test = (rng.normal(size=[num, 5]) @ load + noise * rng.normal(size=[num, size]) for num in (2000, 500))
    fit, found, explained = FlowDensity(max_steps=steps, random_state=0), {}, {}
    with _measured(found):
        fit.fit(train)
    with _measured(explained):
        fit.explain(test[:1])
    normal = stats.multivariate_normal(train.mean(axis=0), np.cov(train.T))
    true = stats.multivariate_normal(np.zeros(size), load.T @ load + np.diag(noise**2))
    return found | {
        "explain_seconds": explained["seconds"],
        "nats": fit.score_samples(test).mean(),
        "true_nats": true.logpdf(test).mean(),
        "normal_nats": normal.logpdf(test).mean(),
    }


def _table(num):
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=[3, num])
    numbers = {"a": a, "b": np.exp(a + 0.3 * rng.normal(size=num)), "c": b + c, "d": c**2 + 0.1 * b}
    table = pandas.DataFrame(numbers).assign(whole=rng.poisson(np.exp(0.5 * b + 1.0)))
    table = table.assign(
        identifier=2**60 + np.round(1e6 * c).astype("int64"), color=rng.choice([*"abcdef"], size=num)
    )
    return table.assign(answer=np.where(b + rng.normal(size=num) > 0, "yes", "no"))


def _rows(num, steps):
    table, found, seconds = _table(num), {}, dict.fromkeys(_PHASES, 0.0)
    numbers = table[[*"abcd"]]
    scored = {"mixed": FlowDensity(max_steps=20), "numbers": FlowDensity(max_steps=20).fit(numbers[:1000])}
    scored["mixed"].fit(table[:1000])
    for phase, (owner, name) in _PHASES.items():
        _time_calls(owner, name, phase, seconds)
    with _measured(found):
        scored["mixed"].set_params(max_steps=steps, random_state=0).fit(table)
    found |= {f"{phase}_seconds": value for phase, value in seconds.items()}
    for kind, rows in (("mixed", table), ("numbers", numbers)):
        own, rows = {}, rows[: _SCORED[kind]]
        with _measured(own):
            scored[kind].score_samples(rows)
        found[f"{kind}_per_second"] = len(rows) / own["seconds"]
    return found | {"table": table.memory_usage(deep=True).sum() / 2**20}


def _time_calls(owner, name, phase, seconds):
    """Replaces a method with one that adds its processor seconds to a dict."""
    method = getattr(owner, name)

    def timed(*args, **options):
        start = time.process_time()
        result = method(*args, **options)
        seconds[phase] += time.process_time() - start
        return result

    setattr(owner, name, timed)


def _processes(steps):
    rng = np.random.default_rng(0)
    rows = pandas.DataFrame({"a": rng.normal(size=1000), "b": rng.poisson(2.0, size=1000)})
    rows, density, found, scores = rows.assign(c=rng.choice(["x", "y"], size=1000)), FlowDensity(), {}, {}
    density.set_params(max_steps=steps, random_state=0, num_members=1)

    def peak(density, rows):
        density.fit(rows)
        return _memory("VmHWM")

    for backend in ("sequential", "loky"):
        start = time.perf_counter()
        with joblib.parallel_config(backend, n_jobs=2):
            scores[backend] = cross_val_score(density, rows, cv=4)
        found[f"{backend}_elapsed"] = time.perf_counter() - start
    peaks = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(peak)(density, rows) for _ in range(4))
    difference = np.abs(scores["loky"] - scores["sequential"]).max()
    return found | {"loky_difference": difference, "memory": max(peaks)}


def _run(function, *args):
    warnings.simplefilter("ignore")
    return {key: round(float(value), 4) for key, value in function(*args).items()}


def main(unused_argv):
    """Measures the cases."""
    steps = _STEPS.value
    cases = [({"case": case}, _fits, case, _FITS.value, steps or 60) for case in ("equal_columns", "other_columns")]
    cases += [({"case": "columns", "columns": int(size)}, _columns, int(size), steps) for size in _COLUMNS.value]
    cases += [({"case": "rows", "rows": int(num)}, _rows, int(num), steps) for num in _ROWS.value]
    cases = [
        case
        for case in [*cases, ({"case": "processes"}, _processes, steps or 200)]
        if case[0]["case"] in _CASES.value
    ]
    rows = []
    for case, function, *args in cases:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            rows.append(case | executor.submit(_run, function, *args).result() | provenance())
        print(rows[-1], flush=True)
        write_rows(_OUTPUT.value, rows)


if __name__ == "__main__":
    app.run(main)
