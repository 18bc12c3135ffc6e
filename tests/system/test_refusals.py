"""Tests the error messages of the commands: short, with a remedy, and printed before TensorFlow is loaded."""

import fcntl
import json

import pytest

from tests.conftest import ROOT
from tf_resflow.training import base_config

TOY = "train --workdir={tmp}/new --config=toy2d"
TABLE = "train --workdir={tmp}/new --config=tabular"
SAMPLE = "sample --workdir={run} --output={tmp}/x.png"

CONFIG_FILES = {
    "syntax": "def get_config(:\n",
    "no_function": "x = 1\n",
    "wrong_type": "def get_config():\n    return {'train': 5}\n",
}

# Commands, and parts of their messages. Each command of the first list runs in a separate process.
IN_PROCESSES = [
    ("train --workdir={tmp}/new", "--config must be given"),
    (f"{TOY} --config.train.steps=0", "train.steps is 0"),
    (f"{TOY} --workdr=x", "'workdr'. Did you mean: workdir", "Use --help to list the flags"),
    ("sample --workdir={tmp}/none --output={tmp}/a.png", "no config.json"),
]
IN_THIS_PROCESS = [
    ("train --workdir={tmp}/new --config=configs/digit.py", "no file configs/digit.py", "mean 'digits.py'?"),
    ("train --workdir={tmp}/new --config={tmp}/no_function.py", "no function get_config"),
    ("train --workdir={tmp}/new --config={tmp}/wrong_type.py", "got {{'train': 5}}"),
    (f"{TOY} --config.train.steps=many", "--config.train.steps=many: invalid literal for int()"),
    ("train now", "unexpected arguments ['now']"),
    ("train --config=toy2d --workdir={run} --config.seed=8", "config.seed = 0, but now it is 8"),
    ("train --config=toy2d --workdir={tmp}/syntax.py", "Cannot write"),
    ("train --config=toy2d --workdir={busy}", "Another trainer is running in {busy}"),
    ("train --workdir={tmp}/new --config=images --config.data.path={tmp}/none", "no file or folder {tmp}/none"),
    ("evaluate --workdir={untrained}", "no checkpoint yet"),
    ("evaluate --workdir={moved}", f"not at /no/gone.npz or {ROOT}/gone.npz", "--data_path"),
    ("evaluate --workdir={run} --split=train", "'checkerboard'. Choose one of test, validation"),
    ("evaluate --workdir={run} --metrics=fid", "FID is for images"),
    ("evaluate --workdir={run} --metrics=lipschitz,fd", "choose from likelihood, noise"),
    ("evaluate --workdir={run} --output={tmp}/none/x.json", "cannot be written"),
    ("evaluate --workdir={run} --log_det_estimator=exakt", "exakt"),
    (f"{SAMPLE} --temperature=0.5,warm", "numbers from 0 to 100"),
    (f"{SAMPLE} --seed=9223372036854775808", "seed=9223372036854775808"),
    ("export --workdir={run} --export_dir={served} --version=3", "already has version 3", "is 4"),
    ("export --workdir={run} --export_dir={tmp}/syntax.py", "Cannot write"),
    (TABLE, "data.path is missing"),
    (f"{TABLE} --config.data.path=none.csv", "there is no such file", f"{ROOT}/none.csv"),
    (f"{TABLE} --config.data.path={{tmp}}/a.csv --jit", "--jit does not apply to a config of a table"),
    ("train --config=toy2d --workdir={fitted}", "is a run on a table"),
    ("train --config=tabular --config.data.path={tmp}/a.csv --workdir={run}", "belongs to a run that is not on a"),
    ("evaluate --workdir={unfitted}", "no fitted density yet"),
    ("convert_checkpoint --workdir={tmp}/new --checkpoint={tmp}/syntax.py", "_to_npz.py"),
    ("convert_checkpoint --workdir={run} --checkpoint={tmp}/syntax.py", "{run}"),
]

# Runs commands one after another, and fails if one of them loads TensorFlow, which takes seconds.
WITHOUT_TENSORFLOW = """
import json, runpy, sys
from absl import app, flags

for binary, *arguments in json.load(sys.stdin):
    known, sys.argv = set(flags.FLAGS), [binary, *arguments]
    try:
        runpy.run_path(f"bin/{binary}.py", run_name="__main__")
    except SystemExit:
        pass
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
    flags.FLAGS.unparse_flags()
    if "tensorflow" in sys.modules:
        sys.exit(f"{binary} {arguments} loaded TensorFlow.")
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The paths in a folder with config files, and with workdirs of complete, unfinished and damaged runs."""
    root = tmp_path_factory.mktemp("refusals")
    for name, text in CONFIG_FILES.items():
        (root / f"{name}.py").write_text(text)
    config, table = (json.loads(json.dumps(base_config(name).to_dict())) for name in ("toy2d", "tabular"))
    for name in ("fitted", "unfitted"):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(table))
    for name in ("density.npz", "result.json"):
        (root / "fitted" / name).touch()
    (root / "a.csv").write_text("a,b\n1.5,2.5\n")
    images = config | {"data": config["data"] | {"name": "images", "path": "gone.npz"}}
    configs = dict.fromkeys(("run", "untrained", "busy"), config)
    configs["moved"] = images | {"absolute_paths": {"data.path": "/no/gone.npz"}}
    info = {"name": "checkerboard", "event_shape": [2]} | dict.fromkeys(("levels", "mean", "std", "num_classes"))
    for name, content in configs.items():
        (root / name / "checkpoints").mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps(content))
        (root / name / "data.json").write_text(json.dumps(info | {"sizes": {"test": 5, "validation": 5}}))
        for end in () if name == "untrained" else ("index", "data-00000-of-00001"):
            (root / name / "checkpoints" / f"ckpt-5.{end}").touch()
    (root / "served" / "3").mkdir(parents=True)
    with (root / "busy" / "lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {path.name: path for path in root.iterdir()} | {"tmp": root}


def files(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def check(code, output, parts, paths):
    is_temporary = "Another trainer is running" in output or "Cannot write" in output
    assert code == (1 if is_temporary else 2) and "Traceback" not in output, output[-3000:]
    lines = [line for line in output.splitlines() if line]
    assert len(lines) <= 3 and len(output) < 1500 and lines[0].startswith("Error: ")
    for part in parts:
        assert part.format(**paths) in output


@pytest.mark.parametrize("case", IN_PROCESSES, ids=lambda case: case[0])
def test_refused_in_a_process(case, paths, process):
    binary, *arguments = case[0].format(**paths).split()
    done = process(f"bin/{binary}.py", *arguments, timeout=300)
    assert not done.stdout
    check(done.returncode, done.stderr, case[1:], paths)


@pytest.mark.parametrize("case", IN_THIS_PROCESS, ids=lambda case: case[0])
def test_refused_and_nothing_written(case, paths, call, monkeypatch):
    monkeypatch.chdir(ROOT)
    binary, *arguments = case[0].format(**paths).split()
    before = files(paths["tmp"])
    check(*call(f"bin/{binary}.py", *arguments), case[1:], paths)
    assert files(paths["tmp"]) == before


def test_refused_before_tensorflow_is_loaded(paths, process):
    cases = json.dumps([case[0].format(**paths).split() for case in IN_PROCESSES + IN_THIS_PROCESS])
    process("-c", WITHOUT_TENSORFLOW, input=cases, timeout=300, check=True)


@pytest.mark.parametrize("binary", sorted(path.stem for path in (ROOT / "bin").glob("*.py")))
def test_help(binary, process):
    """--help lists the flags of the command. (absl defines --help only once in a process.)"""
    done = process(f"bin/{binary}.py", "--help", timeout=300)
    assert done.returncode == 0 and not done.stderr
    name = binary.removesuffix("_checkpoint").replace("_", "-")
    assert "--workdir" in done.stdout and f"resflow-{name} --" in done.stdout
