"""Which strategy a machine gets."""

import pytest
import tensorflow as tf

from tf_resflow.training.strategies import STRATEGIES


def test_auto_is_one_device_on_a_machine_with_one(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert STRATEGIES["auto"]() is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "needs the environment variable"),
        ("{", "no JSON object"),
        ('{"cluster": []}', "no JSON object"),
        ('{"cluster": {"worker": "host0:2222"}}', "no JSON object with a cluster of lists"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "TF_CONFIG is not right: .*task_type.* It is "),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 5}}',
            "TF_CONFIG is not right: .*task_id. 5 exceeds",
        ),
    ],
)
def test_a_config_of_the_cluster_that_is_not_right(monkeypatch, content, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content:
        monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(ValueError, match=message):
        STRATEGIES["multiworker"]()


def test_no_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(ValueError, match="No TPU was found: .*TPU_NAME"):
        STRATEGIES["tpu"]()
