"""A trained model from its workdir."""

from tf_resflow.models import build_model
from tf_resflow.training.averaging import AveragedWeights
from tf_resflow.training.checkpoints import Checkpoints
from tf_resflow.training.optimizer import make_optimizer
from tf_resflow.training.workdir import Workdir

__all__ = ["load"]


def load(workdir):
    """Returns the model of a run, with its averaged weights.

    The data are not needed.

    ```python
    model = resflow.load("runs/digits")
    images = model.sample(16, seed=0)
    log_prob = model.log_prob(images, seed=1, evaluation=True)
    ```

    Args:
      workdir: directory of a run of `resflow-train`.

    Returns:
      A `FlowModel` with the averaged weights of the newest checkpoint; `.config` is the run's
      configuration, `.step` the number of training steps taken.

    Raises:
      ValueError: when the directory has no config, no checkpoint, or one of another model.
    """
    files = Workdir(workdir)
    config = files.read_config()
    model = build_model(config, files.read_data())
    optimizer = make_optimizer(config.train, model.trainable_variables)
    checkpoints = Checkpoints(files.checkpoints, model, optimizer)
    model.step = checkpoints.restore()
    if checkpoints.latest is None:
        raise ValueError(
            f"{files.path} has no checkpoint yet. Let resflow-train run until its first one "
            f"(every {config.train.checkpoint_every} steps, and when it is interrupted)."
        )
    AveragedWeights(model, optimizer).apply()
    model.config = config
    return model
