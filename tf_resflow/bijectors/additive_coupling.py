"""The additive coupling of NICE."""

import tensorflow as tf

from tf_resflow.bijectors.base import LipschitzConstants
from tf_resflow.bijectors.coupling import Coupling
from tf_resflow.bijectors.networks import bounded_norm
from tf_resflow.layers import lipschitz_constant

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

    def lipschitz_constants(self, certified=False, *, bound=lipschitz_constant):
        r"""1 + L in both directions, with L the Lipschitz constant of t, if its layers are of known constants.

        In an l^p norm a part of a vector is no longer than the whole, so that
        \\(\|y - y'\| \le \|x - x'\| + \|t(x_a) - t(x_a')\| \le (1 + L) \|x - x'\|\\). The inverse subtracts
        \\(t(y_a)\\), of the same constant.
        """
        order, reason = bounded_norm(self.network)
        if reason:
            return LipschitzConstants(reason=reason)
        constant = 1.0 + float(bound(self.network, certified=certified))
        return LipschitzConstants(constant, constant, order)

    def _shift_and_log_scale(self, output):
        return output, tf.zeros_like(output)
