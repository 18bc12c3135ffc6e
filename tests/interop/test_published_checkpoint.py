"""What is read of a checkpoint, what the script writes for it, and which files are refused."""

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
VALID = {
    "args": '{"data": "mnist"}',
    "step": 3,
    "ema_decay": 0.5,
    "a.weight": np.arange(6.0).reshape(2, 3),
    "ema/a.weight": np.ones((2, 3)),
}


def content(**changes):
    """The bytes of a valid file with other arrays, or without those that are None."""
    file = io.BytesIO()
    np.savez_compressed(file, **{name: array for name, array in (VALID | changes).items() if array is not None})
    return file.getvalue()


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_weights_and_averages_and_the_steps_that_the_optimizer_counts(checkpoint_path):
    assert read_checkpoint(checkpoint_path("cifar10")).step == 3
    found = read_checkpoint(checkpoint_path("mnist"))
    assert found.decay == 0.999 and found.step == 1
    name = "transforms.1.chain.2.nnet.nnet.1.weight"
    weight, average = found.weights[name], found.averages[name]
    assert weight.shape == average.shape == (2, 64)
    # Three steps of 0.01 in size by Adam, of which the average has taken less than 1 %.
    assert 1e-3 < np.max(np.abs(weight - average)) < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_the_script_writes_what_is_read(seed, tmp_path, monkeypatch):
    """All but the files of PyTorch, which a stub reads from a pickle; the class of the average is not installed."""
    generator = np.random.default_rng(seed)

    def tensors(count):
        shapes = [generator.integers(0, 4, generator.integers(0, 5)) for _ in range(count)]
        dtypes = generator.choice(["f2", "f4", "f8", "i8", "u1", "?"], count)
        return {f"a.{i}.b": generator.normal(size=shapes[i]).astype(dtypes[i]) for i in range(count)}

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


OTHER_FILES = {
    "PyTorch before 1.6": pickle.dumps({"args": Payload()}, 2),
    "objects": content(**{"a.weight": np.array([Payload()])}),
    "no arguments": content(args=None),
    "no step": content(step=None),
    "arguments that are not JSON": content(args="data=mnist"),
    "a truncated file": content()[:-100],
    "text": b"data,nbits\nmnist,8\n",
}


@pytest.mark.parametrize("data", OTHER_FILES.values(), ids=OTHER_FILES)
@pytest.mark.parametrize("name", ["a b.pt", "cifar10.npz"])
def test_another_file_is_refused_with_the_command_to_run(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not an .npz file|cannot be read as a published checkpoint") as refused:
        read_checkpoint(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    source = path.with_suffix(".pth") if path.suffix == ".npz" else path
    command = ["python", "examples/published_to_npz.py", str(source), str(path.with_suffix(".npz"))]
    assert shlex.split(message[message.index("python ") :]) == command


def test_no_file(tmp_path):
    for path in (tmp_path / "a.npz", tmp_path):
        with pytest.raises(ValueError, match=f"Cannot read {path}: there is no such file"):
            read_checkpoint(path)
