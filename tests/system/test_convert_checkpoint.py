"""The binary: a published checkpoint to a workdir that the other binaries take."""

import lzma
import os
import pathlib
import pickle
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "interop" / "checkpoints" / "mixed_norms.pth.xz"


def test_convert_then_sample(call, tmp_path):
    checkpoint = tmp_path / "mnist.pth"
    checkpoint.write_bytes(lzma.decompress(CHECKPOINT.read_bytes()))
    workdir, samples = tmp_path / "run", tmp_path / "samples.npy"
    done = call("bin/convert_checkpoint.py", f"--checkpoint={checkpoint}", f"--workdir={workdir}")
    assert done.code == 0 and "mnist, step 1, with averaged weights, coefficient " in done.output
    assert str(workdir) in done.output
    assert call("bin/sample.py", f"--workdir={workdir}", "--num=3", f"--output={samples}").code == 0
    samples = np.load(samples)
    assert samples.shape == (3, 8, 8, 1) and samples.dtype == np.uint8


def test_a_payload_is_refused_in_one_line(call, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    checkpoint = tmp_path / "bad.pth"
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({"args": Payload()}, 2))
    done = call("bin/convert_checkpoint.py", f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'run'}")
    (error,) = done.output.splitlines()
    assert done.code == 1 and error.startswith("Error: ")
    assert "is refused: it would call " in error and ".system" in error
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()
