import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

import tf_resflow as resflow


def linear_block(matrix, bias=0.0, coefficient=0.9, **options):
    """Builds the block y = x + x A + b."""
    dense = resflow.layers.LipschitzDense(len(matrix), coefficient)
    branch = keras.Sequential([keras.Input([len(matrix)]), dense])
    dense.kernel.assign(matrix)
    dense.bias.assign(np.broadcast_to(bias, len(matrix)))
    resflow.layers.update_norms(branch, tolerance=1e-7, max_iterations=100)
    return resflow.bijectors.ResidualBlock(branch, **options)


@pytest.fixture
def figures(monkeypatch):
    """Collects the figures that a test saves."""
    saved, savefig = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        savefig(figure, *args, **kwargs)
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
