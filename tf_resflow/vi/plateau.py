"""A convergence criterion for `tfp.vi` that accounts for the noise of the ELBO."""

import functools
import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp


class _State(NamedTuple):
    step: tf.Tensor  # number of losses in the current window
    mean: tf.Tensor  # mean of these losses
    squares: tf.Tensor  # sum of their squared deviations from the mean
    mean_before: tf.Tensor  # mean of the previous window, or infinity if there is none
    variance_before: tf.Tensor  # variance of `mean_before`
    drops: tf.Tensor  # number of times that the learning rate was lowered


class Plateau(tfp.optimizer.convergence_criteria.ConvergenceCriterion):
    r"""Lowers the learning rate when the ELBO stops rising, and ends the fit when this no longer helps.

    Let m and s^2 be the mean and variance of the losses in a window of `window` steps, and m' and s'^2 those in the
    previous window. The loss is level if m is not below m' by more than the standard error of the difference:

    \\(m' - m \le \sqrt{(s'^2 + s^2) / \mathrm{window}}.\\)

    When the loss is level, the learning rate is multiplied by `factor`. After `num_drops` drops, the fit ends the
    next time the loss is level; `num_steps` is only a limit. `tfp.vi.fit_surrogate_posterior` then repeats the last
    loss. The optimizer keeps the lowered rate, so use a new optimizer for the next fit.

    ```python
    import keras, tensorflow as tf, tensorflow_probability as tfp, tf_resflow as resflow
    tfd = tfp.distributions
    surrogate = tfd.Normal(tf.Variable(0.0), tfp.util.TransformedVariable(1.0, tfp.bijectors.Exp()))
    optimizer = keras.optimizers.Adam(0.1)
    criterion = resflow.vi.Plateau(optimizer, window=50)
    losses = tfp.vi.fit_surrogate_posterior(
        tfd.Normal(1.0, 0.5).log_prob, surrogate, optimizer, num_steps=2000,
        convergence_criterion=criterion, sample_size=16, seed=1, jit_compile=True)
    print(f"{surrogate.loc.numpy():.1f} {surrogate.stddev():.1f}", bool(losses[-1] == losses[-100]))
    # 1.0 0.5 True
    ```

    Args:
      optimizer: The Keras optimizer of the fit, with a constant learning rate. Use it for one posterior only.
      window: Number of steps whose losses are averaged, at least 2.
      factor: Factor of the learning rate, between 0 and 1.
      num_drops: Number of times that the learning rate is lowered.
    """

    def __init__(self, optimizer: keras.Optimizer, *, window: int = 500, factor: float = 0.1, num_drops: int = 2):
        self._optimizer = optimizer
        self._window = window
        self._factor = factor
        self._num_drops = num_drops
        super().__init__(min_num_steps=2 * window, name="plateau")

    def _bootstrap(self, loss: tf.Tensor, grads: Any, parameters: Any) -> _State:
        none = tf.constant(0)
        zero = tf.zeros_like(loss)
        return _State(none, zero, zero, zero + math.inf, zero, none)

    def _one_step(
        self, step: tf.Tensor, loss: tf.Tensor, grads: Any, parameters: Any, auxiliary_state: _State
    ) -> tuple[tf.Tensor, _State]:
        state = auxiliary_state
        window = self._window
        num = state.step + 1
        change = loss - state.mean
        mean = state.mean + change / tf.cast(num, loss.dtype)
        squares = state.squares + change * (loss - mean)
        variance = squares / ((window - 1) * window)
        ends = num == window
        # Grappler replaces "not greater" by "less or equal", which is false for NaN.
        falls = tf.math.is_finite(mean) & (state.mean_before - mean > tf.sqrt(state.variance_before + variance))
        is_level = ends & ~falls  # also if the loss is NaN
        has_converged = is_level & (state.drops == self._num_drops)
        drops = is_level & ~has_converged
        rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        self._optimizer.learning_rate = tf.where(drops, self._factor * rate, rate)
        zero = tf.zeros_like(loss)
        mean_before = tf.where(is_level, zero + math.inf, mean)
        num_drops = state.drops + tf.cast(drops, tf.int32)
        inside = state._replace(step=num, mean=mean, squares=squares)
        after = _State(tf.constant(0), zero, zero, mean_before, variance, num_drops)
        return has_converged, tf.nest.map_structure(functools.partial(tf.where, ends), after, inside)
