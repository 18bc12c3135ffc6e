"""Measures this package; compare_speed.py and time_to_score.py start it in a separate process."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import time

import keras
import numpy as np
import tensorflow as tf
from workers import Case, serve, train_for

import tf_resflow as resflow
from tf_resflow.training.checkpoints import make_optimizer
from tf_resflow.training.loop import initial_batch


def _model(case):
    estimator = resflow.logdet.PowerSeries(case.num_exact_terms + case.num_extra_terms)
    block = resflow.flows.residual_image_block(log_det_estimator=estimator)
    options = {"num_fc_blocks": 0, "block": block, "logit_alpha": 1e-6, "dtype": case.dtype}
    flow = resflow.flows.image_flow(case.shape, (case.num_blocks,), case.width, **options)
    model = resflow.FlowModel(flow, case.shape, levels=256, evaluation_log_det_estimator=estimator)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    return model, tf.constant(case.batch(), tf.uint8)


def initialized(case: Case) -> tuple[resflow.FlowModel, tf.Tensor]:
    """A compiled model for a case, with initialized ActNorms, and the batch."""
    model, x = _model(case)
    model.initialize(x)
    return model, x


def _timed(function):
    """Returns the seconds that `function(seed)` takes until its result is there."""
    seed = tf.constant(np.random.randint(0, 2**31 - 1, 2), tf.int32)
    start = time.perf_counter()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), function(seed))
    return time.perf_counter() - start


def _step(model, x):
    """The training step, as a function of the seed."""
    return tf.function(lambda seed: resflow.models.train_step(model, x, seed)[model.objective], autograph=False)


def _train_step(case):
    step = _step(*initialized(case))
    return lambda: {"seconds": _timed(step)}


def _evaluation(case):
    model, x = initialized(case)

    @tf.function(autograph=False)
    def loss(seed):
        return model.example_losses(x, seed)[model.objective]

    return lambda: {"seconds": _timed(loss)}


def _inverse(case):
    model, x = initialized(case)
    blocks = resflow.bijectors.flow.residual_blocks(model.flow)
    y = tf.random.stateless_normal(x.shape, [0, 1])

    @tf.function(autograph=False)
    def solve(y):
        solutions = [resflow.bijectors.inverse_with_solutions(block, y)[1][0] for block in blocks]
        return [tf.reduce_max(solution.num_iterations) for solution in solutions]

    def run():
        start = time.perf_counter()
        evaluations = sum(int(count) for count in solve(y))
        return {"seconds": (time.perf_counter() - start) / evaluations}

    return run


def _trace(case):
    model, x = _model(case)

    def run():
        step = _step(model, x)
        start = time.perf_counter()
        step.get_concrete_function(tf.TensorSpec([2], tf.int32))
        traced = time.perf_counter() - start
        return {"seconds": traced + _timed(step), "trace": traced}

    return run


def _parts(case):
    """Times the parts of a training step; each is traced as a separate function."""
    model, x = initialized(case)
    inputs = tf.cast(x, tf.float32) / 256.0 + 1e-3
    weights = model.trainable_variables
    values = [weight.value for weight in weights]
    zeros = [tf.zeros_like(value) for value in values]
    batches = iter(
        resflow.data.Dataset.from_arrays("random", {"train": np.tile(x, [8, 1, 1, 1])}, 256).train_batches(
            len(x), seed=0
        )
    )

    def gradients(seed):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.example_losses(x, seed, training=True)[model.objective])
        return [tf.reduce_sum(g) for g in tape.gradient(loss, values)]

    def optimizer(seed):
        del seed
        model.optimizer.apply(zeros, weights)
        return model.optimizer.iterations.value + 0

    def forward(seed):
        del seed
        return tf.reduce_sum(
            model.flow.forward_pass(inputs, resflow.bijectors.base.Context(compute_log_det=False)).value
        )

    def forward_and_series(seed):
        return tf.reduce_sum(model.example_losses(x, seed, training=True)[model.objective])

    functions = {
        "forward": forward,
        "forward and series": forward_and_series,
        "forward, series and backward": gradients,
        "norm updates": lambda seed: resflow.layers.update_norms(model.flow),
        "optimizer": optimizer,
    }
    functions = {name: tf.function(f, autograph=False) for name, f in functions.items()}
    functions["input"] = lambda seed: next(batches)

    def run():
        return {name: _timed(function) for name, function in functions.items()}

    return run


def _learning(settings):
    """Trains a model for a turn, and scores its weights (not their average) on the test images."""
    config = resflow.training.default_config().unlock()
    config.update(settings["config"])
    dataset = resflow.data.load(config.data)
    start = time.process_time()
    model = resflow.models.build_model(config, dataset)
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
    serve(
        {
            "train_step": _train_step,
            "evaluation": _evaluation,
            "inverse": _inverse,
            "trace": _trace,
            "parts": _parts,
            "learning": _learning,
        }
    )
