"""Writes the tables of docs/results.md from the files in benchmarks/results/.

    python -m benchmarks.results_page

A table follows the paragraph that ends with its name in a comment, such as `<!-- table: memory -->`. Tables of
earlier versions are in earlier.json, with the commit that recorded them.
"""

import json
import pathlib
import re

import numpy as np

from benchmarks import summaries

_FOLDER = pathlib.Path(__file__).parent

PAGE = _FOLDER.parent / "docs" / "results.md"
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n\n)((?:\|.*\n)+\n)?")


def _read(name):
    return json.loads((_FOLDER / "results" / f"{name}.json").read_text())


def _markdown(columns, rows):
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]]) + "\n"


def scores():
    """Held-out scores of several seeds."""
    rows, lines = _read("scores"), []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        found = [row["score"] for row in own]
        unit = own[0]["unit"].replace("bits_per_dim", "bits/dim")
        baselines = own[0].get("baselines", {}) | {k: own[0][k] for k in ("entropy",) if k in own[0]}
        lines.append(
            [
                f"`{model}`",
                len(own),
                f"{own[0]['num_examples']:,}",
                f"{np.mean(found):.3f} ± {np.mean([row['stderr'] for row in own]):.3f} {unit}",
                f"{np.std(found, ddof=1):.3f}" if len(own) > 1 else "",
                f"{np.mean([row['processor_minutes'] for row in own]):.1f}",
                ", ".join(f"{name} {value:.3f}" for name, value in baselines.items()),
            ]
        )
    columns = ["Model", "Seeds", "Held-out examples", "Score", "Deviation over seeds", "Minutes", "Baselines"]
    return _markdown(columns, lines)


def time_to_score():
    """Seconds until the scores of the published code, on MNIST."""
    return summaries.time_to_score_table(_read("time_to_score"), "mnist_small", summaries.TARGETS) + "\n"


def speed():
    """Training steps, evaluations and inverses beside the published code."""
    lines = [
        [
            f"`{name}`",
            f"{row['ours'][key]['median']:.4g}",
            f"{row['published'][key]['median']:.4g}",
            f"{row['ratio']:.2f}",
        ]
        for name, row in _read("speed").items()
        for key in list(row["ours"])[:1]
    ]
    return _markdown(["Case", "Here, s", "Published, s", "Ratio"], lines)


def memory():
    """Peak memory beside the published code."""
    names = {
        "memory_4_blocks": "4 blocks",
        "memory_16_blocks": "16 blocks",
        "memory_per_block": "per further block",
    }
    found = _read("memory")
    lines = [
        [label, *(f"{found[name][side]['megabytes']['median']:.0f}" for side in ("ours", "published"))]
        for name, label in names.items()
    ]
    return _markdown(["MB", "Here", "Published"], lines)


def small_flows():
    """Steps of small flows."""
    rows = _read("small_flows")["times"]
    sizes, flows = (list(dict.fromkeys(row[key] for row in rows)) for key in ("dimensions", "flow"))
    found = {(row["flow"], row["dimensions"]): row for row in rows}

    def cell(flow, size):
        row = found[flow, size]
        return f"{row['step_ms']:.1f} ({row['first_step_seconds']:.1f})"

    lines = [[flow, *(cell(flow, size) for size in sizes)] for flow in flows]
    return _markdown(["Dimensions", *sizes], lines)


def anomalies():
    """Means over ADBench's tables."""
    rows = _read("tables")
    names, methods, found = summaries.mean_aucs(rows)
    ranks, ours = summaries.auc_ranks(found), found[:, methods.index("FlowDensity")]
    lines = []
    for i, method in enumerate(methods):
        seconds = np.median([row["seconds"] for row in rows if row["method"] == method])
        ahead = "" if method == "FlowDensity" else f"{np.sum(ours > found[:, i])} of {len(names)}"
        lines.append([method, f"{found[:, i].mean():.3f}", f"{ranks[i]:.2f}", ahead, f"{seconds:.2g}"])
    return _markdown(["Detector", "Mean AUC", "Mean rank", "FlowDensity is ahead on", "Median seconds"], lines)


_TABLES = {
    function.__name__: function for function in (scores, time_to_score, speed, memory, small_flows, anomalies)
}


def table(name):
    """Returns a table in Markdown."""
    if name in _TABLES:
        return _TABLES[name]()
    earlier = _read("earlier")[name]
    return _markdown(earlier["columns"], earlier["rows"])


def with_tables(text):
    """Returns the text of the page with its tables replaced."""
    return _PLACE.sub(lambda match: match[1] + table(match[2]) + "\n", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
