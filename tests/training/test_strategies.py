"""Tests of the choice of a distribution strategy."""

import tensorflow as tf

from tf_resflow.training.strategies import STRATEGIES


def test_strategies_of_one_worker_and_of_wrong_clusters(monkeypatch, refused):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert STRATEGIES["auto"]() is tf.distribute.get_strategy()
    refused("needs the environment variable", STRATEGIES["multiworker"])
    for content in ("{", '{"cluster": []}'):
        monkeypatch.setenv("TF_CONFIG", content)
        refused("TF_CONFIG is .*, which is not a cluster: ", STRATEGIES["multiworker"])
