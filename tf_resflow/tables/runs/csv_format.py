"""Detects the format of .csv files."""

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_ADVICE = (
    "If the format of the file is misread, set read_options, such as --config.data.read_options.sep=';' in "
    """training or --read_options='{"sep": ";"}' in resflow-score. """
    "Other options are those of pandas.read_csv, such as "
    "decimal=',', thousands=',' for cells such as 32,168.24, date_format='%d.%m.%Y', na_values='?', "
    "encoding='latin-1', or header=0 if the first row has the names."
)

_SEPARATORS = "\t;|,"  # the comma is last, because it divides the lines of 1,5;2,5 as regularly as the semicolon
_SAMPLE = 1000  # number of rows from which the format is detected
_ANY_NUMBER = r"[-+]?[\d.,]*\d(e[-+]?\d+)?"
# A number with a mark before its decimals, and another one between thousands.
_NUMBER = r"[-+]?(\d*|[1-9]\d{{0,2}}({thousands}\d{{3}})+)({decimal}\d+)?(e[-+]?\d+)?"
_WITH_COMMA = _NUMBER.format(decimal=",", thousands=r"\.")
_WITH_POINT = _NUMBER.format(decimal=r"\.", thousands=",")


def detected_format(content: bytes, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the encoding, the separator and the decimal comma of a file's content, unless the options set them.

    The separator is the one that divides most rows into as many cells as the first row. Otherwise, cells that are
    numbers decide. The decimal is a comma if some cells can be read only with it, and none only with a point.
    """
    detected: dict[str, Any] = {} if "encoding" in options else {"encoding": _encoding(content)}
    lines = _first_lines(content, options, options.get("encoding") or detected["encoding"])
    separators = [options["sep"]] if "sep" in options else _SEPARATORS
    rows = {sep: list(csv.reader(lines, delimiter=sep if len(sep) == 1 else " ")) for sep in separators}
    if "sep" not in options:
        dividing = [sep for sep in separators if rows[sep] and len(rows[sep][0]) > 1]
        detected["sep"] = max(dividing, key=lambda sep: _regularity(rows[sep]), default=",")
    sep = options.get("sep") or detected["sep"]
    if sep != "," and not {"decimal", "thousands"} & options.keys():
        detected |= _decimal_comma(cell.strip() for row in rows[sep] for cell in row)
    return detected


def _first_lines(content, options, encoding):
    """Returns the lines from which the format is detected."""
    comment = options.get("comment") or "\n"
    num_above = 0
    for name in ("skiprows", "header"):
        if isinstance(options.get(name), int):
            num_above += options[name]
    file = io.TextIOWrapper(io.BytesIO(content), encoding, options.get("encoding_errors"), newline="")
    lines = itertools.islice(file, num_above, _SAMPLE)
    return [line for line in lines if line.strip() and line[0] != comment]


def _decimal_comma(cells):
    """Returns the options for a decimal comma, if cells show that there is one."""
    cells = list(cells)
    with_comma = {cell for cell in cells if re.fullmatch(_WITH_COMMA, cell, re.I)}
    with_point = {cell for cell in cells if re.fullmatch(_WITH_POINT, cell, re.I)}
    if not with_comma - with_point or with_point - with_comma:
        return {}
    has_thousands = any("." in cell for cell in with_comma)
    return {"decimal": ",", "thousands": "."} if has_thousands else {"decimal": ","}


def _encoding(content):
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    with contextlib.suppress(UnicodeDecodeError):
        content.decode()
        return "utf-8-sig"
    return "cp1252"


def _regularity(rows):
    """Returns the share of rows with as many cells as the first, and the share of cells that are numbers."""
    same = [len(row) == len(rows[0]) for row in rows]
    numbers = [bool(re.fullmatch(_ANY_NUMBER, cell.strip(), re.I)) for row in rows for cell in row]
    return np.mean(same), np.mean(numbers)
