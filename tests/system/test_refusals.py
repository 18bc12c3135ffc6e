"""What the binaries refuse: one line that tells what was wrong and what to do, at once."""

import fcntl
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from tf_resflow.training import base_config, default_config

ROOT = pathlib.Path(__file__).parents[2]
TOY = "--config=toy2d"
NEW = "--workdir={tmp}/new"
NONE = "--workdir={tmp}/none"
RUN = "--workdir={run}"
PICTURE = "--output={tmp}/x.png"
SCORES = "--output={tmp}/scores.csv"
TRAIN = [TOY, NEW]

CONFIG_FILES = {
    "syntax": "def get_config(:\n",
    "no_function": "x = 1\n",
    "wrong_import": "import nosuch\n",
    "wrong_type": "def get_config():\n    return {'train': 5}\n",
    "wrong_key": "from tf_resflow.training import default_config\n\n\ndef get_config():\n"
    "    config = default_config()\n    config.train.stesp = 3\n    return config\n",
    "fails": "def get_config():\n    return 1 / 0\n",
}

# The binary, its arguments, and parts of the line.
REFUSED = {
    "no config": ("train", [NEW], ["--config is missing"]),
    "no workdir": ("train", [TOY], ["--workdir is missing"]),
    "an empty config": ("train", ["--config=", NEW], ["Unknown config ''"]),
    "a folder as config": ("train", ["--config=configs", NEW], ["Unknown config 'configs'", "digits"]),
    "a name as config": (
        "train",
        ["--config=digts", NEW],
        ["Unknown config 'digts'", "mean 'digits'?", "monotone:digits"],
    ),
    "a typo in the config": (
        "train",
        ["--config=configs/digit.py", NEW],
        ["no file configs/digit.py", "mean 'digits.py'?"],
    ),
    "a syntax error": ("train", ["--config={tmp}/syntax.py", NEW], ["syntax.py: SyntaxError: invalid", "line 1"]),
    "no get_config": ("train", ["--config={tmp}/no_function.py", NEW], ["no function get_config"]),
    "an import that fails": (
        "train",
        ["--config={tmp}/wrong_import.py", NEW],
        ["wrong_import.py, line 1: ModuleNotFoundError: No module named 'nosuch'"],
    ),
    "a config that is a dict": (
        "train",
        ["--config={tmp}/wrong_type.py", NEW],
        ["got {{'train': 5}}", "ConfigDict"],
    ),
    "a wrong key in the file": (
        "train",
        ["--config={tmp}/wrong_key.py", NEW],
        ["wrong_key.py, line 6", 'Key "stesp" does not exist', 'mean "steps"'],
    ),
    "a config that fails": ("train", ["--config={tmp}/fails.py", NEW], ["fails.py, line 2: ZeroDivisionError"]),
    "a typo in a field": (
        "train",
        [*TRAIN, "--config.train.stesp=5"],
        ["no field 'train.stesp'", "'train.steps'?"],
    ),
    "a section as a field": ("train", [*TRAIN, "--config.model=5"], ["no field 'model'"]),
    "text for a number": (
        "train",
        [*TRAIN, "--config.train.steps=many"],
        ["--config.train.steps=many: invalid literal for int()"],
    ),
    "no steps": ("train", [*TRAIN, "--config.train.steps=0"], ["train.steps is 0", "at least 1"]),
    "a typo in a flag": (
        "train",
        [*TRAIN, "--workdr=x"],
        ["'workdr'. Did you mean: workdir", "The flags are listed by --help"],
    ),
    "an unknown strategy": (
        "train",
        [*TRAIN, "--strategy=mirored"],
        ["--strategy=mirored: value should be one of <auto|default|mirrored|"],
    ),
    "a stray argument": ("train", [*TRAIN, "now"], ["unexpected arguments ['now']"]),
    "the workdir of another run": ("train", [TOY, RUN, "--config.seed=8"], ["config.seed = 0, but now it is 8"]),
    "a workdir that is a file": ("train", [TOY, "--workdir={tmp}/syntax.py"], ["Cannot write", "a file is where"]),
    "a workdir that cannot be made": ("train", [TOY, "--workdir=/dev/null/run"], ["Cannot write /dev/null/run"]),
    "a workdir with a trainer": ("train", [TOY, "--workdir={busy}"], ["Another trainer is at work in {busy}"]),
    "no table": ("train", ["--config=tabular", NEW], ["data.path is missing: set it to the file"]),
    "a table that is missing": (
        "train",
        ["--config=tabular", NEW, "--config.data.path=none.csv"],
        ["none.csv: there is no such file", f"{ROOT}/none.csv"],
    ),
    "a table of another kind": (
        "train",
        ["--config=tabular", NEW, "--config.data.path={tmp}/syntax.py"],
        ["ends in .csv, .parquet"],
    ),
    "images that are missing": (
        "train",
        ["--config=images", NEW, "--config.data.path={tmp}/none"],
        ["config.data.path: there is no file or folder {tmp}/none"],
    ),
    "a size for the file": ("train", ["--config=configs/images.py:33", NEW], ["images.py:33: The size is '33'"]),
    "a workdir with bytes as config": ("evaluate", ["--workdir={bytes}"], ["config.json is not valid JSON"]),
    "a workdir of another version": (
        "export",
        ["--workdir={key}", "--export_dir={tmp}"],
        ["unknown key 'train.stesp'"],
    ),
    "evaluate without a run": ("evaluate", [NONE], ["no config.json"]),
    "evaluate without a checkpoint": ("evaluate", ["--workdir={untrained}"], ["no checkpoint yet"]),
    "evaluate without the data": (
        "evaluate",
        ["--workdir={moved}"],
        [f"not at gone.csv (looked for /no/gone.csv and {ROOT}/gone.csv)", "--data_path"],
    ),
    "a split that the data lack": ("evaluate", [RUN, "--split=train"], ["'checkerboard' has test, validation"]),
    "fid of vectors": ("evaluate", [RUN, "--metrics=fid"], ["FID is for images"]),
    "classes of a density": ("evaluate", [RUN, "--metrics=classification"], ["needs labels"]),
    "an unknown metric": ("evaluate", [RUN, "--metrics=lipschitz,fd"], ["choose some of likelihood, noise"]),
    "no metric": ("evaluate", [RUN, "--metrics="], ["likelihood, noise"]),
    "scores as a document": ("evaluate", [RUN, "--output=x.docx"], ["'x.docx'", ".json"]),
    "scores in no folder": ("evaluate", [RUN, "--output={tmp}/none/x.json"], ["cannot be written"]),
    "a negative number": ("evaluate", [RUN, "--num_examples=-1"], ["num_examples=-1"]),
    "an unknown log_det": ("evaluate", [RUN, "--log_det=exakt"], ["exakt", "exact"]),
    "sample without a run": ("sample", [NONE, "--output={tmp}/a.png"], ["no config.json"]),
    "sample without a checkpoint": ("sample", ["--workdir={untrained}", PICTURE], ["no checkpoint yet"]),
    "paths without the data": (
        "sample",
        ["--workdir={moved}", PICTURE, "--interpolate=pairs"],
        ["not at gone.csv", "--data_path"],
    ),
    "samples that do not fit": ("sample", [RUN, "--output={tmp}/x.csv", f"--num={10**12}"], ["22,000.0 GB"]),
    "samples as a document": ("sample", [RUN, "--output=x.docx"], ["x.docx", ".png", ".npy"]),
    "samples in no folder": ("sample", [RUN, "--output={tmp}/none/x.png"], ["none"]),
    "no samples": ("sample", [RUN, PICTURE, "--num=0"], ["num=0"]),
    "one corner": ("sample", [RUN, PICTURE, "--num=1", "--interpolate=corners"], ["has --num=2 or more"]),
    "precise paths": ("sample", [RUN, PICTURE, "--precise", "--interpolate=pairs"], ["takes no --precise"]),
    "a temperature in words": ("sample", [RUN, PICTURE, "--temperature=0.5,warm"], ["temperature"]),
    "an infinite temperature": ("sample", [RUN, PICTURE, "--temperature=inf"], ["inf"]),
    "no temperature": ("sample", [RUN, PICTURE, "--temperature="], ["numbers from 0 to 100, separated by commas"]),
    "a temperature of NaN": ("sample", [RUN, PICTURE, "--temperature=nan"], ["nan"]),
    "a negative seed": ("sample", [RUN, PICTURE, "--seed=-1"], ["seed=-1"]),
    "a huge temperature": ("sample", [RUN, PICTURE, "--temperature=1e30"], ["1e30"]),
    "a negative temperature": ("sample", [RUN, PICTURE, "--temperature=-1"], ["-1"]),
    "a seed of 2^63": ("sample", [RUN, PICTURE, "--seed=9223372036854775808"], ["seed=9223372036854775808"]),
    "a temperature of a path": (
        "sample",
        [RUN, PICTURE, "--temperature=0.5", "--interpolate=pairs"],
        ["--interpolate takes no temperature"],
    ),
    "export without a run": ("export", [NONE, "--export_dir={tmp}"], ["no config.json"]),
    "export without a checkpoint": (
        "export",
        ["--workdir={untrained}", "--export_dir={tmp}"],
        ["no checkpoint yet"],
    ),
    "a version that exists": ("export", [RUN, "--export_dir={served}", "--version=3"], ["has a version 3", "is 4"]),
    "an export to a file": ("export", [RUN, "--export_dir={tmp}/syntax.py"], ["Cannot write", "a file is where"]),
    "score without a checkpoint": ("score", ["--workdir={untrained}", SCORES], ["no checkpoint yet"]),
    "score without the data": ("score", ["--workdir={moved}", SCORES], ["not at gone.csv"]),
    "nothing to score": ("score", [RUN, SCORES, "--input={tmp}/none.csv"], ["none.csv: there is no such file"]),
    "code to score": ("score", [RUN, SCORES, "--input={tmp}/syntax.py"], ["ends in .csv, .parquet"]),
    "version 0": ("export", [RUN, "--export_dir={tmp}", "--version=0"], ["version=0"]),
    "curves as a document": ("plot_runs", ["--workdirs={run}", "--output={tmp}/x.docx"], ["x.docx", ".png"]),
    "curves of no run": ("plot_runs", ["--workdirs={tmp}/none", PICTURE], ["none", "no config.json"]),
    "curves of binary metrics": ("plot_runs", ["--workdirs={binary}", PICTURE], ["Line 2 of"]),
    "no checkpoint": ("convert_checkpoint", ["--checkpoint={tmp}/a.npz", NEW], ["a.npz"]),
    "code to convert": (
        "convert_checkpoint",
        ["--checkpoint={tmp}/syntax.py", NEW],
        ["_to_npz.py"],
    ),
    "a workdir to convert to": ("convert_checkpoint", ["--checkpoint={tmp}/syntax.py", RUN], ["{run}"]),
}

# Runs binaries one after the other, and ends if one has loaded TensorFlow, which takes seconds.
WITHOUT_TENSORFLOW = """
import json, runpy, sys
from absl import app, flags

for binary, arguments in json.load(sys.stdin):
    known, sys.argv = set(flags.FLAGS), [binary, *arguments]
    try:
        runpy.run_path(f"bin/{binary}.py", run_name="__main__")
    except SystemExit:
        pass
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - known)
    flags.FLAGS.unparse_flags()
    if "tensorflow" in sys.modules:
        sys.exit(f"{binary} {arguments} has loaded TensorFlow.")
"""

# Each binary, and each kind of error, is a process of its own once.
PROCESSES = {
    "no config",
    "a typo in the config",
    "no get_config",  # a module of an earlier case would be found in this process
    "a typo in a field",
    "no steps",
    "a typo in a flag",
    "a workdir with bytes as config",
    "a workdir of another version",
    "sample without a run",
    "curves of no run",
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A folder with config files, and workdirs as a run, or damage, leaves them."""
    root = tmp_path_factory.mktemp("refusals")
    for name, text in CONFIG_FILES.items():
        (root / f"{name}.py").write_text(text)
    config = json.loads(json.dumps(base_config("toy2d").to_dict()))
    assert config.keys() == default_config().to_dict().keys()
    wrong_key = config | {"train": config["train"] | {"stesp": 5}}
    contents = {"run": config, "binary": config, "key": wrong_key}
    for name, content in contents.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(content))
    info = {"name": "checkerboard", "event_shape": [2]} | dict.fromkeys(("levels", "mean", "std", "num_classes"))
    (root / "run" / "data.json").write_text(json.dumps(info | {"sizes": {"test": 5, "validation": 5}}))
    for name in ("untrained", "moved", "busy"):
        shutil.copytree(root / "run", root / name)
    table = config | {"data": config["data"] | {"name": "tabular", "path": "gone.csv"}}
    (root / "moved" / "config.json").write_text(
        json.dumps(table | {"absolute_paths": {"data.path": "/no/gone.csv"}})
    )
    for path in (root / "run", root / "moved", root / "busy"):
        (path / "checkpoints").mkdir()
        for end in ("index", "data-00000-of-00001"):
            (path / "checkpoints" / f"ckpt-5.{end}").touch()
    (root / "served" / "3").mkdir(parents=True)
    (root / "bytes").mkdir()
    (root / "bytes" / "config.json").write_bytes(b"\xff\x00{")
    (root / "binary" / "metrics.jsonl").write_bytes(b'{"step": 1, "split": "train"}\n\xff\xfe\x00\n')
    names = (*contents, "bytes", "untrained", "moved", "busy", "served")
    with (root / "busy" / "lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {name: root / name for name in names} | {"tmp": root}


@pytest.fixture
def start(monkeypatch, call):
    """Runs a binary to its end in the folder of the project: as a process, or in this one, which is faster."""

    def start(binary, arguments, as_process):
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if not as_process:
            monkeypatch.chdir(ROOT)
            return call(f"bin/{binary}.py", *arguments)
        command = [sys.executable, str(ROOT / "bin" / f"{binary}.py"), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert not done.stdout
        return done.returncode, done.stderr

    return start


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, paths, start):
    binary, arguments, parts = REFUSED[case]
    before = sorted(paths["tmp"].rglob("*"))
    code, output = start(binary, [argument.format(**paths) for argument in arguments], case in PROCESSES)
    assert code == 1 and "Traceback" not in output, output[-3000:]
    lines = [line for line in output.splitlines() if line]
    assert len(lines) <= 3 and len(output) < 1500
    assert lines[0].startswith("Error: ")
    for part in parts:
        assert part.format(**paths) in output
    assert sorted(path for path in paths["tmp"].rglob("*") if "__pycache__" not in path.parts) == [
        path for path in before if "__pycache__" not in path.parts
    ]


def test_refused_at_once(paths):
    cases = [(binary, [argument.format(**paths) for argument in given]) for binary, given, _ in REFUSED.values()]
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(cases), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize(
    "binary", ["train", "evaluate", "sample", "score", "export", "plot_runs", "convert_checkpoint"]
)
def test_help(binary):
    """It comes at once, on the standard output, and is no error; the flags are those of the command."""
    command = [sys.executable, str(ROOT / "bin" / f"{binary}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr
    name = binary.removesuffix("_checkpoint").replace("_", "-")
    assert "--workdir" in done.stdout and f"resflow-{name} --" in done.stdout
