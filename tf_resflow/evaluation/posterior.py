"""Checks of approximations of a distribution: importance weights and the classifier two-sample test."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from tf_resflow.evaluation.scores import Score
from tf_resflow.extras import extra


class ImportanceCheck(NamedTuple):
    """Diagnostics of an approximation q of a posterior, from importance weights.

    Attributes:
      elbo: mean log-weight, in nats.
      stderr: standard error of `elbo`.
      log_evidence: log of the mean weight, which estimates the log of the integral of p.
      efficiency: number of independent samples of p that one sample of q is worth, between 0 and 1.
      pareto_k: shape of the tail of the weights. Above `good_k`, q misses a part of p, and `log_evidence` and
        `efficiency` may be wrong.
      good_k: largest `pareto_k` for which this number of samples is sufficient.
    """

    elbo: float
    stderr: float
    log_evidence: float
    efficiency: float
    pareto_k: float
    good_k: float


def importance_check(log_weights: ArrayLike) -> ImportanceCheck:
    r"""Checks how well an approximation q fits a posterior with unnormalized density p, using samples of q.

    Let \\(w_i = p(\theta_i) / q(\theta_i)\\) be the weights of \\(\theta_i \sim q\\). The ELBO is the mean of
    \\(\log w_i\\), and the efficiency is \\((\sum w_i)^2 / (N \sum w_i^2)\\). k is the shape of a generalized
    Pareto distribution fitted to the largest \\(\min(N / 5, 3 \sqrt N)\\) weights. A mean with such weights needs
    about \\(10^{1 / (1 - k)}\\) samples, so k is good below \\(\min(1 - 1 / \log_{10} N, 0.7)\\).

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
      log_weights: array `[num]` of \\(\log p - \log q\\) in nats, for at least 100 samples of q.

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
    spread = excess[-1] > 1e-5 * ordered[-1]  # whether weights differ by more than float32 rounding
    return ImportanceCheck(
        float(np.mean(log_weights)),
        float(np.std(log_weights, ddof=1) / math.sqrt(num)),
        float(log_sum - math.log(num)),
        float(np.exp(2 * log_sum - log_squares) / num),
        float(stats.genpareto.fit(excess / excess.mean(), floc=0.0)[0]) if spread else -math.inf,
        min(1 - 1 / math.log10(num), 0.7),
    )


def c2st(samples: ArrayLike, reference: ArrayLike, *, num_folds: int = 5, seed: int = 0) -> Score:
    """Runs the classifier two-sample test: how well a classifier separates samples from reference samples.

    A network is trained on all folds but one, and predicts the remaining fold. The mean accuracy is 1/2 if both
    sets come from the same distribution, and 1 if they do not overlap. As in sbibm, the network has two hidden
    layers with 10 ReLU units per dimension, and its inputs are standardized by the reference. The accuracy depends
    on how many samples the classifier learns from, so compare only values for equal numbers of samples. The test
    needs scikit-learn (the extra "data").

    ```python
    import numpy as np
    import tf_resflow as resflow
    x = np.random.default_rng(0).normal(size=[2, 100, 1])
    print(resflow.evaluation.c2st(x[0], x[1] + 10).mean)
    # 1.0
    ```

    Args:
      samples: array `[num, dimensions]` to test.
      reference: array of the same shape.
      num_folds: number of folds, at least 2.
      seed: seed of the folds and the networks.

    Returns:
      A named tuple: `mean`, the accuracy over all 2 * num points; `stderr`, its binomial standard error; and
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
