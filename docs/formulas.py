"""Converts formulas to MathML when the site is built, so that pages need no scripts and no network."""

import html
import itertools
import re
import xml.etree.ElementTree as etree

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(r'(?<=class="arithmatex">)\\([(\[])(.*?)\\[)\]](?=</)', re.DOTALL)
# Operators without space around them. The converter leaves the bars of \bigl\| as a LaTeX command.
_TIGHT = {character: character for character in "|\u2016/.\u2026\u2202\u221e"} | {r"\|": "\u2016"}
_RELATIONS = {":": ":", "~": "\u223c"}
_OPENING = ("(", "[", "{", "|", "\u2016", "=", ",")


def on_page_content(content, page, **_):
    """Replaces the formulas that `pymdownx.arithmatex` found; raises PluginError if one cannot be converted."""

    def replace(match):
        try:
            return mathml(html.unescape(match[2]).strip(), block=match[1] == "[")
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: cannot convert the formula {match[2]!r}: {error!r}") from error

    return _FORMULA.sub(replace, content)


def mathml(latex, *, block=False):
    """Converts a formula to MathML, and adds spacing, unbroken names and large bars, which `latex2mathml` omits."""
    math = etree.fromstring(convert(latex, xmlns="", display="block" if block else "inline"))
    for element in list(math.iter()):
        if element.tag == "mo" and element.text in _TIGHT:
            element.text = _TIGHT[element.text]
            element.attrib = {"stretchy": "false"} | element.attrib | {"lspace": "0", "rspace": "0"}
        elif element.tag == "mi" and element.text in _RELATIONS:
            element.tag, element.text = "mo", _RELATIONS[element.text]
        elif _is_operator(element) and element.tag == "mo":
            element.tag, element.attrib = "mi", {}
        elif block and element.tag == "msub" and element[0].text in ("max", "min"):
            element.tag = "munder"
    for row in list(math.iter("mrow")):
        if len(row) and all(letter.get("mathvariant") == "normal" for letter in row):  # \mathrm
            name = etree.Element("mi", {} if len(row) > 1 else {"mathvariant": "normal"})
            name.text = "".join(letter.text for letter in row)
            row[:] = [name]
        else:
            row[:] = _spaced(row)
    result = etree.tostring(math, encoding="unicode")
    if "\\" in result:
        raise ValueError(f"unknown command in {result}")
    return result


def _is_operator(element):
    base = element[0] if element.tag in ("msub", "msup", "msubsup", "munder") else element
    return base.tag in ("mi", "mo") and len(base.text or "") > 1 and base.text.isalpha()


def _spaced(row):
    """Adds thin spaces around function names, as TeX does."""
    elements = list(row)
    yield from elements[:1]
    for before, element in itertools.pairwise(elements):
        if element.text == "\u2212" and before.text in _OPENING:
            element.set("form", "prefix")  # a sign, not a subtraction
        opens = element.tag == "mo" and element.text not in ("|", "\u2016")
        binds = before.tag == "mo" and before.text not in (")", "]", "}")
        spaced = opens or binds or "mspace" in (before.tag, element.tag)
        if not spaced and (_is_operator(before) or _is_operator(element)):
            yield etree.Element("mspace", width="0.167em")
        yield element
