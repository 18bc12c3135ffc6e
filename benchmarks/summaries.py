"""Figures and tables from the results of the benchmarks."""

import itertools

import numpy as np
import pandas
from scipy.stats import rankdata

SIDES = ("published", "published, our schedule", "here, same settings", "here, best_small")  # of time_to_score.py
# The scores to reach: those of a side after a number of steps.
TARGETS = [(SIDES[0], 300), (SIDES[0], 600), (SIDES[0], 1500), (SIDES[1], 2000)]


def figures(part, results):
    """Returns the figures of a part, by name, from what its script wrote."""
    return {
        "speed": _speed,
        "memory": _memory,
        "small_flows": _small_flows,
        "time_to_score": _time_to_score,
        "scores": _scores,
        "tables": _tables,
        "checkpoints": _checkpoints,
    }[part](results)


def _speed(results):
    """How many times as fast as the published code, by the width of a training step."""
    steps = {name: row["ratio"] for name, row in results.items() if name.startswith("train_step")}
    return {f"w{name.partition('_w')[2]}": ratio for name, ratio in steps.items()}


def _memory(results):
    """Peak memory of a training step in MB with 4 and 16 blocks, and of each further block."""
    return {
        f"{side}_{name.removeprefix('memory_')}": row[side]["megabytes"]["median"]
        for name, row in results.items()
        for side in ("ours", "published")
    }


def _small_flows(results):
    """The time of a step of the default flow, divided by that of RealNVP and of MAF."""
    times = {(row["flow"], row["dimensions"]): row["step_ms"] for row in results["times"]}
    sizes = dict.fromkeys(size for _, size in times)
    return {
        f"{peer}_{size}": times["residual", size] / times[peer, size]
        for peer in ("RealNVP", "MAF")
        for size in sizes
    }


def _time_to_score(results):
    """The scores to reach, and the seconds of each side until they are reached: means over seeds.

    Also the final score of each side and its number of steps: a mean over the seeds with the longest training.
    """
    found = {}
    for owner, stop in TARGETS:
        reached = times_to_score(results, "mnist_small", owner, stop)
        values = {"seeds": reached["num_seeds"], "score": reached["score"], **reached["seconds"]}
        found |= {f"{owner}_{stop}_{key}": value for key, value in values.items() if np.isfinite(value)}
    for side in SIDES:
        own = [row for row in results if (row["config"], row["side"]) == ("mnist_small", side)]
        steps = max(row["step"] for row in own)
        final = float(np.mean([row["bits_per_dim"] for row in own if row["step"] == steps]))
        found |= {f"{side}_steps": steps, f"{side}_final": final}
    return {key.replace(", ", "_").replace(" ", "_"): value for key, value in found.items()}


def _scores(results):
    """Means over seeds of the scores, their standard errors and processor minutes; the deviation over seeds."""
    found = {}
    for name in dict.fromkeys(row["model"] for row in results):
        own = [row for row in results if row["model"] == name]
        found[name] = float(np.mean([row["score"] for row in own]))
        found[f"{name}_stderr"] = float(np.mean([row["stderr"] for row in own]))
        found[f"{name}_seeds"] = len(own)
        if len(own) > 1:
            found[f"{name}_deviation"] = float(np.std([row["score"] for row in own], ddof=1))
        found[f"{name}_minutes"] = float(np.mean([row["processor_minutes"] for row in own]))
        baselines = own[0].get("baselines", {}) | {"entropy": own[0].get("entropy")}
        found |= {f"{name}_{key}": value for key, value in baselines.items() if value is not None}
    return found


def _tables(results):
    """The number of tables, and of each detector its mean AUC, the tables where it is behind, and its seconds."""
    names, methods, aucs = mean_aucs(results)
    ours = aucs[:, methods.index("FlowDensity")]
    found = {"num_tables": len(names)}
    for method, values in zip(methods, aucs.T, strict=True):
        seconds = [row["seconds"] for row in results if row["method"] == method]
        found |= {method: float(np.mean(values)), f"{method}_seconds": float(np.median(seconds))}
        found[f"{method}_behind"] = int(np.sum(values < ours))
    return found


def _checkpoints(results):
    """The number of checkpoints, and the largest relative difference of their bits/dim."""
    return {"num_checkpoints": len(results), "largest_difference": max(results.values())}


def curve(rows, side, seed):
    """Returns arrays of the steps, seconds and scores of a training."""
    own = [row for row in rows if (row["side"], row["seed"]) == (side, seed)]
    return [np.array([row[key] for row in own]) for key in ("step", "seconds", "bits_per_dim")]


def times_to_score(rows, config, owner, stop):
    """Returns how long each side trains until it has the score that the side `owner` has after `stop` steps.

    The result has the number of seeds, and means over the seeds: the score, and the seconds of each side (infinity
    if a seed did not reach the score). It is None if no training of `owner` has `stop` steps.
    """
    rows = [row for row in rows if row["config"] == config]
    sides = [side for side in SIDES if any(row["side"] == side for row in rows)]
    targets = {row["seed"]: row["bits_per_dim"] for row in rows if (row["side"], row["step"]) == (owner, stop)}
    if not targets:
        return None
    found = {side: [] for side in sides}
    for side, (seed, score) in itertools.product(sides, targets.items()):
        _, seconds, scores = curve(rows, side, seed)
        found[side].append(min(seconds[scores <= score], default=np.inf))
    return {
        "num_seeds": len(targets),
        "score": float(np.mean(list(targets.values()))),
        "seconds": {side: float(np.mean(seconds)) for side, seconds in found.items()},
    }


def time_to_score_table(rows, config, stops):
    """Returns a Markdown table of the seconds of each side until the scores of `stops`, (side, steps) pairs."""
    lines = []
    for owner, stop in stops:
        found = times_to_score(rows, config, owner, stop)
        if found is None:
            continue
        if not lines:
            lines = [
                f"| `{config}`: score of | seeds | bits/dim | {' | '.join(found['seconds'])} |",
                "|---" * (3 + len(found["seconds"])) + "|",
            ]
        own = found["seconds"][owner]
        cells = [
            f"{seconds:,.0f} s ({own / seconds:.1f} x)" if np.isfinite(seconds) else "not reached"
            for seconds in found["seconds"].values()
        ]
        lines.append(
            f"| {owner}, {stop:,} steps | {found['num_seeds']} | {found['score']:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def mean_aucs(rows):
    """Returns the names of tables and methods, and the means over seeds `[tables, methods]`."""
    table, mean = pandas.DataFrame(rows), lambda scores: np.mean(scores.to_numpy())
    found = table.pivot_table("score", "table", "method", aggfunc=mean, sort=False)
    return list(found.index), list(found.columns), found.to_numpy()


def auc_ranks(found):
    """Returns the mean rank of each method on tables with all results; 1 is best, and ties share a rank."""
    complete = found[~np.isnan(found).any(axis=1)]
    return rankdata(-complete.round(4), axis=1).mean(axis=0)
