import tf_resflow as resflow
from tf_resflow.serving.model_card import model_card


def test_the_card_of_a_table_names_its_file(vector_model, monkeypatch):
    config = resflow.training.default_config()
    config.data.name, config.data.path = "tabular", "somewhere/wine quality.csv"
    monkeypatch.setattr(vector_model, "config", config, raising=False)
    monkeypatch.setattr(vector_model, "step", 5, raising=False)
    card = model_card(vector_model, resflow.serving.Signatures(vector_model))
    assert card.startswith("# Model card: residual flow of wine quality.csv\n")
    assert "Trained on the train split of wine quality.csv; evaluated on" in card and "tabular" not in card
