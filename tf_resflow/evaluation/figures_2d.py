"""A two-dimensional density beside its data and its samples."""

import numpy as np

__all__ = ["density_figure"]


def density_figure(path, data, samples, log_prob, title="", resolution=150, batch=4500):
    """Draws three panels on the same axes: data, the model's density, the model's samples.

    Args:
      path: image file to write.
      data: array `[num, 2]`.
      samples: array `[num, 2]`.
      log_prob: function of a float32 array `[batch, 2]`, to log-densities `[batch]` in nats.
      title: text above the density.
      resolution: points of the density's grid along each axis.
      batch: points evaluated at a time.
    """
    from matplotlib import figure

    extent = _extent(data)
    density = np.exp(_on_grid(log_prob, extent, resolution, batch))
    fig = figure.Figure(figsize=(12, 4.2), layout="constrained")
    left, middle, right = fig.subplots(1, 3)
    bins = [np.linspace(*extent[:2], resolution), np.linspace(*extent[2:], resolution)]
    for axes, points, label in ((left, data, "data"), (right, samples, "samples")):
        axes.hist2d(points[:, 0], points[:, 1], bins=bins, cmap="viridis")
        axes.set_title(f"{label} ({len(points):,})")
    middle.imshow(density, extent=extent, origin="lower", cmap="viridis", aspect="auto")
    middle.set_title(title or "model density")
    for axes in (left, middle, right):
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
    fig.savefig(path, dpi=110, bbox_inches="tight")


def _extent(data, margin=0.1):
    low, high = np.min(data, axis=0), np.max(data, axis=0)
    pad = margin * (high - low)
    (left, bottom), (right, top) = low - pad, high + pad
    return [float(left), float(right), float(bottom), float(top)]


def _on_grid(log_prob, extent, resolution, batch):
    """Log-densities at the centres of the cells, `[row, column]` with rows from the bottom."""
    left, right, bottom, top = extent
    centres = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(left + (right - left) * centres, bottom + (top - bottom) * centres)
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    parts = [np.asarray(log_prob(points[i : i + batch])) for i in range(0, len(points), batch)]
    return np.concatenate(parts).reshape(resolution, resolution)
