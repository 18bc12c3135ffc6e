import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def checkpoint_path():
    """A function of a name to the path of that checkpoint, see make_checkpoints.py."""
    return lambda name: FOLDER / "checkpoints" / f"{name}.npz"


@pytest.fixture(scope="session")
def published():
    """A function of a name to what the published code computed with that checkpoint."""
    return lambda name: dict(np.load(FOLDER / "results" / f"{name}.npz"))
