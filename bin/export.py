r"""Exports a trained model as a SavedModel that runs with TensorFlow alone, or in TensorFlow Serving.

python bin/export.py --workdir=runs/digits --export_dir=served/digits

The model is written to EXPORT_DIR/VERSION, with README.md (its signatures), MODEL_CARD.md, and, if the package
tensorflow-serving-api is installed, warm-up requests. It has the averaged weights of the newest checkpoint.
"""

from absl import flags

from tf_resflow import serving, training

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "Directory of the model's versions.")
_VERSION = flags.DEFINE_integer("version", None, "Number of the version; default the next one.", 1)
_LOG_DET = flags.DEFINE_enum(
    "log_det",
    None,
    ["roulette", "adaptive", "exact"],
    "Estimate of the log-determinants; default exact up to 16 coordinates, else roulette.",
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 8, "Estimates of log_prob that are averaged.", 2)
_NUM_PROBES = flags.DEFINE_integer("num_probes", 1, "Probes of each of them (roulette, adaptive).", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the answers that are the same each time.", 0, 2**63 - 1)
_MAX_SAMPLES = flags.DEFINE_integer("max_samples", 1024, "The most examples that a client may ask for.", 1)
flags.mark_flags_as_required(["workdir", "export_dir"])


def check():
    """Refuses what is not the workdir of a run."""
    training.Workdir(_WORKDIR.value).read_config()


def main():
    """Exports the model and says where it is."""
    path = serving.export_run(
        _WORKDIR.value,
        _EXPORT_DIR.value,
        version=_VERSION.value,
        log_det=_LOG_DET.value,
        num_probes=_NUM_PROBES.value,
        num_samples=_NUM_SAMPLES.value,
        seed=_SEED.value,
        max_samples=_MAX_SAMPLES.value,
    )
    print(f"{path}: {', '.join(sorted(file.name for file in path.iterdir()))}")


if __name__ == "__main__":
    training.run(main, check)
