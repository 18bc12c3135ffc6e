r"""Trains a residual flow, or resumes: the same command again continues from the newest checkpoint.

python bin/train.py --config=configs/digits.py --workdir=runs/digits

Fields of the config can be overridden: --config.train.steps=500. The workdir then has config.json,
checkpoints/, metrics.jsonl, events/ (TensorBoard), figures/ and result.json.

On several machines the same command runs on each, with a workdir that all of them see and TF_CONFIG in the
environment; if one stops, the others do, and the command is run again on all.
"""

from absl import flags
from ml_collections import config_flags

from tf_resflow import training

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the configuration.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "default", "mirrored", "multiworker", "tpu"],
    "Machines and devices: multiworker takes the workers in TF_CONFIG, mirrored all GPUs of this machine, default "
    "one device; auto is multiworker where there are several workers, else mirrored where there are several GPUs.",
)
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "Bit-exact repetition, at some cost in speed.")
flags.mark_flags_as_required(["config", "workdir"])


def check():
    """Refuses a wrong config, or one of another run."""
    training.validate_config(_CONFIG.value)
    training.Workdir(_WORKDIR.value).check_config(_CONFIG.value)


def main():
    """Trains and prints the result."""
    import tensorflow as tf

    if _DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()
    strategy = training.STRATEGIES[_STRATEGY.value]()
    is_chief = training.is_chief(strategy)
    try:
        result = training.train(_CONFIG.value, _WORKDIR.value, strategy, progress=is_chief)
    except training.Interrupted as stop:
        print(stop)
        return 128 + stop.signum
    if is_chief:
        print(f"{result['line']} in {_WORKDIR.value}: result.json, figures/, metrics.jsonl")
    return 0


if __name__ == "__main__":
    training.run(main, check)
