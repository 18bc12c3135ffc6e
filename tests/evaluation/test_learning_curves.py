import pytest

from tf_resflow import evaluation

LINES = [
    {"step": 1, "split": "train", "nats": 3.0},
    {"step": 2, "split": "train", "nats": None},
    {"step": 2, "split": "test", "nats": 2.5, "num_examples": 7},
]


def test_a_figure(tmp_path):
    path = tmp_path / "curves.png"
    evaluation.learning_curves(path, {"one": LINES, "untrained": LINES[2:]}, "nats")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_a_score_that_a_run_has_not(tmp_path):
    path = tmp_path / "curves.png"
    with pytest.raises(ValueError, match="The run 'one' has no held-out 'accuracy'; its metrics are nats, num_ex"):
        evaluation.learning_curves(path, {"one": LINES}, "accuracy")
    assert not path.exists()
