"""The additive coupling of NICE."""

import tensorflow as tf

from tf_resflow.bijectors.coupling import Coupling

__all__ = ["AdditiveCoupling"]


class AdditiveCoupling(Coupling):
    r"""`y_a = x_a`, `y_b = x_b + t(x_a)` for the two parts a and b of an event: it keeps volumes.

    The network gives t, one value for each element of b. See `Coupling` for the parts and the arguments.

    ```python
    import keras
    import tensorflow as tf
    import tf_resflow as resflow
    network = resflow.flows.dense_coupling_network([3], hidden=(8,), num_parameters=1)
    coupling = resflow.bijectors.AdditiveCoupling(network)
    print(coupling.forward_log_det_jacobian(tf.ones([2, 3]), event_ndims=1).numpy())
    # [0. 0.]
    ```

    References:
      Dinh et al., NICE, 2015, Section 3.
    """

    _default_name = "additive_coupling"
    num_parameters = 1

    def _shift_and_log_scale(self, output):
        return output, tf.zeros_like(output)
