"""Extends the pages with links, formulas and defaults in docstrings, and the metrics of resflow-evaluate."""

import xml.etree.ElementTree as etree

import griffe
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

from tf_resflow.cli.evaluate import METRICS
from tf_resflow.tables.arguments import ARGUMENTS

_NAME = r"(?<!`)`((?:tf_)?resflow((?:\.\w+)+))`(?!`)"
_BEFORE_BACKTICKS = 195


def on_config(config):
    """Links names in backticks to the reference; warns about unknown names, which is an error with --strict."""
    config.markdown_extensions.append(_Links())


def on_page_markdown(markdown, **_):
    """Replaces {{ metrics }} in a page with the list of metrics."""
    metrics = "\n".join(f"- `{name}`: {description}" for name, description in METRICS.items())
    return markdown.replace("{{ metrics }}", metrics)


class _Links(Extension):
    def extendMarkdown(self, md):  # noqa: N802 (name defined by Markdown)
        md.inlinePatterns.register(_Link(_NAME, md), "names", _BEFORE_BACKTICKS)


class _Link(InlineProcessor):
    def handleMatch(self, m, data):  # noqa: N802
        link = etree.Element("autoref", identifier=f"tf_resflow{m[2]}")
        etree.SubElement(link, "code").text = AtomicString(m[1])
        return link, m.start(0), m.end(0)


class Docstrings(griffe.Extension):
    r"""Converts formula delimiters in docstrings from \\( and \\), as in TFP, to \( and \), as in Markdown.

    It also replaces the defaults of `FlowDensity`, which are those of `ARGUMENTS`, by their values.
    """

    def on_instance(self, *, obj, **_):
        """Removes the second backslash of each delimiter."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace(r"\\(", r"\(").replace(r"\\)", r"\)")

    def on_function_instance(self, *, func, **_):
        """Replaces defaults."""
        for parameter in func.parameters:
            if str(parameter.default).startswith("ARGUMENTS["):
                parameter.default = repr(ARGUMENTS[parameter.name].default)
