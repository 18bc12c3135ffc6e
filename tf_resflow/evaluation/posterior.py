"""Whether samples come from a posterior: ranks, coverage, importance weights, the classifier two-sample test."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from tf_resflow.evaluation.scores import Score
from tf_resflow.extras import extra


def calibration_ranks(samples: ArrayLike, parameters: ArrayLike) -> np.ndarray:
    r"""The ranks of simulation-based calibration: of true parameters among L samples of their posteriors.

    For data sets \\(i\\) with \\(\theta_i \sim p(\theta)\\), \\(x_i \sim p(x | \theta_i)\\) and L samples
    \\(\theta_{il} \sim q(\theta | x_i)\\), the rank of coordinate d is

        r_id = #{l : theta_ild < theta_id}.

    If q is the posterior, each rank is uniform on 0, ..., L. `rank_figure` draws them.

    ```python
    import numpy as np
    import tf_resflow as resflow
    samples = np.array([[[0.1, 5.0]], [[0.2, 6.0]], [[0.3, 7.0]]])  # 3 samples for one data set
    print(resflow.evaluation.calibration_ranks(samples, [[0.25, 4.0]]))
    # [[2 0]]
    ```

    Args:
      samples: array `[draws, num, dimensions]`: for each of `num` data sets, independent samples of its posterior.
      parameters: array `[num, dimensions]`: the parameters with which each data set was simulated.

    References:
      Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration" (2018).
    """
    samples, parameters = np.asarray(samples), np.asarray(parameters)
    _check(samples, parameters)
    return np.sum(samples < parameters, axis=0)


def coverage_levels(sample_log_probs: ArrayLike, parameter_log_probs: ArrayLike) -> np.ndarray:
    r"""The levels of the smallest highest-density regions that hold the true parameters.

    For data set i with true parameters \\(\theta_i\\) and L samples \\(\theta_{il} \sim q(\theta | x_i)\\),

        a_i = (#{l : q(theta_il | x_i) > q(theta_i | x_i)} + 1/2) / (L + 1).

    The expected coverage of the regions of mass a is the share of the levels below a. It is a if q is the
    posterior; less coverage means that q is overconfident. `coverage_figure` draws the curve.

    ```python
    import tf_resflow as resflow
    print(resflow.evaluation.coverage_levels([[-1.0, -3.0], [-2.0, -4.0]], [-1.5, -5.0]))
    # [0.5        0.83333333]
    ```

    Args:
      sample_log_probs: array `[draws, num]`: \\(\log q(\theta_{il} | x_i)\\), up to a constant for each data set.
      parameter_log_probs: array `[num]`: \\(\log q(\theta_i | x_i)\\), likewise.

    References:
      Hermans et al., "A trust crisis in simulation-based inference?" (2022); Deistler, Goncalves and Macke,
      "Truncated proposals for scalable and hassle-free simulation-based inference" (2022).
    """
    samples, parameters = np.asarray(sample_log_probs), np.asarray(parameter_log_probs)
    _check(samples, parameters)
    return (np.sum(samples > parameters, axis=0) + 0.5) / (len(samples) + 1)


class ImportanceCheck(NamedTuple):
    """What importance weights say about an approximation q of a posterior.

    Attributes:
      elbo: the mean of the logarithms of the weights, in nats.
      stderr: its standard error.
      log_evidence: the logarithm of the mean weight, which estimates the logarithm of the integral of p.
      efficiency: the number of independent samples of p that a sample of q is worth, between 0 and 1.
      pareto_k: the shape of the tail of the weights. Above `good_k`, q misses a part of p, and `log_evidence` and
        `efficiency` may be wrong.
      good_k: the largest `pareto_k` for which this number of samples is enough.
    """

    elbo: float
    stderr: float
    log_evidence: float
    efficiency: float
    pareto_k: float
    good_k: float


def importance_check(log_weights: ArrayLike) -> ImportanceCheck:
    r"""Whether an approximation q is close to a posterior with the unnormalized density p, from samples of q.

    With the weights \\(w_i = p(\theta_i) / q(\theta_i)\\) of \\(\theta_i \sim q\\), the ELBO is the mean of
    \\(\log w_i\\), the efficiency \\((\sum w_i)^2 / (N \sum w_i^2)\\), and k the shape of a generalized Pareto
    distribution that is fitted to the largest \\(\min(N / 5, 3 \sqrt N)\\) weights. A mean with such weights needs
    about \\(10^{1 / (1 - k)}\\) samples: k is good below \\(\min(1 - 1 / \log_{10} N, 0.7)\\).

    ```python
    import tensorflow_probability as tfp
    import tf_resflow as resflow
    p, q = tfp.distributions.Normal(0.0, 1.0), tfp.distributions.Normal(0.0, 1.2)
    theta = q.sample(4000, seed=[0, 1])
    check = resflow.evaluation.importance_check(p.log_prob(theta) - q.log_prob(theta))
    print(f"{check.elbo:.2f} {check.efficiency:.2f}", check.pareto_k < check.good_k)
    # -0.04 0.95 True
    ```

    Args:
      log_weights: array `[num]`, \\(\log p - \log q\\) in nats of at least 100 samples of q.

    References:
      Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?: Evaluating variational inference" (2018);
      Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024), for the limit.
    """
    log_weights = np.asarray(log_weights, np.float64)
    num = len(log_weights)
    log_sum, log_squares = special.logsumexp(log_weights), special.logsumexp(2 * log_weights)
    ordered = np.exp(np.sort(log_weights) - log_weights.max())
    tail = int(min(num / 5, 3 * math.sqrt(num)))
    excess = ordered[-tail:] - ordered[-tail - 1]
    spread = excess[-1] > 1e-5 * ordered[-1]  # more than float32 rounds
    return ImportanceCheck(
        float(np.mean(log_weights)),
        float(np.std(log_weights, ddof=1) / math.sqrt(num)),
        float(log_sum - math.log(num)),
        float(np.exp(2 * log_sum - log_squares) / num),
        float(stats.genpareto.fit(excess / excess.mean(), floc=0.0)[0]) if spread else -math.inf,
        min(1 - 1 / math.log10(num), 0.7),
    )


def c2st(samples: ArrayLike, reference: ArrayLike, *, num_folds: int = 5, seed: int = 0) -> Score:
    """The classifier two-sample test: how well a classifier distinguishes samples from those of a reference.

    A network is trained on all but one of the folds, and predicts the remaining one. The mean accuracy is 1/2 if
    both sets come from one distribution, and 1 if they do not overlap. As in sbibm, the network has two hidden
    layers of 10 ReLU units for each dimension, and its inputs are standardized by the reference.

    ```python
    import numpy as np
    import tf_resflow as resflow
    x = np.random.default_rng(0).normal(size=[2, 100, 1])
    print(resflow.evaluation.c2st(x[0], x[1] + 10).mean)
    # 1.0
    ```

    The value depends on the number of samples, from which the classifier learns, so compare only values for equal
    numbers. The test needs scikit-learn (the extra "data").

    Args:
      samples: array `[num, dimensions]` to test.
      reference: array of the same shape.
      num_folds: number of folds, at least 2.
      seed: of the folds and the networks.

    Returns:
      A named tuple of `mean`, the accuracy over the 2 num points, `stderr`, its binomial standard error, and
      `num_examples`.

    References:
      Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017); Lueckmann et al., "Benchmarking
      simulation-based inference" (2021).
    """
    with extra("data"):
        from sklearn import model_selection, neural_network, preprocessing

    samples, reference = np.asarray(samples, np.float64), np.asarray(reference, np.float64)
    x = preprocessing.StandardScaler().fit(reference).transform(np.concatenate([samples, reference]))
    label = np.repeat([0, 1], len(samples))
    hidden = (10 * x.shape[1],) * 2
    classifier = neural_network.MLPClassifier(hidden, max_iter=1000, random_state=seed)
    folds = model_selection.StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    accuracy = float(np.mean(model_selection.cross_val_predict(classifier, x, label, cv=folds) == label))
    return Score(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(x))), len(x))


def _check(samples, parameters):
    if samples.shape[1:] != parameters.shape:
        raise ValueError(f"Expected samples [draws, *{parameters.shape}]; got the shape {samples.shape}.")
    if np.isnan(samples).any() or np.isnan(parameters).any():
        raise ValueError("A value is NaN, which has no rank.")
