"""Compares bits/dim of converted checkpoints with what the published code computed with them.

    python benchmarks/check_checkpoints.py --output=checkpoints.json --workdir=runs/checkpoints

The checkpoints and the published values are in tests/interop. Results are the largest relative difference of each
checkpoint, with exact log-determinants and averaged weights.
"""

import json
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from absl import app, flags

import tf_resflow as resflow

_OUTPUT = flags.DEFINE_string("output", None, "JSON file of the differences.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the converted runs.", required=True)

_FOLDER = pathlib.Path(__file__).parents[1] / "tests" / "interop"


def difference(name):
    """Returns the largest relative difference of bits/dim of a checkpoint."""
    workdir = pathlib.Path(_WORKDIR.value) / name
    if not workdir.exists():
        resflow.interop.convert_checkpoint(_FOLDER / "checkpoints" / f"{name}.npz", workdir)
    model, expected = resflow.load(workdir).model, np.load(_FOLDER / "results" / f"{name}.npz")
    flow = resflow.bijectors.with_log_det_estimator(model.flow, resflow.logdet.Exact())
    x = tf.constant(np.moveaxis(expected["x"], 1, -1))
    y = flow.forward(x).numpy().reshape(len(x), -1).astype(np.float64)
    log_prob = -0.5 * np.sum(y**2 + math.log(2 * math.pi), axis=1) + flow.forward_log_det_jacobian(x, 3).numpy()
    bits_per_dim = math.log2(model.data_space.levels) - log_prob / (y.shape[1] * math.log(2))
    return float(np.abs(bits_per_dim / expected["ema_bits_per_dim"] - 1).max())


def main(_):
    """Compares all checkpoints."""
    found = {}
    for path in sorted((_FOLDER / "checkpoints").glob("*.npz")):
        found[path.stem] = difference(path.stem)
        print(f"{path.stem:15} {found[path.stem]:.1e}", flush=True)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
