import numpy as np

import tf_resflow as resflow
from tf_resflow.evaluation import lipschitz_bounds


def test_a_flow_of_couplings_has_no_bounds():
    flow = resflow.flows.image_flow((4, 4, 1), (1,), 2, (1,), 0, block="affine_coupling")
    assert lipschitz_bounds(flow) == {}


def test_bounds_are_above_the_product_of_the_norms():
    """Without activation the branch is W2 W1; each bound is the product of the clipped norms."""
    flow = resflow.flows.vector_flow(
        3, num_blocks=2, hidden=(5,), activation="relu", coefficient=0.8
    )
    for layer in resflow.layers.lipschitz_layers(flow):
        layer.kernel.assign(3.0 * layer.kernel)
    resflow.layers.update_norms(flow, tolerance=1e-6, max_iterations=500)
    bounds = lipschitz_bounds(flow)
    assert list(bounds) == ["block0", "block1"]
    blocks = {module.name: module for module in flow.submodules if module.name in bounds}
    for name, bound in bounds.items():
        kernels = [layer.kernel.numpy() for layer in resflow.layers.lipschitz_layers(blocks[name])]
        norms = [np.linalg.svd(kernel, compute_uv=False)[0] for kernel in kernels]
        product = np.prod(np.minimum(norms, 0.8))
        assert product * (1 - 1e-6) < bound < product * 1.05
