r"""Compiles and times a step of lower_step.py with JAX, without TensorFlow, and times the published PyTorch code.

    python benchmarks/time_lowered_step.py --folder=lowered
    python benchmarks/time_lowered_step.py --folder=lowered --case=train_step_28x28x1_w64 --published_dir=CHECKOUT

Pass the case of lower_step.py, and as CHECKOUT a clone of github.com/rtqichen/residual-flows. jax and torch must
support the same kind of device. The first line shows the time to compile, the memory for intermediate values, and
the largest difference from TensorFlow's own step in the loss and the variables. Differences are relative for arrays
with values above 1 and absolute otherwise. They ignore the sign, because singular vectors have no defined sign.
Each step uses the variables of the previous step, and ends when its loss is available.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
from jax._src.lib import xla_client  # JAX has no public API that compiles StableHLO text
from workers import CASES, published_worker


class LoweredStep:
    """A compiled step, and its arguments on the device.

    Args:
      folder: output folder of lower_step.py.

    Attributes:
      seconds: time to compile.
      megabytes: memory for intermediate values.
    """

    def __init__(self, folder: pathlib.Path):
        jax.config.update("jax_enable_x64", True)  # Keras counts steps in int64
        device = jax.devices()[0]
        start = time.perf_counter()
        self._compiled = device.client.compile_and_load(
            (folder / "step.mlir").read_text(), xla_client.DeviceList((device,)), xla_client.CompileOptions()
        )
        self.seconds = time.perf_counter() - start
        self.megabytes = self._compiled.get_compiled_memory_stats().temp_size_in_bytes / 2**20
        arrays = _arrays(folder / "arguments.npz")
        self._variables = arrays.pop("variables")
        self._arguments = [jax.device_put(array) for array in arrays.values()]

    def __call__(self, number: int) -> list[np.ndarray]:
        """Takes the step with the seed `[0, number]`, and returns its loss and the new variables."""
        self._arguments[1] = jax.device_put(np.array([0, number], np.int32))
        results = self._compiled.execute(self._arguments)
        for place, value in zip(self._variables, results[1:], strict=True):
            self._arguments[place] = value
        results[0].block_until_ready()
        return results


def _arrays(path):
    with np.load(path) as file:
        return dict(file)


def difference(results: list, folder: pathlib.Path) -> float:
    """Returns the largest difference between the results of the first step and of TensorFlow."""
    expected = _arrays(folder / "expected.npz").values()
    return max(_relative(np.asarray(a, np.float64), b) for a, b in zip(results, expected, strict=True))


def _relative(a, b):
    return min(np.max(np.abs(a - b)), np.max(np.abs(a + b))) / max(np.max(np.abs(b)), 1.0)


def main():
    """Prints the first line and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--published_dir", help="Without it, only the lowered step is timed.")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    step = LoweredStep(options.folder)
    found = difference(step(1), options.folder)
    device = jax.devices()[0].device_kind
    print(f"{device}: compiled in {step.seconds:.1f} s, {step.megabytes:.0f} MB, difference {found:.1e}")
    times = {"lowered": []}
    if options.published_dir:
        times["published"] = []
        worker = published_worker(options.published_dir, sys.executable, threads=os.cpu_count(), keep_memory=False)
        worker.ask(f"prepare {options.case}")
        worker.ask("run")
    for number in range(2, options.steps + 2):
        start = time.perf_counter()
        step(number)
        times["lowered"].append(time.perf_counter() - start)
        if options.published_dir:
            times["published"].append(worker.ask("run")["seconds"])
    for side, seconds in times.items():
        print(f"{side:10} {1e3 * statistics.median(seconds):9.2f} ms per step (median of {len(seconds)})")


if __name__ == "__main__":
    main()
