import pytest

import tf_resflow as resflow
from tf_resflow.serving.model_card import model_card


@pytest.mark.parametrize(
    "kind, path, name",
    [("tabular", "a/wine quality.csv", "wine quality.csv"), ("images", "a/my photographs/", "my photographs")],
)
def test_the_card_names_the_file_of_the_data(vector_model, monkeypatch, kind, path, name):
    config = resflow.training.default_config()
    config.data.name, config.data.path = kind, path
    monkeypatch.setattr(vector_model, "config", config, raising=False)
    monkeypatch.setattr(vector_model, "step", 5, raising=False)
    card = model_card(vector_model, resflow.serving.Signatures(vector_model))
    assert card.startswith(f"# Model card: residual flow of {name}\n")
    assert f"Trained on the train split of {name}; evaluated on" in card and "tabular" not in card
