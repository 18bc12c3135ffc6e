"""What benchmark.py and benchmark_training.py share with their workers: the cases, and how they talk."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: a stack of blocks on a batch of images with values 0 to 255.

    Attributes:
      kind: what is measured.
      shape: `(height, width, channels)`.
      width: channels inside a block.
      num_blocks: number of residual blocks, each followed by an ActNorm.
      num_exact_terms: terms of the series with weight 1.
      num_extra_terms: further terms, weighted; fixed instead of random, so that both sides do the same.
      batch_size: number of images.
    """

    kind: str
    shape: tuple
    width: int
    num_blocks: int = 4
    num_exact_terms: int = 2
    num_extra_terms: int = 2
    batch_size: int = 64

    def batch(self):
        """The images, NHWC, the same for both sides."""
        return np.random.default_rng(0).integers(0, 256, [self.batch_size, *self.shape])


_SMALL, _WIDE = ((28, 28, 1), 64), ((14, 14, 4), 128)
CASES = {
    "train_step_28x28x1_w64": Case("train_step", *_SMALL),
    "train_step_14x14x4_w128": Case("train_step", *_WIDE),
    "evaluation_28x28x1_w64": Case("evaluation", *_SMALL, num_exact_terms=20),
    "evaluation_14x14x4_w128": Case("evaluation", *_WIDE, num_exact_terms=20),
    "inverse_per_evaluation": Case("inverse", *_SMALL),
    "memory_4_blocks": Case("memory", *_SMALL),
    "memory_16_blocks": Case("memory", *_SMALL, num_blocks=16),
    "trace_52_blocks": Case("trace", (32, 32, 3), 512, num_blocks=52, batch_size=1),
    "parts_28x28x1_w64": Case("parts", *_SMALL),
    "parts_14x14x4_w128": Case("parts", *_WIDE),
}


def peak_memory():
    """Peak resident memory of this process in MB (Linux)."""
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


class Worker:
    """A process that prepares a case and measures it on request.

    Args:
      *command: the command that starts it.
      threads: how many it may use.
      keep_memory: whether it keeps the memory that it frees (glibc's MALLOC_* settings).
    """

    def __init__(self, *command, threads, keep_memory):
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
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

    def ask(self, request):
        """The worker's answer to a request: "prepare CASE [JSON]" or "run"."""
        with contextlib.suppress(BrokenPipeError):  # the process has ended, and has no answer
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"Error: {request.partition(' {')[0]!r} failed:\n{self._errors.read()}")
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self._process.communicate()


def serve(prepare):
    """Answers the requests of a `Worker`, one JSON object a line.

    Args:
      prepare: dict of case to function of the request's JSON, if it has some, which returns the function that
        measures once.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    run = None
    for line in sys.stdin:
        command, _, case = line.strip().partition(" ")
        if command == "prepare":
            name, _, argument = case.partition(" ")
            arguments = [json.loads(argument)] if argument else []
            run = prepare[name](*arguments) if name in prepare else None
            answer = run is not None
        else:
            answer = run()
        print(json.dumps(answer), file=answers, flush=True)
