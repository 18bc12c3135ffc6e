import logging

import pytest

from tf_resflow.cli import command_line
from tf_resflow.training.config import default_config, validate_config


def invalid_config():
    config = default_config()
    config.train.steps = 0
    validate_config(config)


def test_an_error_of_ours_is_a_message(capsys):
    with pytest.raises(SystemExit, match="Error: config.train.steps is 0"):
        command_line._guarded(invalid_config)


@pytest.mark.parametrize("fault", [lambda: int("x"), lambda: [].index(3), lambda: {}["key"]])
def test_other_errors_keep_their_traceback(fault):
    with pytest.raises((ValueError, KeyError)):
        command_line._guarded(fault)


def test_an_error_that_our_line_merely_called_keeps_its_traceback():
    """`default_config(**fields)` of a value that numpy refuses is a bug, not a user's error."""
    with pytest.raises(TypeError):
        command_line._guarded(lambda: default_config(1))


@pytest.mark.parametrize("message, is_told", [("Variant folder %s has no %s", False), ("%s", True)])
def test_what_tfds_logs_of_a_missing_data_set_is_not_told(message, is_told):
    record = logging.LogRecord("absl", logging.WARNING, "file.py", 3, message, ("mnist", "info"), None)
    assert command_line._is_worth_telling(record) == is_told


def test_warnings_are_plain():
    record = logging.LogRecord(
        "absl", logging.WARNING, "file.py", 3, "%d images lose their transparency.", (2,), None
    )
    assert command_line._Formatter().format(record) == "Warning: 2 images lose their transparency."
