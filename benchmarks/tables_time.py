"""Measures processor seconds, peak memory and held-out log-densities of fits of `FlowDensity` for two commits.

    git worktree add ../earlier e3ccb784
    python benchmarks/tables_time.py --output=benchmarks/results/tables_time.json --libraries=.,../earlier

`--libraries` are directories of checked-out commits, which take turns. Each fit has its own process, on one
core. The seconds are processor seconds of the fit, without the import but with the tracing of graphs. The
memory is the peak of the process in MB; `import_memory` is its peak before the fit. The columns of the rows are
smooth functions of three normal factors and a binary one, with noise. There are eight columns, ten for 100,000
rows. `held_out_nats` is the mean log-density of 2,000 other rows, per column. Results are added to `--output`;
existing ones are not recomputed.
"""

import contextlib
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np
from absl import app, flags

from tf_resflow.tables import FlowDensity

with contextlib.suppress(ImportError):  # the process of a fit may use an earlier commit
    from rows_file import add_rows, provenance

_REPOSITORY = str(pathlib.Path(__file__).parents[1])

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.")
_LIBRARIES = flags.DEFINE_list("libraries", [_REPOSITORY], "Directories of commits.")
_ROWS = flags.DEFINE_list("rows", ["300", "1000", "5000", "100000"], "Numbers of rows.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of fits of each commit and number of rows.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Maximum number of training steps. By default, that of FlowDensity.")
_FIT = flags.DEFINE_list("fit", None, "Number of rows and seed of a fit in this process, which prints its results.")

_HELD_OUT = 2_000
_MANY = 100_000


def _table(num, seed):
    """Returns rows to fit, and other rows."""
    rng = np.random.default_rng(seed)
    size = 10 if num >= _MANY else 8
    total = num + _HELD_OUT
    factors = rng.normal(size=[total, 3]) @ rng.normal(size=[3, size])
    groups = 2.0 * (rng.uniform(size=[total, 1]) < 0.3)
    rows = np.tanh(factors) + groups + 0.3 * rng.normal(size=[total, size])
    return rows[:num], rows[num:]


def _peak():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _fit(num, seed):
    rows, held_out = _table(num, seed)
    import_memory = _peak()
    start = time.process_time()
    density = FlowDensity(max_steps=_STEPS.value, random_state=seed).fit(rows)
    seconds = time.process_time() - start
    memory = _peak()
    nats = density.score(held_out) / rows.shape[1]
    return {
        "columns": rows.shape[1],
        "seconds": round(seconds, 1),
        "memory": memory,
        "import_memory": import_memory,
        "held_out_nats": round(nats, 4),
    }


def _measure(num, seed, commit, library):
    """Returns the results of a fit in a process that imports the library from a directory."""
    command = [sys.executable, __file__, f"--fit={num},{seed}"]
    if _STEPS.value:
        command.append(f"--steps={_STEPS.value}")
    environment = os.environ | {"PYTHONPATH": library}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1]) | provenance() | {"commit": commit}


def _commit(library):
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(command, cwd=library, capture_output=True, text=True, check=True).stdout.strip()


def main(_):
    """Measures the fits whose results are missing."""
    if _FIT.value:
        print(json.dumps(_fit(*map(int, _FIT.value))))
        return
    commits = {_commit(library): os.path.abspath(library) for library in _LIBRARIES.value}
    cases = itertools.product(range(_SEEDS.value), map(int, _ROWS.value), commits)
    names = ("seed", "rows", "commit")
    add_rows(_OUTPUT.value, names, cases, lambda seed, num, commit: _measure(num, seed, commit, commits[commit]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app.run(main)
