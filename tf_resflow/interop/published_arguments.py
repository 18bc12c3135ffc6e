"""Config of a published checkpoint, from the arguments of train_img.py that the checkpoint stores."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_resflow.data.data_info import DataInfo
from tf_resflow.training.config import default_config, validate_config
from tf_resflow.training.config_fields import ConfigDict

_CELEBA = {"name": "celeb_a_hq/256", "flip": True, "split_train": "train[:90%]", "split_test": "train[90%:]"}
# Fields of `config.data` for each data set of the published code. TensorFlow Datasets has similar images.
_DATA: dict[str, dict[str, Any]] = {
    "mnist": {"name": "mnist"},
    "cifar10": {"name": "cifar10", "flip": True},
    "svhn": {"name": "svhn_cropped", "crop_padding": 4},
    "celebahq": _CELEBA,
    "celeba_5bit": _CELEBA,
    "imagenet32": {"name": "downsampled_imagenet/32x32", "split_test": "validation"},
    "imagenet64": {"name": "downsampled_imagenet/64x64", "split_test": "validation"},
}
_ACTIVATIONS = {name: name for name in ("elu", "relu", "softplus")}
_ACTIVATIONS |= {"lcube": "lipschitz_cube", "swish": "lipswish"}
_TERM_PARAMETERS = {"geometric": 0.5, "poisson": 2.0}
# The only supported values, and the defaults of missing arguments.
_REQUIRED: dict[str, Any] = {"block": "resblock", "dropout": 0, "padding": 0}
_REQUIRED |= dict.fromkeys(("add_noise", "first_resblock", "preact"), True)
_REQUIRED |= dict.fromkeys(("batchnorm", "fc", "fc_actnorm", "quadratic"), False)
# Defaults of arguments that other versions may lack. The names and shapes of the tensors are checked later.
_OPTIONAL: dict[str, Any] = {"cdim": 256, "logit_transform": True, "n_power_series": None, "task": "density"}
_OPTIONAL |= dict.fromkeys(("factor_out", "learn_p", "scale_dim", "squeeze_first"), False)


def published_config(args: Mapping[str, Any]) -> Any:
    """Returns the config of a model from the arguments of train_img.py.

    Training settings are copied if they have a counterpart. The evaluation keeps this library's estimator of the
    log-determinant, which is unbiased like the published one.
    """
    args = _Arguments(_REQUIRED | _OPTIONAL | dict(args))
    for name, value in _REQUIRED.items():
        if args[name] != value:
            raise args.error(name, f"which is not supported; it must be {value!r}")
    if _has_statistics(args) and args["squeeze_first"]:
        raise args.error("squeeze_first", "for which the published code normalizes only 3 of 12 channels")
    if args["task"] != "density" and args["factor_out"]:
        raise args.error("factor_out", "for which the published classifier reads only the factored-out channels")
    config = default_config()
    config.update_from_flattened_dict(_fields(args))
    validate_config(config)
    return config


def published_orders(args: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns the initial orders of the norms before, between and after the layers of a block."""
    return tuple(math.inf if order == "f" else float(order) for order in args["vnorms"])


def published_data(
    args: Mapping[str, Any], config: ConfigDict, *, mean: np.ndarray | None = None, std: np.ndarray | None = None
) -> DataInfo:
    """Returns the properties of the data, with the `mean` and `std` of the channels if they are normalized."""
    num_classes = 10 if config.task == "hybrid" else None  # in each data set that the published code classifies
    levels = config.data.levels or 256
    return DataInfo(config.data.name, _event_shape(args), levels, mean=mean, std=std, num_classes=num_classes)


class _Arguments(dict):
    """Dict of the arguments whose errors name the argument."""

    def __missing__(self, name):
        raise ValueError(
            f"The checkpoint lacks the argument {name!r}, which the model depends on. Use one of train_img.py."
        )

    def error(self, name, reason):
        return ValueError(f"The checkpoint was trained with {name}={self[name]!r}, {reason}.")

    def look_up(self, name, table):
        if self[name] not in table:
            raise self.error(name, f"which is not supported; it must be one of {', '.join(table)}")
        return table[self[name]]


def _fields(args):
    has_logit = args["logit_transform"] and not _has_statistics(args)
    weight = 1.0 if args["scale_dim"] else float(math.prod(_event_shape(args)))
    bits = {"celebahq": args.get("nbits", 8), "celeba_5bit": 5}.get(args["data"], 8)
    return {
        "task": "density" if args["task"] == "density" else "hybrid",
        # Our loss has bits per dimension. The published one has bits per example, or per dimension with scale_dim.
        "hybrid.density_weight": args.look_up("task", {"density": 1.0, "hybrid": weight, "classification": 0.0}),
        "hybrid.features": args["cdim"],
        **{f"data.{key}": value for key, value in args.look_up("data", _DATA).items()},
        "data.validation_fraction": 0.0,
        "data.levels": 2**bits if bits < 8 else 0,  # 0 keeps the 256 levels of the data
        "data.image_size": args["imagesize"],
        "model.num_blocks": _num_blocks(args),
        "model.coefficient": float(args["coeff"]),
        "model.activation": args.look_up("act", _ACTIVATIONS),
        "model.norms": _norms(args),
        "model.learned_norms": args["learn_p"],
        "model.act_norm": args["actnorm"],
        "model.width": args["idim"],
        "model.kernels": tuple(int(size) for size in args["kernels"].split("-")),
        "model.num_fc_blocks": 4 if args["fc_end"] else 0,
        "model.fc_width": args["fc_idim"],
        "model.logit_alpha": (1e-6 if args["data"] == "mnist" else 0.05) if has_logit else None,
        "model.squeeze_first": args["squeeze_first"],
        "model.factor_out": args["factor_out"],
        "model.estimator.train.kind": "power_series" if args["n_power_series"] else "russian_roulette",
        "model.estimator.train.num_terms": args["n_power_series"] or 10,
        "model.estimator.train.distribution": args["n_dist"],
        "model.estimator.train.num_exact_terms": args["n_exact_terms"],
        "model.estimator.train.p": args.look_up("n_dist", _TERM_PARAMETERS),
        "train.optimizer": "adam",
        "train.batch_size": args["batchsize"],
        "train.learning_rate": float(args["lr"]),
        "train.warmup_steps": args["warmup_iters"],
        "train.weight_decay": 0.0,  # the published optimizers compute it but do not apply it
        "train.global_clipnorm": 1.0,
    }


def _event_shape(args):
    size = args["imagesize"]
    return size, size, 1 if args["data"] == "mnist" else 3


def _has_statistics(args):
    return args["task"] != "density" and args["data"] == "cifar10"


def _num_blocks(args):
    """Returns the number of blocks per scale. The published code drops scales smaller than 4 pixels a side."""
    counts = tuple(int(count) for count in args["nblocks"].split("-"))
    size = args["imagesize"] // (2 if args["squeeze_first"] else 1)
    return counts[: (size // 4).bit_length()]


def _norms(args):
    """Returns the orders of the norms, or 2 if unsupported. A block needs equal first and last orders."""
    orders = published_orders(args)
    closed = 1.0 in orders[:-1] or math.inf in orders[1:]
    return (2.0,) * len(orders) if args["learn_p"] or closed or orders[0] != orders[-1] else orders
