"""Measures effective samples per second of Hamiltonian Monte Carlo, with and without fitted flows.

    python benchmarks/neutra.py --output=neutra.json

Each flow, followed by a triangular map, is fitted with `--fit_steps` steps of variational inference with 64
samples. Chains run in the coordinates of the target or of a fitted flow. They start from samples of the ground
truth, adapt their step sizes to an acceptance rate of 0.8, and are compiled by XLA. The number of leapfrog steps is
the best of `--leapfrogs` in another run. The number of effective samples is the minimum over the coordinates and
their squared deviations. Seconds are processor time of one thread; they exclude the fit and the compilation, which
are listed separately. Seconds and gradients include the steps of the adaptation. Results are added to `--output`;
existing results are not recomputed.
"""

import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags
from inference_flows import FLOWS
from inference_targets import DENSITIES
from rows_file import read_rows, write_rows

import tf_resflow as resflow

tfb, tfd = tfp.bijectors, tfp.distributions

_TASKS = ["banana", "funnel", "eight_schools", "hierarchical_regression"]
_SAMPLERS = ["plain", "residual", "mixed", "real_nvp", "autoregressive"]
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of results, read and written.", required=True)
_ONLY = flags.DEFINE_multi_enum("task", _TASKS, list(DENSITIES), "Density. Can be repeated.")
_KINDS = flags.DEFINE_multi_enum("sampler", _SAMPLERS, _SAMPLERS, "Plain HMC or a flow. Can be repeated.")
_FIT_STEPS = flags.DEFINE_integer("fit_steps", 1000, "Number of steps of variational inference.", lower_bound=1)
_RATE = flags.DEFINE_float(
    "learning_rate", 0.01, "Initial learning rate of Adam, which decays to zero.", lower_bound=0.0
)
_LEAPFROGS = flags.DEFINE_list(
    "leapfrogs", ["2", "4", "8", "16", "32"], "Numbers of leapfrog steps to choose from."
)
_CHAINS = flags.DEFINE_integer("chains", 16, "Number of parallel chains.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 1000, "Kept steps per chain, after half as many for burn-in.", lower_bound=4)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of fits, each with its own chains.", lower_bound=1)

_DRAWS = 64
_COLUMNS = ("leapfrogs", "per_second", "per_gradient", "r_hat", "mean_error", "fit_seconds", "compile_seconds")


def _fit(density, flow, seed):
    """Returns the bijector to the coordinates of a fitted flow."""
    size = density.size
    candidate = FLOWS[flow](size, 400 * max(10, size), samples=True, condition_size=None, seed=seed)
    triangle = tfp.util.TransformedVariable(tf.eye(size), tfb.FillScaleTriL(tfb.Exp(), diag_shift=None))
    affine = [tfb.ScaleMatvecTriL(triangle), tfb.Shift(tf.Variable(tf.zeros(size)))]
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [size])
    surrogate = tfd.TransformedDistribution(base, resflow.bijectors.Flow([candidate.bijector, *affine]))
    schedule = keras.optimizers.schedules.CosineDecay(_RATE.value, _FIT_STEPS.value)
    tfp.vi.fit_surrogate_posterior(
        density.log_prob,
        resflow.vi.with_path_derivative(surrogate),
        keras.optimizers.Adam(schedule, global_clipnorm=100.0),
        _FIT_STEPS.value,
        sample_size=_DRAWS,
        seed=seed,
    )
    return resflow.vi.neutra_bijector(surrogate)


def _chains(density, bijector):
    """Returns a compiled function from leapfrog steps and a seed to states `[steps, chains, size]`."""
    start = tf.constant(density.sample(_CHAINS.value, np.random.default_rng(0)), tf.float32)
    burn_in = _STEPS.value // 2

    @tf.function(jit_compile=True, autograph=False)
    def run(leapfrogs, seed):
        kernel = tfp.mcmc.HamiltonianMonteCarlo(density.log_prob, step_size=0.1, num_leapfrog_steps=leapfrogs)
        kernel = tfp.mcmc.SimpleStepSizeAdaptation(kernel, burn_in * 4 // 5, target_accept_prob=0.8)
        if bijector is not None:
            kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
        return tfp.mcmc.sample_chain(_STEPS.value, start, None, kernel, burn_in, trace_fn=None, seed=seed)

    return lambda leapfrogs, seed: run(tf.constant(leapfrogs), tf.constant([0, seed])).numpy()


def _measure(chains, leapfrogs, seed):
    """Returns states, and the effective samples per second and per gradient of the target."""
    start = time.process_time()
    states = chains(leapfrogs, seed)
    seconds = time.process_time() - start
    both = tf.concat([states, (states - states.mean(axis=(0, 1))) ** 2], axis=-1)
    effective = np.min(tfp.mcmc.effective_sample_size(both, filter_beyond_positive_pairs=True, cross_chain_dims=1))
    gradients = leapfrogs * (_STEPS.value + _STEPS.value // 2) * _CHAINS.value
    return states, {"per_second": float(effective / seconds), "per_gradient": float(effective / gradients)}


def _results(density, sampler, seed):
    """Returns a row of the table."""
    start = time.process_time()
    bijector = None if sampler == "plain" else _fit(density, sampler, seed)
    fitted = time.process_time()
    chains = _chains(density, bijector)
    chains(1, 0)
    row = {"fit_seconds": fitted - start, "compile_seconds": time.process_time() - fitted}
    tried = {
        number: _measure(chains, number, 2 * seed + 1)[1]["per_second"] for number in map(int, _LEAPFROGS.value)
    }
    row["leapfrogs"] = max(tried, key=tried.get)
    states, found = _measure(chains, row["leapfrogs"], 2 * seed + 2)
    truth = density.sample(10_000, np.random.default_rng(1))
    error = (states.mean(axis=(0, 1)) - truth.mean(axis=0)) / truth.std(axis=0)
    r_hat = np.max(tfp.mcmc.potential_scale_reduction(states))
    return row | found | {"r_hat": float(r_hat), "mean_error": float(np.sqrt(np.mean(error**2)))}


def main(_):
    """Computes the missing results, and prints the table."""
    tf.get_logger().setLevel("ERROR")  # hides warnings about casts in tfp.mcmc
    rows = read_rows(_OUTPUT.value)
    done = {(row["task"], row["sampler"], row["seed"]) for row in rows}
    for task, sampler, seed in itertools.product(_ONLY.value, _KINDS.value, range(_SEEDS.value)):
        if (task, sampler, seed) not in done:
            row = {"task": task, "sampler": sampler, "seed": seed}
            rows.append(row | _results(DENSITIES[task](), sampler, seed))
            write_rows(_OUTPUT.value, rows)
    print_table(rows)


def print_table(rows):
    """Prints a Markdown table of the median, minimum and maximum over seeds, per target and sampler."""
    print(f"| target | sampler | {' | '.join(_COLUMNS)} |\n{'|---' * (2 + len(_COLUMNS))}|")
    for task, sampler in dict.fromkeys((row["task"], row["sampler"]) for row in rows):
        same = [row for row in rows if (row["task"], row["sampler"]) == (task, sampler)]
        cells = [
            "{1:.3g} ({0:.3g} to {2:.3g})".format(*np.quantile([row[column] for row in same], [0, 0.5, 1]))
            for column in _COLUMNS
        ]
        print(f"| {task} | {sampler} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
