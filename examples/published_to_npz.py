"""Converts a published PyTorch checkpoint to an .npz file for resflow-convert, with its tensors and its arguments.

    python published_to_npz.py cifar10.pth cifar10.npz

Requires PyTorch 1.13 or newer, but neither the published code nor tf_resflow. Loading a checkpoint can execute code
that is stored in it: convert only files that you trust.
"""

import json
import pickle
import sys
import types

import numpy as np
import torch


class Unpickler(pickle.Unpickler):
    """Reads objects of classes that are not installed, such as those of the published code, as plain attributes."""

    def find_class(self, module, name):
        """Returns the class, or an empty class if it cannot be imported."""
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (), {})


source, target = sys.argv[1:]
reader = types.SimpleNamespace(**vars(pickle) | {"Unpickler": Unpickler})
stored = torch.load(source, map_location="cpu", pickle_module=reader, weights_only=False)
average = stored.get("ema")
updates = stored.get("optimizer_state_dict", {}).get("state", {}).values()
np.savez_compressed(
    target,
    args=json.dumps(vars(stored["args"])),
    step=max((int(update["step"]) for update in updates if "step" in update), default=1),
    ema_decay=getattr(average, "decay", 0.0),
    **stored["state_dict"],
    **{f"ema/{name}": tensor for name, tensor in getattr(average, "shadow_params", {}).items()},
)
