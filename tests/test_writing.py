import functools
import os
import resource
import time

import pytest
import tensorflow as tf

from tf_resflow._internal.writing import atomic_write, check_output_path, explain_write_errors, temporary_folder


def test_what_a_killed_process_left_is_removed_after_a_week(tmp_path):
    for name in (".writing-new", ".writing-old", "writing-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    for name in (".writing-old", "writing-old"):
        os.utime(tmp_path / name, (time.time() - 8 * 24 * 3600,) * 2)
    with atomic_write(tmp_path / "new.txt") as path:
        path.touch()
    assert {path.name for path in tmp_path.iterdir()} == {".writing-new", "writing-old", "new.txt"}


def test_it_goes_with_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_write_errors_name_the_path(tmp_path):
    for write in (tmp_path.write_text, functools.partial(tf.io.write_file, str(tmp_path))):
        with pytest.raises(OSError, match="^Cannot write here: Is a directory. Free up disk space .*writable.$"):
            with explain_write_errors("above"), explain_write_errors("here"):
                write("")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="^Cannot write here: File exists"):
        with explain_write_errors("here"):
            (tmp_path / "file").mkdir(parents=True)


def test_paths(tmp_path):
    (tmp_path / "b.png").mkdir()
    for name, match in (("a.docx", "end in .npy or .png"), ("none/a.png", "that exists"), ("b.png", "writable")):
        with pytest.raises(ValueError, match=match):
            check_output_path(tmp_path / name, [".npy", ".png"])
    check_output_path(tmp_path / "A.PNG", [".npy", ".png"])


def interrupt(file):
    file.write("half")
    file.flush()
    raise KeyboardInterrupt


def exceed_the_limit(file):
    """Causes a real failure of the file system by limiting the size of files."""
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
    with pytest.raises(error) as raised, atomic_write(path) as temporary, temporary.open("w") as file:
        fault(file)
    assert error is KeyboardInterrupt or f"Cannot write {path}: File too large" in str(raised.value)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]
    with atomic_write(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["a.txt"]
