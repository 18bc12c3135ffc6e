r"""Turns a checkpoint of the published PyTorch code into the workdir of a run. PyTorch is not needed.

resflow-convert --checkpoint=cifar10_resflow_16-16-16.pth --workdir=runs/cifar10
resflow-evaluate --workdir=runs/cifar10 --data_dir=DIR
resflow-sample --workdir=runs/cifar10 --output=samples.png

The file is read without executing anything in it.
"""

import pathlib

from absl import flags

from tf_resflow import interop
from tf_resflow.cli import command_line

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("checkpoint", None, "File of train_img.py: .pth.")
    flags.DEFINE_string("workdir", None, "Directory of the run, to be made.")
    flags.mark_flags_as_required(["checkpoint", "workdir"])


def check() -> None:
    """Raises ValueError if there is no checkpoint to read, or the workdir is not empty."""
    from tf_resflow.training.workdir import Workdir  # which an extra provides

    if not pathlib.Path(FLAGS.checkpoint).is_file():
        raise ValueError(f"Cannot read {FLAGS.checkpoint}: there is no such file.")
    Workdir(FLAGS.workdir).check_empty()


def main() -> None:
    """Converts the checkpoint and prints a summary."""
    found = interop.convert_checkpoint(FLAGS.checkpoint, FLAGS.workdir)
    averages = "with" if found["averages"] else "without"
    print(
        f"{found['name']}, step {found['step']:,}, {averages} averaged weights, coefficient "
        f"{found['coefficient']}: {FLAGS.workdir}"
    )


def run() -> None:
    """The command resflow-convert."""
    command_line.run(__doc__, define_flags, main, check)
