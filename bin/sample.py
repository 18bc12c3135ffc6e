r"""Draws samples of a trained model: images as a PNG grid, vectors as .npy or, in 2-D, as a PNG.

python bin/sample.py --workdir=runs/digits --output=samples.png --num=64 --temperature=0.8
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from tf_resflow import evaluation, training

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .png, or .npy for the bare samples.")
_NUM = flags.DEFINE_integer("num", 64, "Number of samples.", 1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Scales the base distribution.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "The same seed draws the same samples.", 0)
flags.mark_flags_as_required(["workdir", "output"])


def main():
    """Samples and writes the file."""
    evaluation.check_samples_path(_OUTPUT.value)
    model = training.load(_WORKDIR.value)
    samples = model.sample(_NUM.value, _SEED.value, temperature=_TEMPERATURE.value).numpy()
    evaluation.write_samples(_OUTPUT.value, samples, model.levels)
    print(f"{_NUM.value} samples: {_OUTPUT.value}")


if __name__ == "__main__":
    training.run(main)
