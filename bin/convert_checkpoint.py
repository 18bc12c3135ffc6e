r"""Turns a checkpoint of the published PyTorch code into the workdir of a run. PyTorch is not needed.

python bin/convert_checkpoint.py --checkpoint=cifar10_resflow_16-16-16.pth --workdir=runs/cifar10
python bin/evaluate.py --workdir=runs/cifar10 --data_dir=DIR
python bin/sample.py --workdir=runs/cifar10 --output=samples.png

The file is read without executing anything in it.
"""

from absl import flags

from tf_resflow import interop, training

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "File of train_img.py: .pth.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run, to be made.")
flags.mark_flags_as_required(["checkpoint", "workdir"])


def main():
    """Converts and says what was found."""
    found = interop.convert_checkpoint(_CHECKPOINT.value, _WORKDIR.value)
    averages = "with" if found["averages"] else "without"
    print(
        f"{found['name']}, step {found['step']:,}, {averages} averaged weights, coefficient "
        f"{found['coefficient']}: {_WORKDIR.value}"
    )


if __name__ == "__main__":
    training.run(main)
