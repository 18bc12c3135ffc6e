import os
import resource

import pytest
import tensorflow as tf

from tf_resflow.writing import check_output_path, scratch, unwritable_told, whole_file


@pytest.fixture
def left(tmp_path):
    """A folder of a process that was killed, with a file in it."""
    folder = tmp_path / ".writing-left"
    folder.mkdir()
    (folder / "half").write_text("")
    return folder


def test_what_was_left_is_removed_after_a_day(left, tmp_path):
    (tmp_path / ".writing-file").write_text("")
    with scratch(tmp_path) as first, scratch(tmp_path) as second:
        assert left.exists() and first != second and first.is_dir() and second.is_dir()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    with scratch(tmp_path):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".writing-file"]


def test_it_goes_with_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(OSError, match="^Cannot write here: Is a directory. Make room, or make it writable.$"):
        with unwritable_told("here"):
            tmp_path.write_text("")
    with pytest.raises(OSError, match="^Cannot write here: Is a directory. Make room, or make it writable.$"):
        with unwritable_told("above"), unwritable_told("here"):
            tf.io.write_file(str(tmp_path), "")
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "folder"):
        with pytest.raises(OSError, match="^Cannot write here: a file is where a folder should be"):
            with unwritable_told("here"):
                path.mkdir(parents=True)


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
