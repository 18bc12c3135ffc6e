"""Reading of published checkpoints, the script that writes their .npz files, and invalid files."""

import argparse
import io
import pathlib
import pickle
import runpy
import shlex
import sys
import types

import numpy as np
import pytest

from tf_resflow.interop.published_checkpoint import read_checkpoint

pytestmark = pytest.mark.quick

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "published_to_npz.py"


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_script_writes_what_is_read(seed, tmp_path, monkeypatch):
    """A stub replaces PyTorch and reads a pickle. The class of the average is not installed."""
    rng, dtypes = np.random.default_rng(seed), ["f2", "f4", "f8", "i8", "u1", "?"]

    def tensors(count):
        shapes = [rng.integers(0, 4, rng.integers(0, 5)) for _ in range(count)]
        return {f"a.{i}.b": rng.normal(size=shape).astype(rng.choice(dtypes)) for i, shape in enumerate(shapes)}

    class Average:
        __module__, __qualname__ = "lib.utils", "Average"

    average = Average()
    average.shadow_params, average.decay, average.module = tensors(seed % 3), 0.99, Average()
    args = {"data": "mnist", "lr": 1e-3, "idim": seed, "fc": False, "sn_tol": None, "save": 'a "b" \u00e9'}
    states = {i: {"step": i + seed} if i else {} for i in range(seed % 4)}
    stored = {"args": argparse.Namespace(**args), "state_dict": tensors(seed), "test_bpd": 4.5}
    stored |= {"ema": average} if seed % 2 else {}
    stored |= {"optimizer_state_dict": {"state": states}} if seed else {}

    source, target = tmp_path / "a.pth", tmp_path / "a.npz"
    with monkeypatch.context() as published:
        published.setitem(sys.modules, "lib", types.ModuleType("lib"))
        published.setitem(sys.modules, "lib.utils", types.SimpleNamespace(Average=Average))
        source.write_bytes(pickle.dumps(stored, 2))

    def load(path, map_location, pickle_module, weights_only):
        assert map_location == "cpu" and not weights_only
        return pickle_module.Unpickler(io.BytesIO(pathlib.Path(path).read_bytes())).load()

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    monkeypatch.setattr(sys, "argv", ["published_to_npz.py", str(source), str(target)])
    runpy.run_path(str(SCRIPT))
    found = read_checkpoint(target)
    assert found.args == args
    assert found.step == max((state["step"] for state in states.values() if state), default=1)
    assert_same(found.weights, stored["state_dict"])
    if seed % 2 and average.shadow_params:
        assert found.decay == 0.99
        assert_same(found.averages, average.shadow_params)
    else:
        assert found.averages is None


class Payload:
    def __reduce__(self):
        return pytest.fail, ("code was executed",)


def test_other_files(tmp_path):
    """The error shows the command that converts a checkpoint."""
    file = io.BytesIO()
    np.savez_compressed(file, args='{"data": "mnist"}', step=3, ema_decay=0.5, weight=np.array([Payload()]))
    written = {"a b.pt": pickle.dumps({"args": Payload()}, 2), "a b.npz": file.getvalue()}
    for path in map(tmp_path.joinpath, written):
        path.write_bytes(written[path.name])
        with pytest.raises(ValueError, match="cannot be read as a published checkpoint") as refused:
            read_checkpoint(path)
        message = str(refused.value)
        source = path.with_suffix(".pth") if path.suffix == ".npz" else path
        command = ["python", "examples/published_to_npz.py", str(source), str(path.with_suffix(".npz"))]
        assert shlex.split(message[message.index("python ") :]) == command
