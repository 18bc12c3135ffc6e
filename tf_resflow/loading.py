"""Loads runs, models and densities of tables."""

import os
import pathlib
from typing import Any

__all__ = ["load"]


def load(workdir: str | os.PathLike[str]) -> Any:
    """Loads the model of a run with its averaged weights, or the density of a table. The data are not needed.

    ```python
    import tf_resflow as resflow
    run = resflow.load("digits")  # a pretrained model
    images = run.model.sample(4, seed=0)
    log_prob = run.model.log_prob(images, seed=1, evaluation=True)
    print(images.shape, images.dtype.name, log_prob.shape, run.step)
    # (4, 8, 8, 1) uint8 (4,) 2000
    ```

    Args:
      workdir: Directory of a run of `resflow-train`; file that `Run.save`, `FlowModel.save` or `FlowDensity.save`
        wrote; or a pretrained model: "pretrained:digits", "pretrained:mnist" or "pretrained:pinwheel". The prefix
        is optional if there is no directory or file with this name.

    Returns:
      A `Run`, or for a run on a table a `TableRun`, whose `density` is the `FlowDensity`. For a `.keras` file
      without a run, its model or `PosteriorEstimator`. For an `.npz` file, the `FlowDensity`.

    Raises:
      ValueError: If there is no trained run, or its files are damaged.
    """
    if pathlib.Path(workdir).suffix == ".npz":
        from tf_resflow.tables import FlowDensity

        return FlowDensity.load(pathlib.Path(workdir).expanduser())
    from tf_resflow.tables.runs.workdir import is_table_run

    if is_table_run(workdir):
        from tf_resflow.tables import runs

        return runs.load(workdir)
    from tf_resflow.training.runs import load as load_run

    return load_run(workdir)
