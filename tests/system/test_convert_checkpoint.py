"""The binary makes a workdir from a published checkpoint, and the other binaries read it."""

import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "interop" / "checkpoints" / "mixed_norms.npz"


def test_convert_then_sample(call, tmp_path):
    workdir, samples = tmp_path / "run", tmp_path / "samples.npy"
    done = call("bin/convert_checkpoint.py", f"--checkpoint={CHECKPOINT}", f"--workdir={workdir}")
    assert done.code == 0 and "mnist, step 1, with averaged weights, coefficient " in done.output
    assert str(workdir) in done.output
    assert call("bin/sample.py", f"--workdir={workdir}", "--num=3", f"--output={samples}").code == 0
    samples = np.load(samples)
    assert samples.shape == (3, 8, 8, 1) and samples.dtype == np.uint8


def test_a_pytorch_file_is_refused_in_one_line_with_the_command_to_run(call, tmp_path):
    checkpoint = tmp_path / "cifar10.pth"
    checkpoint.write_bytes(b"PK")
    done = call("bin/convert_checkpoint.py", f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'run'}")
    (error,) = done.output.splitlines()
    assert done.code == 1 and error.startswith(f"Error: {checkpoint} is not an .npz file. ")
    script, *files = error.partition(": python ")[2].split()
    assert (ROOT / script).is_file() and files == [str(checkpoint), str(tmp_path / "cifar10.npz")]
    assert not (tmp_path / "run").exists()
