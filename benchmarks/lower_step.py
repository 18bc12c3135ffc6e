r"""Lowers a training step to StableHLO, for a machine with JAX but without TensorFlow; see time_lowered_step.py.

    python benchmarks/lower_step.py --case=train_step_28x28x1_w64 --output=lowered

This writes to the folder `lowered`:

- `step.mlir`: the step, with its optimizer and the norms of its layers, as a function of the arguments;
- `arguments.npz`: the images, the seed, the variables and constants that the step reads, and, as "variables", the
  positions of the variables among the arguments;
- `expected.npz`: the loss and the variables after one step in TensorFlow, in the order in which the function
  returns them.
"""

import pathlib

import numpy as np
import tensorflow as tf
from absl import app, flags
from worker_ours import initialized
from workers import CASES

from tf_resflow.models import FlowModel, train_step

_CASE = flags.DEFINE_enum(
    "case",
    "train_step_28x28x1_w64",
    [n for n in CASES if n.startswith("train_step")],
    "Case to lower, see compare_speed.py.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Output folder.", required=True)


def lower(model: FlowModel, x: tf.Tensor, folder: pathlib.Path) -> None:
    """Writes the files for a step of the model on the batch x, and takes the step.

    Args:
      model: a compiled model.
      x: the batch.
      folder: the output folder, which is created.
    """
    step = tf.function(
        lambda x, seed: train_step(model, x, seed)[model.objective], autograph=False, jit_compile=True
    )
    inputs = x, tf.constant([0, 1])
    traced = step.get_concrete_function(*inputs)
    by_handle = {id(variable.handle): variable for variable in traced.graph.variables}
    captured = [by_handle.get(id(tensor), tensor) for tensor in traced.captured_inputs]
    places = [i for i, tensor in enumerate(captured) if isinstance(tensor, tf.Variable)]
    text = step.experimental_get_compiler_ir(*inputs)(stage="stablehlo")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.mlir").write_text(text)
    arguments = [tensor.numpy() for tensor in (*inputs, *captured)]
    np.savez(folder / "arguments.npz", *arguments, variables=len(inputs) + np.array(places))
    loss = step(*inputs)
    np.savez(folder / "expected.npz", loss, *(captured[place].numpy() for place in places))


def main(_):
    """Writes the files."""
    lower(*initialized(CASES[_CASE.value]), pathlib.Path(_OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
