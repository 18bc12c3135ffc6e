import os

import pytest
import tensorflow as tf

from tf_resflow.writing import scratch, unwritable_told


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
