"""Triangular affine map whose parameters are functions of a condition."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow.bijectors.base import Context, Pass
from tf_resflow.bijectors.networks import from_rows, network_shapes
from tf_resflow.bijectors.parametrized import NetworkBijector


class ConditionalAffine(NetworkBijector):
    r"""Affine map of vectors x given a condition c: `y = L(c) x + t(c)`, with a lower triangular matrix L.

    \\(\log|\det J| = \sum_i l_i(c)\\), where \\(\exp(l_i(c))\\) is the diagonal of L. With a normal base, the
    density is Gaussian, and its mean and covariance are functions of c. The inverse is as cheap as the forward
    pass. `forward` maps data to latent, unlike in distrax and FlowJAX.

    For events of D coordinates, the network returns t (D values) and L (D (D + 1) / 2 values in the order of
    `tfp.math.fill_triangular`), concatenated along the last axis. The diagonal of L is given by its logarithm l.

    ```python
    import keras
    import tensorflow as tf
    import tf_resflow as resflow
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(5)])  # 2 + 2 * 3 / 2
    affine = resflow.bijectors.ConditionalAffine(network)
    print(affine.forward(tf.ones([4, 2]), condition=tf.ones([4, 3])).shape)
    # (4, 2)
    ```

    Args:
      network: built Keras layer or model that maps a condition `[condition_size]` to `[D (D + 3) / 2]`.
    """

    _why_unbounded = "The matrix of a conditional affine map is a function of the condition"

    def __init__(self, network: keras.Layer, *, name: str = "conditional_affine") -> None:
        parameters = dict(locals())
        (condition, *others), output = network_shapes(network)
        sizes = {size * (size + 3) // 2: size for size in range(1, 1 + output[-1])}
        if others or len(condition) != 1 or len(output) != 1 or output[0] not in sizes:
            raise ValueError(
                f"The network maps {condition} to {output}. For D coordinates, it must map a vector to "
                "D (D + 3) / 2 values: 2 for one coordinate, 5 for two, 9 for three. Change the size of its output."
            )
        self._size = sizes[output[0]]
        self._event_shape = tf.TensorShape([self._size])
        super().__init__(network, [condition], parameters=parameters, name=name)

    def forward_pass(self, x: tf.Tensor, context: Context) -> Pass:
        x, batch_shape, shift, matrix, log_det = self._evaluate(x, context)
        y = tf.linalg.matvec(matrix, x) + shift
        return Pass(from_rows(y, batch_shape), from_rows(log_det, batch_shape))

    def inverse_pass(self, y: tf.Tensor, context: Context) -> Pass:
        y, batch_shape, shift, matrix, log_det = self._evaluate(y, context)
        x = tf.squeeze(tf.linalg.triangular_solve(matrix, (y - shift)[..., tf.newaxis]), -1)
        return Pass(from_rows(x, batch_shape), from_rows(-log_det, batch_shape))

    def _evaluate(self, x, context):
        network, condition = self._network_and_condition(context)
        x, condition, batch_shape = self._to_rows(x, condition)
        output = tf.cast(network(condition), x.dtype)
        matrix = tfp.math.fill_triangular(output[:, self._size :])
        diagonal = tf.eye(self._size, dtype=x.dtype)  # XLA supports its gradients for any batch size
        log_scale = tf.reduce_sum(matrix * diagonal, axis=-1)
        matrix = (1 - diagonal) * matrix + diagonal * tf.exp(log_scale)[:, tf.newaxis]
        return x, batch_shape, output[:, : self._size], matrix, tf.reduce_sum(log_scale, axis=-1)
