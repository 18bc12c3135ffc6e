import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def checkpoint_path():
    """Returns a function of a name to the path of a checkpoint. See make_checkpoints.py."""
    return lambda name: FOLDER / "checkpoints" / f"{name}.npz"


@pytest.fixture(scope="session")
def published():
    """Returns a function of a name to the published code's results with that checkpoint."""
    return lambda name: dict(np.load(FOLDER / "results" / f"{name}.npz"))
