"""Measures this package; compare_speed.py and time_to_score.py start it in a separate process."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time

import keras
import numpy as np
import tensorflow as tf
from workers import serve, train_for

import tf_resflow as resflow
from tf_resflow.training.checkpoints import make_optimizer
from tf_resflow.training.loop import initial_batch


def _initialized(case):
    """Returns a compiled model with initialized ActNorms, and the batch."""
    estimator = resflow.logdet.PowerSeries(case.num_exact_terms + case.num_extra_terms)
    block = resflow.flows.residual_image_block(log_det_estimator=estimator)
    options = {"num_fc_blocks": 0, "block": block, "logit_alpha": 1e-6}
    flow = resflow.flows.image_flow(case.shape, (case.num_blocks,), case.width, **options)
    model = resflow.FlowModel(flow, case.shape, levels=256, evaluation_log_det_estimator=estimator)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    x = tf.constant(case.batch(), tf.uint8)
    model.initialize(x)
    return model, x


def _timed(function):
    """Returns a function that measures the seconds until the result of `function(seed)` is there."""
    function = tf.function(function, autograph=False)

    def run():
        seed = tf.constant(np.random.randint(0, 2**31 - 1, 2), tf.int32)
        start = time.perf_counter()
        function(seed).numpy()
        return {"seconds": time.perf_counter() - start}

    return run


def _train_step(case):
    model, x = _initialized(case)
    return _timed(lambda seed: resflow.models.train_step(model, x, seed)[model.objective])


def _evaluation(case):
    model, x = _initialized(case)
    return _timed(lambda seed: model.example_losses(x, seed)[model.objective])


def _learning(settings):
    """Trains a model for a turn, and scores its weights (not their average) on the test images."""
    config = resflow.training.default_config().unlock()
    config.update(settings["config"])
    dataset = resflow.data.load(config.data)
    start = time.process_time()
    model = resflow.training.build_model(config, dataset)
    optimizer = make_optimizer(config.train, model.trainable_variables)
    model.compile(optimizer=optimizer)
    batches = iter(dataset.train_batches(config.train.batch_size, config.seed))
    model.initialize(initial_batch(config, dataset), config.seed)
    held_out = resflow.evaluation.LogLikelihood(model).score
    seconds = time.process_time() - start

    @tf.function(autograph=False)
    def step(x, seed):
        return resflow.models.train_step(model, x, seed)[model.objective]

    def take(number):
        step(next(batches), tf.constant([config.seed, number], tf.int32)).numpy()

    def run():
        nonlocal seconds
        start = time.process_time()
        done = train_for(settings, seconds, int(optimizer.iterations), take)
        seconds += time.process_time() - start
        test = dataset.eval_batches(config.eval.split, config.eval.batch_size, config.eval.num_examples or None)
        return {"step": done, "seconds": seconds, "bits_per_dim": held_out(test, config.seed).mean}

    return run


if __name__ == "__main__":
    serve({"train_step": _train_step, "evaluation": _evaluation, "learning": _learning})
