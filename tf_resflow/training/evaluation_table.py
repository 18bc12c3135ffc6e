"""The metrics of an evaluation: their names, and its result as a table for the screen."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["METRICS", "check_metrics", "table"]

METRICS = ("likelihood", "noise", "reconstruction", "lipschitz", "importance_weighted", "fid", "classification")
"""Names of the metrics, each a method of `Evaluation`."""

_WIDTH = 24  # of the column of names


def check_metrics(names: Sequence[str]) -> None:
    """Checks the names of metrics.

    Args:
      names: a list of `str`.

    Raises:
      ValueError: for an empty list or an unknown name.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"Unknown metrics {unknown}: choose some of {', '.join(METRICS)}, separated by commas.")


def table(result: Mapping[str, Any]) -> str:
    """Lays out the result of `Evaluation`, without the constants of single layers and blocks.

    Args:
      result: a dict of the header and of some of the metrics.

    Returns:
      A string of several lines.
    """
    probes = f", {result['num_probes']} probes" if result.get("num_probes", 1) > 1 else ""
    noise = f", {result['dequantization']} dequantization" if "dequantization" in result else ""
    lines = [
        f"{result['name']} ({result['split']}), {result['step']:,} training steps, "
        f"log-determinants: {result['log_det']}{probes}{noise}"
    ]
    unit = result["unit"]
    if "plan" in result:
        lines += _plan(result["plan"])
    if "accuracy" in result:
        lines += _classification(result)
    if unit in result:
        lines += _likelihood(result, unit)
    for name, rows in _ROWS.items():
        if name in result:
            lines += rows(result[name], unit)
    return "\n".join(lines)


def _row(name, *cells):
    return f"{name:{_WIDTH}}" + "  ".join(cells)


def _plan(plan):
    kinds = collections.Counter(
        f"{block['type']}, probes: {block['num_probes']}" if "num_probes" in block else block["type"]
        for block in plan["blocks"].values()
    )
    yield _row("samples of an example", f"{plan['num_samples']:,}")
    yield _row(
        "  its standard error", f"{plan['expected_stderr']:.3g} nats, {plan['log_det_stderr']:.3g} by blocks"
    )
    for kind, num in kinds.items():
        yield _row(f"  {num} blocks", kind)


def _classification(result):
    accuracy, stderr = result["accuracy"], result["accuracy_stderr"]
    yield _row("accuracy", f"{accuracy:.2%} ± {stderr:.2%}  ({result['num_examples']:,} examples)")
    yield _row("  cross entropy", f"{result['cross_entropy']:.4f}")
    yield _row("  calibration error", f"{result['calibration_error']:.4f}")


def _likelihood(result, unit):
    parts = result[f"{unit}_stderr_parts"].items()
    baselines = dict(result["baselines"])
    if "entropy" in result:
        baselines["entropy of the data"] = result["entropy"]
    bound = ["evidence lower bound"] if result["bound"] == "elbo" else []
    yield _row(_named(unit), _score(result, unit), *bound)
    yield _row("  its standard error", ", ".join(f"{name} {value:.4f}" for name, value in parts))
    if "example_stderr" in result:
        yield _row("  of each example", f"± {result['example_stderr']:.4g}, measured")
    yield _row("  baselines", ", ".join(f"{name} {value:.3f}" for name, value in baselines.items()) or "none")


def _score(result, unit):
    mean, stderr = result[unit], result[f"{unit}_stderr"]
    return f"{mean:.4f} ± {stderr:.4f}  ({result['num_examples']:,} examples)"


def _named(unit):
    return unit.replace("_per_", "/")


def _importance_weighted(result, unit):
    samples = f"{result['num_samples']} samples each"
    yield _row("importance-weighted", _score(result, unit), samples)
    bias = f"lower by up to about {abs(result['estimator_bias']):.4f} for the log-determinants' noise"
    yield _row("  its bias", bias)


def _noise(result, unit):
    yield _row("noise of one example", "dequantization  estimator  excess kurtosis")
    for use, noise in result.items():
        std, estimator, kurtosis = (noise[k] for k in list(noise)[1:])
        kurtosis = "not defined" if math.isnan(kurtosis) else f"{kurtosis:.1f}"
        kurtosis = kurtosis if estimator else "no noise"
        yield _row(f"  {use}", f"{std:14.4f}  {estimator:9.4f}  {kurtosis:>15}")


def _reconstruction(result, unit):
    levels = ""
    if result["max_levels"] is not None:
        levels = f" = {result['max_levels']:.1e} levels; {result['exact_examples']:.1%} are recovered exactly"
    yield _row("reconstruction error", f"at most {result['max_error']:.1e}{levels}")
    if not result["num_solves"]:
        return
    solves = (
        f"{result['mean_iterations']:.1f} evaluations, at most {result['max_iterations']}; "
        f"{result['unconverged']:,} of {result['num_solves']:,} did not converge; "
        f"residual at most {result['max_residual']:.1e}"
    )
    yield _row("  a block's inverse", solves)


def _lipschitz(result, unit):
    yield _row("Lipschitz constant", "nominal     certified")
    blocks = result["blocks"]
    worst = sorted(blocks, key=lambda name: blocks[name]["certified"])[-1:]
    rows = {f"  {name} of {len(blocks)}": blocks[name] for name in worst}
    rows |= {"  flow": result["flow"], "  its inverse": result["inverse"]}
    for name, bounds in rows.items():
        certified = "not certified" if "reason" in bounds else f"{bounds['certified']:.5g}"
        yield _row(name, f"{bounds['nominal']:<10.5g}", certified)
        if "reason" in bounds:
            yield _row("", bounds["reason"])


def _ood(result, unit):
    yield _row(f"against {result['name']}", f"{result['num_examples']:,} examples; area under the ROC curve of")
    for view, name in (("log_prob", "log p(x)"), ("max_probability", "largest probability")):
        if f"auroc_{view}" in result:
            yield _row(f"  {name}", f"{result[f'auroc_{view}']:.4f}")


def _fid(result, unit):
    sizes = f"({result['num_samples']:,} samples, {result['num_train']:,} train images)"
    yield _row("Fréchet distance", f"{result['fid']:.4f}  {sizes}")


_ROWS = {
    "importance_weighted": _importance_weighted,
    "noise": _noise,
    "reconstruction": _reconstruction,
    "lipschitz": _lipschitz,
    "fid": _fid,
    "ood": _ood,
}
