"""The learning curves of runs in one figure."""

__all__ = ["learning_curves"]


def learning_curves(path, runs, key, ylabel=None):
    """Draws, over the steps, a held-out score of each run, and beside it what its training reported.

    The reported score is that of the estimator that trains. Where its gap to the held-out score is not one of data,
    it is the bias of that estimator: a truncated series reports what the model has not (see
    `tf_resflow.logdet.PowerSeries`).

    Args:
      path: image file to write.
      runs: dict of name to the lines of metrics.jsonl, see `tf_resflow.training.read_metrics`.
      key: name of the score, such as "bits_per_dim", "nats" or "accuracy".
      ylabel: of the axis; the key by default.

    Raises:
      ValueError: when a run has no such score.
    """
    from matplotlib import figure

    fig = figure.Figure(figsize=(7.5, 4), layout="constrained")
    axes = fig.subplots()
    for index, (name, lines) in enumerate(runs.items()):
        color = f"C{index}"
        for is_train, style, single in ((True, ":", "x"), (False, "-", "o")):
            points = _points(lines, key, is_train)
            if not is_train and not points:
                known = ", ".join(sorted({k for line in lines for k in line} - {"step", "split"})) or "none"
                raise ValueError(f"The run {name!r} has no held-out {key!r}; its metrics are {known}.")
            label, marker = None if is_train else name, single if len(points) == 1 else None
            points = zip(*points, strict=True) if points else ((), ())
            axes.plot(*points, style, color=color, label=label, marker=marker)
    axes.plot([], [], "k:", label="reported by the training")
    axes.plot([], [], "k-", label="held out")
    axes.set(xlabel="step", ylabel=ylabel or key)
    axes.grid(alpha=0.3)
    axes.legend()
    fig.savefig(path, dpi=110)


def _points(lines, key, is_train):
    return [
        (line["step"], line[key])
        for line in lines
        if (line["split"] == "train") == is_train and line.get(key) is not None
    ]
