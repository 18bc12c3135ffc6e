"""The worker processes of the comparisons, the cases they measure, and the protocol between them."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: a stack of blocks on a batch of images with values 0 to 255.

    Attributes:
      kind: what is measured, such as "train_step".
      shape: `(height, width, channels)`.
      width: channels inside a block.
      num_blocks: number of residual blocks, each followed by an ActNorm.
      num_exact_terms: terms of the series with weight 1.
      num_extra_terms: further terms. Their number is fixed here, so both sides do the same work.
      batch_size: number of images.
    """

    kind: str
    shape: tuple[int, int, int]
    width: int
    num_blocks: int = 4
    num_exact_terms: int = 2
    num_extra_terms: int = 2
    batch_size: int = 64

    def batch(self) -> np.ndarray:
        """Returns the images, NHWC. Both sides get the same images."""
        return np.random.default_rng(0).integers(0, 256, [self.batch_size, *self.shape])


_SMALL = (28, 28, 1), 64
CASES = {
    "train_step_28x28x1_w64": Case("train_step", *_SMALL),
    "train_step_14x14x4_w128": Case("train_step", (14, 14, 4), 128),
    "train_step_16x16x12_w512": Case("train_step", (16, 16, 12), 512, batch_size=16),
    "evaluation_28x28x1_w64": Case("evaluation", *_SMALL, num_exact_terms=20),
    "memory_4_blocks": Case("memory", *_SMALL),
    "memory_16_blocks": Case("memory", *_SMALL, num_blocks=16),
}


def _peak_memory() -> float:
    """Peak resident memory of this process in MB (Linux)."""
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


class Worker:
    """A process that prepares a case and measures it on request.

    Args:
      *command: the command that starts the process.
      threads: number of threads that it may use.
      keep_memory: whether the process keeps freed memory (glibc's MALLOC_* settings).
    """

    def __init__(self, *command: str, threads: int, keep_memory: bool):
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads)), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        if keep_memory:
            names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
            environment |= dict.fromkeys(names, str(2**32))
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, request: str) -> Any:
        """Returns the worker's answer to a request: "prepare CASE", "prepare KIND JSON" or "run"."""
        with contextlib.suppress(BrokenPipeError):  # the process has ended; there is no answer to read
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"Error: {request.partition(' {')[0]!r} failed:\n{self._errors.read()}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def our_worker(*, threads: int, keep_memory: bool) -> Worker:
    """Starts a worker of this package."""
    return Worker(sys.executable, str(_FOLDER / "worker_ours.py"), threads=threads, keep_memory=keep_memory)


def published_worker(published_dir: str, published_python: str, *, threads: int, keep_memory: bool) -> Worker:
    """Starts a worker of the published code."""
    script = str(_FOLDER / "worker_published.py")
    command = [published_python, script, published_dir, str(threads)]
    return Worker(*command, threads=threads, keep_memory=keep_memory)


def train_for(settings: Mapping[str, Any], seconds: float, done: int, step: Callable[[int], Any]) -> int:
    """Trains until the turn has passed, a stop is reached, or training ends.

    Args:
      settings: `config`, `stops` (step numbers) and `seconds_per_turn`, the least processor seconds of a turn.
      seconds: processor seconds of earlier turns. A turn takes at least a tenth of them, so that curves have about
        as many points per factor of time.
      done: number of steps done in earlier turns.
      step: function of the number of a step, from 0.

    Returns:
      The total number of steps done.
    """
    start, turn = time.process_time(), max(settings["seconds_per_turn"], seconds / 10)
    while True:
        step(done)
        done += 1
        is_over = time.process_time() - start >= turn
        if is_over or done in settings["stops"] or done >= settings["config"]["train"]["steps"]:
            return done


def serve(kinds: Mapping[str, Callable]) -> None:
    """Answers the requests of a `Worker` with one line of JSON each.

    Args:
      kinds: maps a kind to a function that prepares a `Case` (or the JSON of the request) and returns the function
        that measures once.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    run: Callable | None = None

    def prepare(name, argument):
        if argument:
            return kinds[name](json.loads(argument))
        case = CASES[name]
        if case.kind == "memory":
            kinds["train_step"](case)()
            return lambda: {"megabytes": _peak_memory()}
        return kinds[case.kind](case)

    for line in sys.stdin:
        command, _, request = line.strip().partition(" ")
        if command == "prepare":
            name, _, argument = request.partition(" ")
            run = prepare(name, argument)
            answer = True
        else:
            answer = run()
        print(json.dumps(answer), file=answers, flush=True)
