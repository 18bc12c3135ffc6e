"""Estimates of a log-likelihood: of an asked-for accuracy, and under each class."""

import math

import tensorflow as tf

from tf_resflow.evaluation.likelihood_plan import LikelihoodPlan
from tf_resflow.evaluation.log_prob_samples import LogProbEstimate, LogProbSamples, mean_and_stderr
from tf_resflow.evaluation.planning import plan_likelihood
from tf_resflow.models import FlowModel
from tf_resflow.typing import Seed, TensorLike

__all__ = ["estimate_log_prob", "log_prob_by_class", "mixture_of_classes"]


def estimate_log_prob(
    model: FlowModel,
    x: TensorLike,
    seed: Seed = None,
    *,
    condition: TensorLike | None = None,
    stderr: float | None = None,
    plan: LikelihoodPlan | None = None,
) -> LogProbEstimate:
    """The log-likelihood of each example and its standard error, of the accuracy that is asked for.

    ```python
    import tf_resflow as resflow
    model = resflow.FlowModel(resflow.flows.vector_flow(2, num_blocks=2, hidden=(8,)), event_shape=[2])
    log_prob, stderr = resflow.evaluation.estimate_log_prob(model, [[0.1, 0.2]], seed=1, stderr=0.01)
    print(log_prob.shape, float(stderr[0]) < 0.1)
    # (1,) True
    ```

    Args:
      model: a `FlowModel`.
      x: as for `FlowModel.log_prob`.
      seed: likewise.
      condition: likewise.
      stderr: the standard error wanted, in nats: a plan is made for x, eagerly, which takes seconds to minutes.
      plan: instead, the plan of `plan_likelihood`, for several calls, or a `LikelihoodPlan` of your own.

    Returns:
      A `LogProbEstimate`. Its `stderr` is measured for each example by repetition.

    Raises:
      ValueError: unless either `stderr` or a plan is given; as `plan_likelihood`; for a `stderr` in a graph.
    """
    if (stderr is None) == (plan is None):
        raise ValueError("estimate_log_prob takes either stderr= or plan=.")
    if plan is None:
        if not tf.executing_eagerly():
            raise ValueError("A plan is made eagerly: call plan_likelihood before, and pass the plan.")
        plan = plan_likelihood(model, x, float(stderr or 0), condition=condition)
    samples = LogProbSamples(model, plan)
    return mean_and_stderr(samples(model.condition.join(x, condition), seed), samples.is_noisy)


def log_prob_by_class(
    model: FlowModel, x: TensorLike, seed: Seed = None, *, plan: LikelihoodPlan | None = None
) -> tf.Tensor:
    r"""Log-likelihood of the data under each class, of a model whose condition is a label.

    The classes share the random numbers of an example. By Bayes' rule softmax over the classes is
    \\(p(y \mid x)\\) for classes that are equally frequent; add the logarithms of other frequencies.

    Args:
      model: a `FlowModel` with `num_classes`.
      x: as for `FlowModel.log_prob`.
      seed: likewise.
      plan: by default one estimate, by the model's evaluation estimator.

    Returns:
      `[batch, num_classes]`, in nats.

    Raises:
      ValueError: when the condition is no label; as `FlowModel.log_prob`.
    """
    if model.condition.num_classes is None:
        raise ValueError(f"{model.name} has no classes: build the model with num_classes=.")
    samples = LogProbSamples(model, plan or LikelihoodPlan())
    return tf.transpose(tf.reduce_mean(_of_classes(model, samples, x, seed), axis=1))


def mixture_of_classes(model: FlowModel, samples: LogProbSamples, x: TensorLike, seed: Seed) -> tf.Tensor:
    """Estimates `[num_samples, batch]` of the density of the mixture of all classes, equally frequent."""
    by_class = _of_classes(model, samples, x, seed)
    return tf.reduce_logsumexp(by_class, axis=0) - math.log(by_class.shape[0])


def _of_classes(model, samples, x, seed):
    """Estimates `[classes, num_samples, batch]`."""
    x = tf.convert_to_tensor(x)
    return tf.map_fn(
        lambda label: samples((x, label), seed),
        tf.range(model.condition.num_classes),
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec([samples.num_samples, x.shape[0]], model.distribution.dtype),
    )
