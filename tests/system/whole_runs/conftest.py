import numpy as np

from tests.training.conftest import few_points, image_config, set_step, train, train_without_steps  # noqa: F401


def pairs(dataset, split, num=None):
    """The examples of a split, and their conditions."""
    batches = dataset.eval_batches(split, 20, num, labels=True)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def regression_nats(train_x, train_c, x, c):
    """Minus the mean log-density of x given c by a Gaussian around the linear regression of the training rows."""
    design, of_x = (np.insert(np.float64(part), 0, 1.0, axis=1) for part in (train_c, c))
    slopes = np.linalg.lstsq(design, train_x, rcond=None)[0]
    covariance, error = np.cov((train_x - design @ slopes).T, bias=True), x - of_x @ slopes
    squares = np.sum(error @ np.linalg.inv(covariance) * error, axis=1).mean()
    return 0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])
