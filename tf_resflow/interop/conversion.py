"""Conversion of a checkpoint of the published code to the workdir of a run."""

import math
import os
from typing import Any

from tf_resflow import layers
from tf_resflow._internal.messages import shortened
from tf_resflow._internal.writing import explain_write_errors, temporary_folder
from tf_resflow.interop.published_arguments import published_config, published_data, published_orders
from tf_resflow.interop.published_checkpoint import read_checkpoint
from tf_resflow.interop.published_variables import applied_kernels, published_tensors
from tf_resflow.models.averaging import WeightAverage
from tf_resflow.training.build import build_model
from tf_resflow.training.checkpoints import Checkpoints, make_optimizer
from tf_resflow.training.workdir import Workdir

_DECIMALS = 4  # the coefficient is rounded up to this many decimals
_ROUNDING = 2e-6  # relative; larger than the margin that a layer keeps between its norm and the coefficient
# Published tensors without a variable here: states of norms and estimators, flags, shared orders, and statistics.
_UNUSED = (
    "codomain domain geom_p initialized lamb last_firmom last_n_samples last_secmom mean scale spatial_dims std u v"
).split()


def convert_checkpoint(checkpoint: str | os.PathLike, workdir: str | os.PathLike) -> dict[str, Any]:
    """Converts a checkpoint of the published code's train_img.py to the workdir of a run.

    First, in an environment with PyTorch, convert the checkpoint to an .npz file with a script in this library's
    repository: `python examples/published_to_npz.py cifar10.pth cifar10.npz`. The rest does not need PyTorch:

    ```python
    resflow.interop.convert_checkpoint("cifar10.npz", "runs/cifar10")
    run = resflow.load("runs/cifar10")
    ```

    The run has the weights and their moving average, which `resflow.load` and the evaluation use, but not the
    optimizer's moments. A checkpoint of the hybrid task becomes the run of a `tf_resflow.HybridModel`.

    The published layers divide a kernel by an estimate of its norm, which may be too low. The run stores these
    scaled kernels, and `config.model.coefficient` is an upper bound on their norms. If the bound is 1 or more, the
    blocks may not be invertible. `config.model.lipschitz_constant` is then the bound that the published code
    assumes, and an evaluation reports a `lipschitz_bound` above 1.

    Args:
      workdir: Directory to create for the run. It is either written completely or not at all.

    Returns:
      A dict with the data's "name", the "step" (1 if unknown), whether there are "averages", and the "coefficient".

    Raises:
      ValueError: If the file cannot be read, its model is not supported, or the directory is not empty.
      OSError: If the directory cannot be written.

    References:
      Chen et al. 2019; https://github.com/rtqichen/residual-flows.
    """
    destination = Workdir(workdir)
    destination.check_empty()
    published = read_checkpoint(checkpoint)
    config = published_config(published.args)
    step = published.step
    config.train.steps = step
    config.train.ema_momentum = published.decay if published.averages else 0.0
    statistics = {name: published.weights.get(f"transforms.0.chain.0.{name}") for name in ("mean", "std")}
    data = published_data(published.args, config, **statistics)

    model = build_model(config, data)
    optimizer = make_optimizer(config.train, model.trainable_variables)
    optimizer.iterations.assign(step)
    average = WeightAverage(model, config.train.ema_momentum)
    average.steps.assign(step)
    _assign_tensors(published, model, average)
    norm = (1 + _ROUNDING) * _largest_norm(model, average)
    published_coefficient = config.model.coefficient
    config.model.coefficient = max(published_coefficient, math.ceil(norm * 10**_DECIMALS) / 10**_DECIMALS)
    if config.model.coefficient >= 1:
        config.model.lipschitz_constant = published_coefficient ** len(config.model.kernels)
    for layer in layers.norm_updates.lipschitz_layers(model.flow):
        layer.coefficient = config.model.coefficient

    path = destination.path
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as folder:
            files = Workdir(folder / "run")
            files.begin(config, data)
            options = {"seed": config.seed, "keep": config.train.keep}
            Checkpoints(files.checkpoints, model, optimizer, average, **options).save(step)
            files.path.rename(path)
    return {
        "name": data.name,
        "step": step,
        "averages": published.averages is not None,
        "coefficient": config.model.coefficient,
    }


def _assign_tensors(published, model, average):
    """Assigns the published averages to the average, and the published weights to the model."""
    tensors = published_tensors(model.flow, getattr(model, "classifier", None))
    used = {tensor.name for tensor in tensors}
    unknown = [name for name in published.weights if name not in used and name.rpartition(".")[2] not in _UNUSED]
    if unknown:
        raise ValueError(
            "The checkpoint is of another architecture: the model of its arguments has no tensors "
            f"{shortened(map(repr, unknown))}. Convert an unmodified checkpoint of train_img.py."
        )
    settings = {"coefficient": published.args["coeff"], "orders": published_orders(published.args)}

    def assign(parameters):
        applied = applied_kernels(parameters, published.weights, **settings)
        for tensor in tensors:
            tensor.variable.assign(tensor.value(applied))

    if published.averages:
        assign(published.averages)
        average.start()
    assign(published.weights)
    if not published.averages:
        average.start()


def _largest_norm(model, average):
    def largest():
        return max(float(layer.norm_estimate()) for layer in layers.norm_updates.lipschitz_layers(model.flow))

    with average.applied():
        averaged = largest()
    layers.converge_norms(model.flow)
    return max(averaged, largest())
