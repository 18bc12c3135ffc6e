"""How noisy the training estimator of the log-determinant is."""

import numpy as np
import tensorflow as tf

from tf_resflow.data import dequantize

__all__ = ["EstimatorNoise"]


class EstimatorNoise:
    r"""Measures the standard deviation of a model's training estimate of an example's loss.

    The estimate is drawn again and again for the same examples with the same dequantisation, so
    that nothing but the number of terms and the probes differ. The variance of Russian roulette is
    finite only if the spectral radius of the branches allows it; one that grows during training,
    or jumps, asks for more exact terms or another distribution of their number.

    Args:
      model: a `FlowModel`.
      draws: number of estimates for each example.
    """

    def __init__(self, model, draws=8):
        self._model, self._draws = model, draws

        @tf.function(autograph=False)
        def log_prob(x, seed):
            return model.distribution.log_prob(tf.identity(x), bijector_kwargs={"seed": seed})

        self._log_prob = log_prob

    def __call__(self, x, seed):
        """Returns the root mean square, over the examples, of each one's standard deviation.

        Args:
          x: `[batch, *event_shape]`, data as the model takes it.
          seed: integer.

        Returns:
          A float: bits/dim for integer data, else nats.
        """
        model = self._model
        if model.levels is not None:
            x = dequantize(x, model.levels, tf.constant([seed, 0], tf.int32))
        seeds = [tf.constant([seed, 1 + draw], tf.int32) for draw in range(self._draws)]
        estimates = np.stack([self._log_prob(x, s).numpy() for s in seeds]).astype(np.float64)
        std = float(np.sqrt(np.mean(np.var(estimates, axis=0, ddof=1))))
        return std if model.levels is None else std / (model.num_dimensions * np.log(2.0))
