"""The binary: a published checkpoint to a workdir that the other binaries take."""

import lzma
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "interop" / "checkpoints" / "mixed_norms.pth.xz"


def run(binary, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, ROOT / "bin" / f"{binary}.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def test_convert_then_sample(tmp_path):
    checkpoint = tmp_path / "mnist.pth"
    checkpoint.write_bytes(lzma.decompress(CHECKPOINT.read_bytes()))
    workdir, samples = tmp_path / "run", tmp_path / "samples.npy"
    done = run("convert_checkpoint", f"--checkpoint={checkpoint}", f"--workdir={workdir}")
    assert done.stdout.startswith("mnist, step 1, with averaged weights, coefficient ")
    assert str(workdir) in done.stdout
    run("sample", f"--workdir={workdir}", "--num=3", f"--output={samples}")
    samples = np.load(samples)
    assert samples.shape == (3, 8, 8, 1) and samples.dtype == np.uint8


def test_a_payload_is_refused_in_one_line(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    checkpoint = tmp_path / "bad.pth"
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({"args": Payload()}, 2))
    done = run("convert_checkpoint", f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'run'}", code=1)
    assert "Traceback" not in done.stderr and "Error: " in done.stderr
    assert "is refused: it would call " in done.stderr and ".system" in done.stderr
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()
