import os
import resource

import pytest

from tf_resflow.output_file import check_output_path, whole_file


@pytest.mark.parametrize(
    "name, match",
    [("a.docx", "'a.docx' should end in .npy or .png"), ("none/a.png", "does not exist"), ("b.png", "is writable")],
)
def test_paths(tmp_path, name, match):
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ValueError, match=match):
        check_output_path(tmp_path / name, [".npy", ".png"])
    check_output_path(tmp_path / "A.PNG", [".npy", ".png"])


def interrupt(file):
    file.write("half")
    file.flush()
    raise KeyboardInterrupt


def exceed_the_limit(file):
    """A real failure of the file system: the process may write no larger files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        file.write("x" * 100)
        file.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fault, error", [(interrupt, KeyboardInterrupt), (exceed_the_limit, OSError)])
def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path, fault, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(error) as raised, whole_file(path) as temporary, temporary.open("w") as file:
        fault(file)
    assert error is KeyboardInterrupt or f"Cannot write {path}: File too large" in str(raised.value)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]
    with whole_file(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["a.txt"]
