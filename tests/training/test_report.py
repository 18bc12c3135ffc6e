import numpy as np
import pytest
from scipy import stats

import tf_resflow as resflow
from tf_resflow.training.report import Report


def test_the_gaussian_baseline_of_vectors(make_config):
    model = resflow.FlowModel(resflow.flows.vector_flow(3, 1, (4,)), [3])
    train = np.random.default_rng(0).normal(size=[200, 3]).astype(np.float32)
    dataset = resflow.data.Dataset.from_arrays("rows", {"train": train, "test": train[:70]})
    expected = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True)).logpdf(train[:70]).mean()
    assert Report(make_config(), model, dataset).baselines == {"gaussian": pytest.approx(-expected, rel=1e-5)}


def test_fewer_images_than_pixels_have_no_gaussian_baseline(make_config, said):
    """In most directions, the covariance would be only that of the dequantization noise."""
    flow = resflow.flows.image_flow((4, 4, 1), num_blocks=(1,), width=4, kernels=(3, 1), num_fc_blocks=0)
    model = resflow.FlowModel(flow, (4, 4, 1), levels=17)
    images = np.random.default_rng(0).integers(0, 17, size=[40, 4, 4, 1])
    for num, names in ((16, ["uniform"]), (17, ["uniform", "gaussian"])):
        dataset = resflow.data.Dataset.from_arrays("few", {"train": images[:num], "test": images[20:]}, 17)
        assert list(Report(make_config(), model, dataset).baselines) == names
    assert said == ["There is no Gaussian baseline, because it needs more than 16 training images; got 16."]
