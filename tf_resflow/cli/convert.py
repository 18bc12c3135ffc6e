r"""Converts a checkpoint of the published PyTorch code to the workdir of a run.

python examples/published_to_npz.py cifar10.pth cifar10.npz
resflow-convert --checkpoint=cifar10.npz --workdir=runs/cifar10
resflow-evaluate --workdir=runs/cifar10 --data_dir=DIR
resflow-sample --workdir=runs/cifar10 --output=samples.png

The first command is a script in the repository of tf_resflow. Only this script needs PyTorch.
"""

from absl import flags

from tf_resflow import interop
from tf_resflow.cli import command_line
from tf_resflow.interop.published_checkpoint import read_checkpoint

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("checkpoint", None, "The .npz file that examples/published_to_npz.py wrote.")
    flags.DEFINE_string("workdir", None, "Directory to create for the run.")


def check() -> None:
    """Raises ValueError if the workdir is not empty, or the checkpoint cannot be read."""
    from tf_resflow.training.workdir import Workdir  # imported here because it needs an extra

    Workdir(FLAGS.workdir).check_empty()
    read_checkpoint(FLAGS.checkpoint)


def main() -> None:
    """Converts the checkpoint and prints a one-line summary."""
    summary = interop.convert_checkpoint(FLAGS.checkpoint, FLAGS.workdir)
    averages = "with" if summary["averages"] else "without"
    print(
        f"{summary['name']}, step {summary['step']:,}, {averages} averaged weights, coefficient "
        f"{summary['coefficient']}: {FLAGS.workdir}"
    )


run = command_line.command(__doc__, define_flags, main, check, ["checkpoint", "workdir"])
