r"""DenseNet branches with CLipSwish (Perugachi-Diaz et al. 2021) instead of plain branches, in another config.

resflow-train --config=idensenet:digits --workdir=runs/idensenet
resflow-train --config=idensenet:cifar10 --workdir=runs/idensenet_cifar10 --config.data.data_dir=DIR

Each block has three concatenations, and the model about as many parameters as the base. With cifar10 and
imagenet32, it is the published architecture: growth 172, and fully connected blocks that begin with 64 units and
grow by 32; 24.9 million parameters (24,894,586) and 47.0 million (46,980,874). The paper reports 3.25 bits/dim for
CIFAR-10, where residual flows have 3.28, and 3.98 for ImageNet32 (not reproduced here); the time is not measured.
The published code learns the weights of the concatenations from epoch 25 on with CIFAR-10, and from the first epoch
with ImageNet32; here they are always learned from the first.

With digits (300 steps, three seeds), the 150 validation images scored 2.049 +- 0.012 bits/dim, 1.962 +- 0.010 with
CPila (--config=ablations:cpila,idensenet:digits) and 2.062 +- 0.006 with the base. All have about 105,000
parameters.
"""

import math

from tf_resflow.training import base_config


def get_config(base="digits"):
    """Returns the changed config of the name `base`."""
    config = base_config(base)
    model = config.model
    parts = 2 if model.activation in ("clipswish", "cpila") else 1
    model.update(branch="dense_net", depth=3, activation="clipswish")
    if model.kind == "image":
        model.growth = 4 * math.ceil(model.width * 43 / 512)  # growth 172 for width 512
        model.fc_width //= 2
    else:  # equates (n - 1) h^2 weights, times parts, between n layers of h units, and 3/2 g^2 in a DenseNet
        model.growth = 2 * max(1, round(model.hidden[0] * math.sqrt(parts * (len(model.hidden) - 1) / 6)))
    return config
