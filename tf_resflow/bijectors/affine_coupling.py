"""The affine coupling of Real NVP, with the bounded scale of Glow."""

import tensorflow as tf

from tf_resflow.bijectors.base import LipschitzConstants
from tf_resflow.bijectors.coupling import Coupling

__all__ = ["AffineCoupling"]


class AffineCoupling(Coupling):
    r"""`y_a = x_a`, `y_b = sigmoid(r(x_a) + 2) x_b + t(x_a)` for the two parts a and b of an event.

    \\(\log|\det J| = \sum_i \log \mathrm{sigmoid}(r_i(x_a) + 2)\\). The network gives `[t, r]`, joined along the
    last axis: two values for each element of b. Where r = 0 the scale is 0.88. See `Coupling` for the parts and
    the arguments.

    ```python
    import tensorflow as tf
    import tf_resflow as resflow
    network = resflow.flows.coupling_network((4, 4, 6), width=8)
    coupling = resflow.bijectors.AffineCoupling(network)
    print(network.input_shape, network.output_shape, coupling.forward(tf.zeros([2, 4, 4, 6])).shape)
    # (None, 4, 4, 3) (None, 4, 4, 6) (2, 4, 4, 6)
    ```

    References:
      Dinh et al., Density estimation using Real NVP, 2017, Section 3.
      Kingma and Dhariwal, Glow, 2018, Section 3.3 (the scale is that of its code, and of the published code of
        Residual Flows).
    """

    _default_name = "affine_coupling"
    num_parameters = 2

    def lipschitz_constants(self, certified=False, *, bound=None):
        """Infinite in both directions."""
        return LipschitzConstants(
            reason="An affine coupling scales b by a function of a: its slope in a grows with b, without bound"
        )

    def _shift_and_log_scale(self, output):
        shift, logits = tf.split(output, 2, axis=-1)
        return shift, tf.math.log_sigmoid(logits + 2)
