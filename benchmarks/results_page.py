"""Writes the tables of docs/results.md from the files in benchmarks/results/.

    python -m benchmarks.results_page

A table follows the paragraph that ends with its name in a comment, such as `<!-- table: memory -->`. Tables of
earlier versions are in earlier.json, with the commit that recorded them and, if their script has left this folder,
the commit to check out to repeat them.
"""

import calendar
import itertools
import json
import pathlib
import re

import numpy as np

from benchmarks import summaries

_FOLDER = pathlib.Path(__file__).parent

PAGE = _FOLDER.parent / "docs" / "results.md"
_TASKS = {
    "two_moons": "two moons",
    "gaussian_mixture": "Gaussian mixture",
    "bernoulli_glm": "Bernoulli GLM",
    "gaussian_linear": "linear Gaussian",
    "slcp": "SLCP",
    "gaussian_linear_uniform": "linear Gaussian, uniform prior",
    "sir": "SIR",
    "lotka_volterra": "Lotka-Volterra",
    "slcp_distractors": "SLCP, distractors",
    "bernoulli_glm_raw": "Bernoulli GLM, raw",
}
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n\n)((?:\|.*\n)+\n)?")


def _read(name):
    return json.loads((_FOLDER / "results" / f"{name}.json").read_text())


def _markdown(columns, rows):
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]]) + "\n"


def scores():
    """Held-out scores of several seeds."""
    rows, lines = _read("scores"), []
    found = summaries.figures("scores", rows)
    for name, row in {row["model"]: row for row in rows}.items():
        unit = row["unit"].replace("bits_per_dim", "bits/dim")
        baselines = [key for key in ("gaussian", "uniform", "entropy") if f"{name}_{key}" in found]
        lines.append(
            [
                f"`{name}`",
                found[f"{name}_seeds"],
                f"{row['num_examples']:,}",
                f"{found[name]:.3f} ± {found[f'{name}_stderr']:.3f} {unit}",
                f"{found[f'{name}_deviation']:.3f}" if f"{name}_deviation" in found else "",
                f"{found[f'{name}_minutes']:.1f}",
                ", ".join(f"{key} {found[f'{name}_{key}']:.3f}" for key in baselines),
            ]
        )
    columns = ["Model", "Seeds", "Held-out examples", "Score", "Deviation over seeds", "Minutes", "Baselines"]
    return _markdown(columns, lines)


def time_to_score():
    """Seconds until the scores of the published code, on MNIST."""
    return summaries.time_to_score_table(_read("time_to_score"), "mnist_small", summaries.TARGETS) + "\n"


def speed():
    """Training steps, evaluations and inverses beside the published code."""
    lines = []
    for name, row in _read("speed").items():
        ours, published = (f"{row[side]['seconds']['median']:.4g}" for side in ("ours", "published"))
        lines.append([f"`{name}`", ours, published, f"{row['ratio']:.2f}"])
    return _markdown(["Case", "Here, s", "Published, s", "Ratio"], lines)


def memory():
    """Peak memory beside the published code."""
    names = {"4_blocks": "4 blocks", "16_blocks": "16 blocks", "per_block": "per further block"}
    found = summaries.figures("memory", _read("memory"))
    lines = [
        [label, *(f"{found[f'{side}_{name}']:.0f}" for side in ("ours", "published"))]
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


def splines():
    """Log-densities of flows of vectors."""
    return _log_densities("splines")


def sets():
    """Log-densities of flows of sets."""
    return _log_densities("sets")


def _log_densities(name):
    """Log-densities of flows at equal training time: means over seeds, and standard errors over test rows."""
    rows, lines = _read(name), []
    tasks, flows = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "flow"))
    for task in tasks:
        found = [[row for row in rows if (row["task"], row["flow"]) == (task, flow)] for flow in flows]
        cells = _with_best([np.mean([row["score"] for row in own]) for own in found], [True] * len(flows), max, 2)
        errors = [np.linalg.norm([row["standard_error"] for row in own]) / len(own) for own in found]
        lines.append([task, *(f"{cell} ± {error:,.2f}" for cell, error in zip(cells, errors, strict=True))])
        if "truth" in rows[0]:
            lines[-1].append(f"{np.mean([row['truth'] for row in rows if row['task'] == task]):,.2f}")
    steps = [np.mean([row["steps"] for row in rows if row["flow"] == flow]) for flow in flows]
    lines.append(["steps", *(f"{mean:,.0f}" for mean in steps)])
    if "truth" in rows[0]:
        return _markdown(["Task", *flows, "truth"], [*lines[:-1], [*lines[-1], ""]])
    return _markdown(["Task", *flows], lines)


def anomalies():
    """Means over ADBench's tables."""
    rows = _read("tables")
    found = summaries.figures("tables", rows)
    _, methods, aucs = summaries.mean_aucs(rows)
    lines = [
        [
            method,
            f"{found[method]:.3f}",
            f"{rank:.2f}",
            "" if method == "FlowDensity" else f"{found[f'{method}_behind']} of {found['num_tables']}",
            f"{found[f'{method}_seconds']:.2g}",
        ]
        for method, rank in zip(methods, summaries.auc_ranks(aucs), strict=True)
    ]
    return _markdown(["Detector", "Mean AUC", "Mean rank", "FlowDensity is ahead on", "Median seconds"], lines)


def planted():
    """The AUC of each kind of planted anomaly: means over tables."""
    rows, kinds = _read("planted"), ["range", "combination", "swap", "sign", "category"]
    for row in [row for row in rows if row["method"] == "FlowDensity"]:
        nats = {kind: row[f"{kind}, nats"] for kind in kinds} | {"seconds": row["seconds with nats"]}
        rows.append(row | nats | {"method": "FlowDensity, `explain`"})
    methods = sorted({row["method"] for row in rows}, key=lambda name: (not name.startswith("FlowDensity"), name))
    means = np.array([[float(x) for x in _means(rows, methods, kind, ".3f")] for kind in kinds])
    columns = [_with_best(column, [True] * len(methods), max) for column in means]
    lines = zip(methods, *columns, _means(rows, methods, "seconds", ".1f"), strict=True)
    return _markdown(["Detector", *kinds, "seconds"], lines)


def synthesis():
    """The AUC of a classifier on each table, and means of the other measures."""
    rows = _read("synthesis")
    tables, methods, aucs = _ours_first(*summaries.mean_aucs(rows))
    peers = [method != "training rows" for method in methods]
    lines = [[name, *_with_best(line, peers, min)] for name, line in zip(tables, aucs, strict=True)]
    lines.append(["**mean AUC**", *_with_best(np.mean(aucs, axis=0), peers, min)])
    labels = {
        "numbers": "largest distance of a column of numbers",
        "categories": "largest distance of a category",
        "correlations": "difference of correlations",
        "copies": f"share of copied rows (held-out rows: {np.mean([row['equal_rows'] for row in rows]):.3f})",
    }
    lines += [[label, *_means(rows, methods, key, ".3f")] for key, label in labels.items()]
    lines.append(["seconds", *_means(rows, methods, "seconds", ".0f")])
    return _markdown(["Table", *methods], lines)


def densities():
    """Held-out log-likelihoods, with a second line if few rows make a large difference."""
    rows, lines = _read("densities"), []
    tables, methods, found = _ours_first(*summaries.mean_aucs(rows))
    *_, others = _ours_first(*summaries.mean_aucs([row | {"score": row["without_least"]} for row in rows]))
    for name, scores, without_least in zip(tables, found, others, strict=True):
        lines.append([name, *_with_best(scores, [True] * len(methods), max, 2)])
        if max(abs(scores - without_least)) > 10:
            label = f"{name}, without the least likely 0.1 %"
            lines.append([label, *_with_best(without_least, [True] * len(methods), max, 2)])
    lines.append(["seconds", *_means(rows, methods, "seconds", ".0f")])
    return _markdown(["Table", *methods], lines)


def simulators():
    """C2ST of posteriors, by the number of simulations: means over observations and seeds."""
    lines = []
    for task, label in _TASKS.items():
        pairs = [_simulator_scores(task, num) for num in (1_000, 10_000, 100_000)]
        means = [_with_best([np.mean(values) for values in pair], [True, True], min) for pair in pairs]
        lines.append([label, *itertools.chain.from_iterable(means)])
    return _markdown(["Task", "1,000", "nsf", "10,000", "nsf", "100,000", "nsf"], lines)


def _simulator_scores(task, num):
    """Returns lists of the C2ST of each seed, for this library and for `nsf`."""
    rows = [row for row in _read("simulators") if (row["task"], row["num"]) == (task, num)]
    methods = ("tf_resflow", "sbi_nsf")
    return [[row["mean_c2st"] for row in rows if row["method"] == method] for method in methods]


def simulator_seeds():
    """C2ST of posteriors with 1,000 simulations: the mean and range over the seeds of tasks with several."""
    lines = []
    for task, label in _TASKS.items():
        scores = _simulator_scores(task, 1000)
        if min(map(len, scores)) > 1:
            means = _with_best([np.mean(values) for values in scores], [True, True], min)
            ranges = [f"({min(values):.3f} to {max(values):.3f})" for values in scores]
            seeds = " and ".join(map(str, sorted({*map(len, scores)})))
            lines.append([label, seeds, *map(" ".join, zip(means, ranges, strict=True))])
    return _markdown(["Task", "Seeds", "1,000", "nsf"], lines)


def simulator_densities():
    """Held-out log-densities, coverage and processor seconds of posteriors of four other simulators."""
    rows, methods, lines = _read("simulator_densities"), ["tf_resflow", "sbi_nsf", "sbi_maf"], []
    for problem, num in dict.fromkeys((row["problem"], row["num"]) for row in rows):
        own = {row["method"]: row for row in rows if (row["problem"], row["num"]) == (problem, num)}
        found = [own[method] for method in methods]
        log_probs = _with_best([row["log_prob"] for row in found], [True] * len(methods), max, 2)
        exact = found[0]["exact"]
        lines.append([f"{problem}, {num:,}", "" if exact is None else f"{exact:.2f}"])
        for cell, row in zip(log_probs, found, strict=True):
            covered = " and ".join(f"{100 * row[f'coverage_{level}']:.0f}" for level in (50, 90))
            lines[-1].append(f"{cell} ± {row['standard_error']:.2f}; {covered} %; {row['seconds']:.0f} s")
    return _markdown(["Simulator, simulations", "Exact", "PosteriorEstimator", "nsf", "maf"], lines)


def simulator_rounds():
    """C2ST of the posterior of the first observation, with 10,000 simulations at once or in ten rounds."""
    methods = ["tf_resflow", "tf_resflow_rounds", "sbi_nsf", "sbi_rounds"]
    rows = [row for row in _read("simulators") if row["num"] == 10_000 and row["seed"] == 0]
    found = {(row["task"], row["method"]): row["c2st"][0] for row in rows}
    lines = [
        [label, *_with_best([found[task, method] for method in methods], [True] * len(methods), min)]
        for task, label in _TASKS.items()
        if all((task, method) in found for method in methods)
    ]
    return _markdown(["Task", "At once", "Ten rounds", "nsf, at once", "nsf, ten rounds"], lines)


def _ours_first(tables, methods, found):
    """Returns the arguments with the columns of `FlowDensity` in front."""
    order = sorted(range(len(methods)), key=lambda place: methods[place] != "FlowDensity")
    return tables, [methods[place] for place in order], found[:, order]


def _means(rows, methods, key, form):
    """Formats the mean of each method."""
    return [format(np.mean([row[key] for row in rows if row["method"] == method]), form) for method in methods]


def _with_best(values, is_compared, best, digits=3):
    """Formats numbers, with the best of those to compare in bold."""
    cells = [f"{value:,.{digits}f}" for value in values]
    found = best(value for value, own in zip(values, is_compared, strict=True) if own)
    return [
        f"**{cell}**" if own and cell == f"{found:,.{digits}f}" else cell
        for cell, own in zip(cells, is_compared, strict=True)
    ]


def _pairs_of_fits():
    """Yields the rows of each table with cycles and without."""
    rows = _read("cycles")
    for name in dict.fromkeys(row["table"] for row in rows):
        yield [
            next(row for row in rows if (row["table"], row["cycles"]) == (name, cycles))
            for cycles in ("chosen", "none")
        ]


def cycles():
    """AUC of shifted times with cycles and without."""
    shifts = ["half a year", "three days", "six hours"]
    lines = []
    for chosen, none in _pairs_of_fits():
        cells = [
            f"{chosen['auc'][shift]:.3f} / {none['auc'][shift]:.3f}" if shift in none["auc"] else ""
            for shift in shifts
        ]
        nats = f"{chosen['nats']:.3f} / {none['nats']:.3f}"
        lines.append([chosen["table"], f"`{chosen['kind']}`", f"{chosen['rows']:,}", *cells, nats])
    return _markdown(["Table", "Kind", "Rows", *shifts, "Held-out nats"], lines)


def cycle_means():
    """Means of the months, weekdays or hours with the lowest and the highest mean, in data and in samples."""
    lines = []
    for chosen, none in _pairs_of_fits():
        data = chosen["means"]["data"]
        for extreme in (min, max):
            group = extreme(data, key=data.get)
            samples = [row["means"]["samples"][group] for row in (chosen, none)]
            unit = f"{chosen['unit']} {group}"
            if chosen["unit"] == "day_of_week":
                unit = calendar.day_name[int(group)]
            means = [f"{mean:,.0f}" if data[group] >= 1000 else f"{mean:.2f}" for mean in (data[group], *samples)]
            lines.append([chosen["table"], f"{chosen['column']}, {unit}", *means])
    return _markdown(["Table", "Mean of", "Data", "Samples, with cycles", "Samples, without"], lines)


def explain():
    """Times of explanations and scores."""
    columns = ["Table", "Columns", "Scores, ms per row", "`explain`, ms per row", "Ratio"]
    lines = [
        [
            row["table"],
            row["columns"],
            f"{row['score_milliseconds']:.2f}",
            f"{row['explain_milliseconds']:.1f}",
            f"{row['ratio']:.1f}",
        ]
        for row in _read("explain")
    ]
    return _markdown(columns, lines)


def thresholds():
    """Shares of clean rows and of rows with errors that `predict` flags, in percent."""
    columns = ["Table", "Rows", "Fits", "Clean rows", "Quantile", "Errors", "Quantile", "AUC", "Interval"]
    lines = []
    for row in _read("thresholds"):
        cells = [row["table"], f"{row['rows']:,}", row["fits"]]
        for field in ("clean", "clean_quantile", "errors", "errors_quantile"):
            mean, error, deviation = (100 * row[field + suffix] for suffix in ("", "_stderr", "_std"))
            is_clean = field.startswith("clean")
            cells.append(f"{mean:.2f} ± {error:.2f} ({deviation:.2f})" if is_clean else f"{mean:.0f} ± {error:.0f}")
        lines.append([*cells, f"{row['auc']:.3f}", f"{row['coverage']:.0%}".replace("%", " %")])
    return _markdown(columns, lines)


def fit_time():
    """Times, memory and log-densities of fits, for an earlier commit and a later one."""
    rows = _read("tables_time")
    lines = []
    for num in dict.fromkeys(row["rows"] for row in rows):
        later, earlier = (row for row in rows if row["rows"] == num)
        cells = [f"{num:,}", earlier["columns"]]
        for field, text in (("seconds", "{:.1f}"), ("memory", "{:,}"), ("held_out_nats", "{:.3f}")):
            cells.append(f"{text.format(earlier[field])} / {text.format(later[field])}")
        lines.append(cells)
    return _markdown(["Rows", "Columns", "Seconds", "Peak memory, MB", "Nats per column"], lines)


def scale():
    """Time and memory of fits to many tables, columns, rows and processes."""
    lines = []
    for row in _read("tables_scale"):
        if row.get("columns") == 100 or row.get("rows") == 10_000:
            continue  # small cases, to save lines of the page
        case, cells = row["case"], [f"{row.get('seconds', 0.0):.0f}", f"{row['memory']:,.0f}"]
        if case == "columns":
            label = "2,000 rows of {columns} columns"
            text = (
                "held-out mean {nats:.0f} nats; {normal_nats:.0f} with a normal distribution, {true_nats:.0f} with "
            )
            text += "the true one; `explain` takes {explain_seconds:.0f} s per row"
        elif case == "rows":
            label = "{rows:,} rows of 8 columns ({table:.1f} MB)"
            text = "columns {read_columns_seconds:.1f} s, training {train_seconds:.0f} s, scores of held-out rows "
            text += "{mixed_scores_seconds:.0f} s; later {mixed_per_second:,.0f} rows per second, or "
            text += "{numbers_per_second:,.0f} of four columns of numbers"
        elif case == "processes":
            label, cells[0] = "four folds of 1,000 rows in two processes", f"{row['loky_elapsed']:.0f}"
            text = "{sequential_elapsed:.0f} s in one; the scores differ by {loky_difference:.1g}"
        else:
            label = f"20 tables of {'6' if case == 'equal_columns' else '2 to 12'} columns, per fit"
            text = "{growth:.0f} MB more after the last fit than after the fifth"
        lines.append([label.format(**row), *cells, text.format(**row)])
    return _markdown(["Fits to", "Seconds", "Memory, MB", "Also"], lines)


_TABLES = {
    function.__name__: function
    for function in (
        scores,
        time_to_score,
        speed,
        memory,
        small_flows,
        splines,
        sets,
        anomalies,
        planted,
        synthesis,
        densities,
        cycles,
        cycle_means,
        explain,
        thresholds,
        fit_time,
        scale,
        simulators,
        simulator_seeds,
        simulator_densities,
        simulator_rounds,
    )
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
