import lzma
import pathlib

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent / "checkpoints"


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    """A function of a name to the path of that checkpoint, see make_checkpoints.py."""
    directory = tmp_path_factory.mktemp("checkpoints")

    def unpack(name):
        path = directory / f"{name}.pth"
        if not path.exists():
            path.write_bytes(lzma.decompress((FOLDER / f"{name}.pth.xz").read_bytes()))
        return path

    return unpack


@pytest.fixture(scope="session")
def published():
    """A function of a name to what the published code computed with that checkpoint."""
    return lambda name: dict(np.load(FOLDER / f"{name}.npz"))
