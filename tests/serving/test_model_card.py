import pathlib

import pytest

import tf_resflow as resflow
from tf_resflow.models import DataInfo
from tf_resflow.serving.model_card import model_card


@pytest.mark.parametrize(
    "kind, path, name",
    [("tabular", "a/wine quality.csv", "wine quality.csv"), ("images", "a/my photographs/", "my photographs")],
)
def test_the_card_names_the_file_of_the_data(vector_model, kind, path, name):
    config = resflow.training.default_config()
    config.data.update(name=kind, path=path)
    data = DataInfo(name, (3,), None, None, None)
    run = resflow.training.Run(vector_model, config, 5, pathlib.Path("run"), data)
    card = model_card(vector_model, {"signatures": {}}, run)
    assert card.startswith(f"# Model card: residual flow of {name}\n")
    assert f"Trained on the train split of {name}; evaluated on" in card and "tabular" not in card
