import pytest

from tf_resflow.data import DENSITIES
from tf_resflow.training.config import default_config


def tiny_config(**overrides):
    """A 2-D flow that traces and trains in seconds; `train__steps=5` stands for `train.steps`."""
    config = default_config()
    fields = {
        "data.name": "8gaussians",
        "model.kind": "vector",
        "model.num_blocks": (1,),
        "model.hidden": (8,),
        "model.norms": (2.0, 2.0, 2.0),
        "train.steps": 10,
        "train.batch_size": 16,
        "train.warmup_steps": 3,
        "train.log_every": 4,
        "train.eval_every": 10,
        "train.checkpoint_every": 5,
        "eval.batch_size": 30,
        "eval.num_samples": 4,
    }
    fields |= {key.replace("__", "."): value for key, value in overrides.items()}
    if fields["data.name"] in DENSITIES:
        fields.setdefault("data.num_test", 50)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="session")
def make_config():
    return tiny_config


@pytest.fixture(scope="session")
def forget_the_end():
    """Leaves in a workdir what was there before the last checkpoint, that of a step."""

    def forget_the_end(workdir, step):
        (workdir / "result.json").unlink()
        (workdir / "checkpoints" / "checkpoint").unlink()
        for path in (workdir / "checkpoints").glob(f"ckpt-{step}.*"):
            path.unlink()

    return forget_the_end
