"""Neural likelihood estimation: the likelihood of a simulator's parameters, and posteriors by MCMC."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_resflow._internal.console import progress_bar
from tf_resflow._internal.private_api import without_retracing_warnings
from tf_resflow._internal.seeds import stateless_seed
from tf_resflow._internal.serialization import Serializable
from tf_resflow._internal.typing import Seed, TensorLike
from tf_resflow.sbi.conditional_estimator import ConditionalEstimator
from tf_resflow.sbi.parameters import ParameterSpace, as_array, check_varying, checked_rows
from tf_resflow.sbi.posterior_model import SavedWithModel

tfb = tfp.bijectors
tfd = tfp.distributions

_ADAPTATION_STEPS = 500
_LARGEST_R_HAT = 1.01  # above, a warning says that the chains may not have converged
_LEAST_SIZE = 400  # effective draws; below, the same warning


class PosteriorDraws(NamedTuple):
    """Draws of Markov chains. Each field has the structure of the prior's events."""

    draws: Any  # parameters `[num_draws, num_chains, *event_shape]`
    r_hat: Any  # potential scale reduction of each parameter; 1 if the chains agree (Gelman and Rubin 1992)
    effective_sample_size: Any  # number of independent draws that would determine the mean as accurately


class LikelihoodEstimator(SavedWithModel, Serializable):
    r"""The likelihood \\(q(x | \theta)\\) of a simulator's parameters, learned from simulations.

    A conditional flow of an observation maximizes the mean of \\(\log q(x_i | \theta_i)\\) over pairs. Markov
    chains draw from the posterior \\(\propto p(\theta) \prod_j q(x_j | \theta)\\) of any number of independent
    observations. The guide "Simulation-based inference" has an example.

    Args:
      prior: See `PosteriorEstimator`.
      observation_shape: Shape of an observation, such as `[3]`. Add uniform noise to counts.
      ensemble: Number of networks. Each makes the chains slower.
      seed: See `PosteriorEstimator`, also for the other arguments.

    Attributes:
      model: The conditional `FlowModel` of an observation, given the unconstrained vector of the parameters.

    References:
      Papamakarios, Sterratt and Murray, "Sequential neural likelihood" (2019).
    """

    def __init__(
        self,
        prior: tfp.distributions.Distribution,
        observation_shape: Sequence[int],
        *,
        num_blocks: int = 3,
        affine_layers: int = 2,
        hidden: Sequence[int] = (64, 64),
        coefficient: float = 0.97,
        ensemble: int = 1,
        seed: int = 0,
        name: str = "likelihood_estimator",
    ):
        self.parameters = {key: value for key, value in locals().items() if key != "self"}
        self.prior = prior
        self.space = ParameterSpace(prior)
        zero = tf.zeros([], self.space.dtype)
        flat = tfd.Normal(zero, tf.sqrt(zero.dtype.max) / 1e3)  # any observation is possible
        self._density = ConditionalEstimator(
            self,
            ParameterSpace(tfd.Sample(flat, observation_shape)),
            [self.space.size],
            num_blocks=num_blocks,
            affine_layers=affine_layers,
            hidden=hidden,
            coefficient=coefficient,
            ensemble=ensemble,
            seed=seed,
            name=name,
        )
        self.model = self._density.model
        self._sampler: Any = None  # the function of the last chains, with its settings and weights
        self._settings: Any = None
        self._sampled_weights: list[np.ndarray] = []
        self._bar: Any = None

    def fit(
        self, theta: Any, x: TensorLike, *, drop_invalid: bool = True, **options: Any
    ) -> keras.callbacks.History:
        """Trains like `PosteriorEstimator.fit`. The parameters can have any distribution that covers the prior.

        Args:
          theta: Parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: Observations `[num, *observation_shape]` that were simulated with `theta`.
          drop_invalid: Whether to leave out pairs whose observation contains NaN or infinity, with a warning.
          options: Other arguments of `PosteriorEstimator.fit`.
        """
        x, is_valid = self._checked_observations(x)
        checked_rows(is_valid, drop_invalid)
        theta_vectors = self.space.vectors(theta, len(x))[is_valid]
        x_vectors = x[is_valid].reshape([len(theta_vectors), -1])
        check_varying(theta_vectors, "theta")
        check_varying(x_vectors, "x")
        return self._density.fit(x_vectors.astype(self.space.dtype), theta_vectors.astype(np.float64), **options)

    def likelihood(self, theta: Any) -> tfp.distributions.Distribution:
        """Returns the distribution of an observation, given parameters `[*event_shape]` or a batch of them."""
        theta = tf.nest.map_structure(lambda values: tf.cast(values, self.space.dtype), theta)
        return self._density.distribution(self.space.bijector.inverse(theta), "likelihood")

    def sample_posterior(
        self, x: TensorLike, num_draws: int = 500, *, num_chains: int = 4, seed: Seed = 0, verbose: Any = "auto"
    ) -> PosteriorDraws:
        """Draws from the posterior of independent observations, by `tfp.experimental.mcmc.windowed_adaptive_nuts`.

        Later calls with as many observations, draws and chains compile nothing, until another fit.
        A warning says if the chains may not have converged: an R-hat above 1.01, or fewer than 400 effective draws.

        Args:
          x: Observations `[num, *observation_shape]` of the same parameters.
          num_draws: Number of draws of each chain, after 500 steps of adaptation.
          num_chains: Number of chains.
          seed: Seed of the chains.
          verbose: 0 hides the progress bar, which counts the steps.
        """
        x, is_valid = self._checked_observations(x)
        checked_rows(is_valid, drop=False)
        settings = (len(x), num_draws, num_chains)
        weights = [*itertools.chain(*self._density.ensemble.members), *self._density.observations.statistics()]
        is_same = settings == self._settings and len(weights) == len(self._sampled_weights)
        if not is_same or not all(map(np.array_equal, weights, self._sampled_weights)):
            self._sampler = self._make_sampler(*settings)
            self._settings = settings
            self._sampled_weights = weights
        total = _ADAPTATION_STEPS + num_draws
        with (
            without_retracing_warnings(),
            progress_bar(bool(verbose), total=total, unit="step", leave=False) as bar,
        ):
            self._bar = bar
            draws = self._sampler(tf.constant(x, self.space.dtype), stateless_seed(seed))
        return _diagnosed(draws)

    def _make_sampler(self, num, num_draws, num_chains):
        """Returns a function from observations and a seed to draws, for the present weights."""
        dtype = self.space.dtype
        median, scale = (tf.constant(value, dtype) for value in self._density.observations.statistics())
        whitened = tfb.Chain([self.space.bijector, tfb.Shift(median), tfb.Scale(scale)])

        @tfd.JointDistributionCoroutine
        def joint():
            prior = tfd.TransformedDistribution(self.prior, tfb.Invert(whitened), name="u")
            u = yield tfd.JointDistributionCoroutine.Root(prior)
            yield tfd.Sample(self._density.distribution(median + scale * u, "likelihood"), num, name="x")

        def advance():
            self._bar.update()
            return np.int32(0)

        @tf.function(autograph=False)
        def sample(x, seed):
            nuts = tfp.experimental.mcmc.windowed_adaptive_nuts
            options = {"n_chains": num_chains, "num_adaptation_steps": _ADAPTATION_STEPS, "seed": seed}
            count = lambda *_: tf.numpy_function(advance, [], tf.int32)  # noqa: E731
            (u,), _ = nuts(num_draws, joint, trace_fn=count, x=x, **options)
            return whitened.forward(u)

        return sample

    def _checked_observations(self, x):
        """Returns observations in float64 after checking their shape, and which are finite in the model's dtype."""
        x = np.asarray(as_array(x, "x"), np.float64)
        shape = self._density.space.prior.event_shape
        if x.ndim != 1 + len(shape) or x.shape[1:] != tuple(shape) or not len(x):
            raise ValueError(f"x has the shape {x.shape}. Give observations of shape {shape} after a batch axis.")
        is_valid = np.abs(x) <= tf.as_dtype(self.space.dtype).max  # False for NaN
        return x, is_valid.reshape([len(x), -1]).all(axis=1)


def _diagnosed(draws):
    r_hat = tf.nest.map_structure(tfp.mcmc.potential_scale_reduction, draws)
    sizes = tf.nest.map_structure(lambda chains: tfp.mcmc.effective_sample_size(chains, cross_chain_dims=1), draws)
    largest = max(float(tf.reduce_max(values)) for values in tf.nest.flatten(r_hat))
    least = min(float(tf.reduce_min(values)) for values in tf.nest.flatten(sizes))
    if not (largest <= _LARGEST_R_HAT and least >= _LEAST_SIZE):
        warnings.warn(
            f"The chains may not have converged: the largest R-hat is {largest:.3f}, and the smallest effective "
            f"sample size is {least:.0f}. Draw more, or look at the chains.",
            stacklevel=3,
        )
    return PosteriorDraws(draws, r_hat, sizes)
