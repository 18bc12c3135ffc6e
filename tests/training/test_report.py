import numpy as np

import tf_resflow as resflow
from tf_resflow.training import loop
from tf_resflow.training.report import Report


def test_dependent_columns_have_no_gaussian_baseline(tmp_path, make_config, train, monkeypatch, said):
    """The last column is the sum of the others. The warning comes before the first step."""
    rows = np.random.default_rng(0).normal(size=[200, 3])
    rows[:, -1] = rows[:, :-1].sum(axis=1)
    np.save(tmp_path / "table.npy", rows)
    monkeypatch.setattr(loop, "_compiled_step", lambda *_: said.append("steps") or (lambda *_: {"nats": 0.0}))
    fields = {"data__name": "tabular", "data__path": str(tmp_path / "table.npy"), "data__test_fraction": 0.25}
    config = make_config(**fields, data__validation_fraction=0.0, train__batch_size=4)
    scores = {"nats": 1.0, "nats_stderr": 0.5, "num_examples": 2}
    monkeypatch.setattr(Report, "scores", lambda report, split=None: scores)
    result = train(config, tmp_path / "run")
    assert "linearly dependent: 1, 2, 3." in said[0] and "There is no Gaussian baseline" in said[1]
    assert said[2:] == ["steps"]
    assert result["figures"] == ["pairs.png"] and result["baselines"] == {}
    assert result["line"].endswith("steps (no baseline)")


def test_fewer_images_than_pixels_have_no_gaussian_baseline(make_config, said):
    """In most directions, the covariance would be only that of the dequantization noise."""
    flow = resflow.flows.image_flow((4, 4, 1), num_blocks=(1,), width=4, kernels=(3, 1), num_fc_blocks=0)
    model = resflow.FlowModel(flow, (4, 4, 1), levels=17)
    images = np.random.default_rng(0).integers(0, 17, size=[40, 4, 4, 1])
    for num, names in ((16, ["uniform"]), (17, ["uniform", "gaussian"])):
        dataset = resflow.data.Dataset.from_arrays("few", {"train": images[:num], "test": images[20:]}, 17)
        assert list(Report(make_config(), model, dataset).baselines) == names
    assert said == ["There is no Gaussian baseline, because it needs more than 16 training images; got 16."]
