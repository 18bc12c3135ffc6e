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
        ("{", "is not right: Expecting property name"),
        ('{"cluster": []}', "is not right: "),
    ],
)
def test_a_config_of_the_cluster_that_is_not_right(monkeypatch, content, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content:
        monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(ValueError, match=message):
        STRATEGIES["multiworker"]()
