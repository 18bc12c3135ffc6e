"""Posteriors of simulators as distributions, and the prior restricted to the region of a posterior."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize, stats

from tf_resflow._internal.extras import LazyPackage
from tf_resflow._internal.seeds import random_integers, random_uniform, split_seed, stateless_seed
from tf_resflow._internal.typing import Seed
from tf_resflow.evaluation.calibration import named_parts

arviz: Any = LazyPackage("arviz", "plots")
tfb = tfp.bijectors
tfd = tfp.distributions

_MOMENT_DRAWS = 10_000  # for means, standard deviations and quantiles
_AT_ONCE = 10_000  # candidates of a proposal
_LEAST_SHARE = 1e-4  # of accepted candidates


class ParameterDistribution(tfp.distributions.TransformedDistribution):
    """A distribution of parameters in the support of a prior, such as a posterior.

    Log-densities are exact, except that the normalizing constant of a proposal is a Monte Carlo estimate. Outside
    the support and on its bounds, the log-density is minus infinity, with the gradient 0. (If the prior lies on a
    simplex or another surface, it has an unknown constant, and is meaningless off this surface.)

    `mean`, `variance`, `stddev` and `quantile` are estimates from 10,000 draws, the same ones at each call. The
    standard error of a mean is 1 % of the standard deviation.

    Args:
      distribution: Distribution of unconstrained vectors.
      bijector: Bijector from vectors to parameters.
      prior: Distribution of the parameters.
    """

    def __init__(self, distribution: Any, bijector: Any, prior: Any, name: str):
        parameters = dict(locals())
        self.prior = prior
        super().__init__(distribution, bijector, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)

    def _log_prob(self, theta):
        theta = tf.nest.map_structure(tf.cast, theta, self.dtype)
        z, is_inside = self.vectors(theta)
        pairs = zip(tf.nest.flatten(theta), tf.nest.flatten(self.event_shape), strict=True)
        masks = [tf.reduce_any(tf.math.is_nan(values), range(-shape.rank, 0)) for values, shape in pairs]
        is_nan = functools.reduce(tf.logical_or, masks)
        outside = tf.where(is_nan, tf.constant(math.nan, z.dtype), -math.inf)
        return tf.where(is_inside, -self._loss(z), outside)

    def _loss(self, z):
        """Returns minus the log-density of the parameters of vectors."""
        return self.bijector.forward_log_det_jacobian(z, event_ndims=1) - self.distribution.log_prob(z)

    def vectors(self, theta: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the unconstrained vectors of parameters, 0 outside the support, and which are inside."""
        is_allowed = tf.math.is_finite(self.prior.log_prob(theta))
        z = self.bijector.inverse(theta)
        is_inside = is_allowed & tf.reduce_all(tf.math.is_finite(z), -1)
        theta = tf.nest.map_structure(tf.identity, theta)  # not in TFP's cache, which knows z of draws on a bound
        is_invertible = is_allowed & tf.reduce_all(tf.math.is_finite(self.bijector.inverse(theta)), -1)
        center = self.bijector.forward(tf.zeros_like(z))

        def moved(values, inside, shape):  # so that gradients outside are 0 instead of NaN
            mask_shape = tf.concat([tf.shape(is_invertible), tf.ones([shape.rank], tf.int32)], axis=0)
            return tf.where(tf.reshape(is_invertible, mask_shape), values, inside)

        safe = self.bijector.inverse(tf.nest.map_structure(moved, theta, center, self.event_shape))
        cached = tf.where(is_inside[..., tf.newaxis], tf.stop_gradient(z), 0.0)
        return tf.where(is_invertible[..., tf.newaxis], safe, cached), is_inside

    def _moment(self, function):
        draws = self.sample(_MOMENT_DRAWS, seed=stateless_seed(0))
        return tf.nest.map_structure(function, draws)

    def _mean(self):
        return self._moment(lambda draws: tf.reduce_mean(draws, axis=0))

    def _variance(self):
        return self._moment(lambda draws: tf.math.reduce_variance(draws, axis=0))

    def _stddev(self):
        return self._moment(lambda draws: tf.math.reduce_std(draws, axis=0))

    def quantile(self, value: Any, name: str = "quantile") -> Any:
        """Returns estimated quantiles of each parameter, `[*value.shape, *batch_shape, *event_shape]`."""
        value = np.asarray(value, np.float64)
        if not np.all((value >= 0) & (value <= 1)):
            raise ValueError(f"Got the probabilities {value}. Give numbers from 0 to 1, such as [0.05, 0.95].")
        with tf.name_scope(name):
            return self._moment(
                lambda draws: tfp.stats.percentile(draws, 100 * value, axis=0, interpolation="linear")
            )

    def map_estimate(self, num_draws: int = 1000, seed: Seed = 0) -> Any:
        """Returns the parameters of the largest posterior density that L-BFGS finds from the best of its draws."""
        z = self.distribution.sample(num_draws, seed=stateless_seed(seed)).numpy()
        best = np.argmin(self._loss(z), axis=0)[np.newaxis, ..., np.newaxis]
        start = np.take_along_axis(z, best, axis=0)[0]

        @tf.function(autograph=False)
        def value_and_gradient(z):
            return tfp.math.value_and_gradient(lambda z: tf.reduce_sum(self._loss(z)), z)

        def objective(flat):
            value, gradient = value_and_gradient(tf.constant(flat.reshape(start.shape), start.dtype))
            return float(value), np.float64(gradient).ravel()

        minimum = optimize.minimize(objective, np.float64(start).ravel(), jac=True, method="L-BFGS-B")
        return self.bijector.forward(tf.constant(minimum.x.reshape(start.shape), start.dtype))

    def to_arviz(self, num_draws: int = 1000, seed: Seed = 0) -> Any:
        """Returns draws as an `arviz.InferenceData` with one chain. A single array of parameters is named theta."""
        if self.batch_shape.rank:
            raise ValueError("An InferenceData has the draws of one posterior. Call estimator.posterior(x[i]).")
        draws = named_parts(self.sample(num_draws, seed=stateless_seed(seed)), "theta")
        return arviz.from_dict(posterior={name: values.numpy()[np.newaxis] for name, values in draws.items()})


class EqualMixture(tfp.distributions.Distribution):
    """A mixture of flows on vectors with equal weights, for one observation or a batch of observations.

    Each draw for each observation chooses its own member. With `tfd.Mixture`, every member would draw all of them.
    The members are `tfd.TransformedDistribution`s of the same base. Their bijectors accept a `condition`, and
    `conditions` has the conditions `[num, size]` of the observations for each member.
    """

    def __init__(self, members: Sequence[Any], conditions: Sequence[tf.Tensor], name: str = "mixture"):
        parameters = dict(locals())
        self.members = members
        self._conditions = conditions
        dtype = members[0].dtype
        super().__init__(dtype, tfd.NOT_REPARAMETERIZED, False, True, parameters=parameters, name=name)

    def _sample_n(self, n, seed=None):
        latent_seed, choice = tf.unstack(split_seed(stateless_seed(seed), 2))
        latents = self.members[0].distribution.sample(n, seed=latent_seed)
        latent_rows = tf.reshape(latents, [-1, self.event_shape[0]])
        member_of_row = random_integers(tf.shape(latent_rows)[:1], choice, len(self.members))
        row_indices = tf.dynamic_partition(tf.range(tf.size(member_of_row)), member_of_row, len(self.members))
        draws = []
        for member, condition, indices in zip(self.members, self._conditions, row_indices, strict=True):
            conditions = tf.gather(condition, indices % tf.shape(condition)[0])
            draws.append(member.bijector.forward(tf.gather(latent_rows, indices), condition=conditions))
        return tf.reshape(tf.dynamic_stitch(row_indices, draws), tf.shape(latents))

    def _log_prob(self, z):
        if self.batch_shape.rank:
            shape = tf.broadcast_dynamic_shape(tf.shape(z)[:-1], self.batch_shape_tensor())
            z = tf.broadcast_to(z, tf.concat([shape, tf.shape(z)[-1:]], axis=0))
        log_probs = [member.log_prob(z) for member in self.members]
        return _log_mean(log_probs)

    def _event_shape(self):
        return self.members[0].event_shape

    def _batch_shape(self):
        return self.members[0].batch_shape


class RestrictedVectors(tfp.distributions.Distribution):
    r"""The prior of unconstrained vectors z, restricted to the region of a posterior q; see `proposal`.

    The region has the largest ratios \\(q(z) / p(z)\\), inside of balls in the latent spaces of q that hold all but
    `tail` / 10. Draws of the prior, or uniform draws from these balls, are accepted with a probability proportional
    to \\(p(z)\\) over their density. The largest of 10,000 such weights is the bound.
    """

    def __init__(self, posterior: ParameterDistribution, tail: float, seed: Seed = 0, name: str = "restricted"):
        parameters = dict(locals())
        if not 1 / _AT_ONCE <= tail < 1:
            raise ValueError(f"tail is {tail}. Give a probability of at least {1 / _AT_ONCE} and below 1.")
        self._posterior = posterior
        size = posterior.distribution.event_shape[0]
        dtype = posterior.distribution.dtype
        self._radius = math.sqrt(stats.chi2(size).ppf(1 - tail / 10))
        super().__init__(dtype, tfd.NOT_REPARAMETERIZED, False, True, parameters=parameters, name=name)
        seeds = tf.unstack(split_seed(stateless_seed(seed), 3))
        log_ratios, _, _ = self._log_ratio(posterior.distribution.sample(_AT_ONCE, seed=seeds[0]))
        log_ratios = log_ratios.numpy()
        self._least = float(np.quantile(log_ratios[np.isfinite(log_ratios)], tail, method="inverted_cdf"))
        ways = [
            self._acceptance(self._draw_from_prior, seeds[1]),
            self._acceptance(self._draw_from_balls, seeds[2]),
        ]
        share, self._log_bound, self._candidates = max(ways, key=lambda way: way[0])
        if share < _LEAST_SHARE:
            raise ValueError(
                f"Only {share:.1g} of the candidates are in the region of the posterior, so drawing would take too "
                "long. Fit to more pairs of the prior first, or choose a larger tail."
            )
        self._log_mass = math.log(share) + self._log_bound

    def _acceptance(self, draw_candidates, seed):
        """Returns the accepted share of candidates, the logarithm of their largest weight, and the function."""
        _, log_weights = draw_candidates(seed)
        log_weights = np.float64(log_weights)
        log_bound = max(log_weights.max(), -1e300)
        return np.mean(np.exp(log_weights - log_bound)), log_bound, draw_candidates

    def _log_ratio(self, z):
        """Returns log q(z) - log p(z), minus infinity outside the balls; log p(z); and the log-density of balls."""
        log_qs = []
        log_ball_densities = []
        for member in self._posterior.distribution.members:
            latents = member.bijector.inverse(z)
            log_q = member.log_prob(z)
            log_slope = log_q - member.distribution.log_prob(latents)
            is_inside = tf.norm(latents, axis=-1) <= self._radius
            log_qs.append(log_q)
            log_ball_densities.append(tf.where(is_inside, log_slope, -math.inf))
        log_q = _log_mean(log_qs)
        log_balls = _log_mean(log_ball_densities)
        bijector = self._posterior.bijector
        theta = bijector.forward(z)
        log_p = self._posterior.prior.log_prob(theta) + bijector.forward_log_det_jacobian(z, event_ndims=1)
        return tf.where(tf.math.is_finite(log_balls), log_q - log_p, -math.inf), log_p, log_balls

    def _draw_from_prior(self, seed):
        z, is_finite = self._posterior.vectors(self._posterior.prior.sample(_AT_ONCE, seed=seed))
        is_inside = is_finite & (self._log_ratio(z)[0] >= self._least)
        return z, tf.where(is_inside, tf.zeros([], z.dtype), -math.inf)

    def _draw_from_balls(self, seed):
        """Draws from the ball of each member's latent space; the weights are p(z) over the density of the draws."""
        size = self.event_shape[0]
        members = self._posterior.distribution.members
        num = -(-_AT_ONCE // len(members))
        sphere = tfd.SphericalUniform(size, dtype=self.dtype)
        draws = []
        for member, member_seed in zip(members, tf.unstack(split_seed(seed, len(members))), strict=True):
            direction_seed, radius_seed = tf.unstack(split_seed(member_seed, 2))
            share = random_uniform([num, 1], radius_seed, self.dtype)
            latents = sphere.sample(num, seed=direction_seed) * self._radius * share ** (1 / size)
            draws.append(member.bijector.forward(latents))
        z = tf.random.experimental.stateless_shuffle(tf.concat(draws, axis=0), seed)
        log_ratio, log_p, log_balls = self._log_ratio(z)
        log_volume = size / 2 * math.log(math.pi) - math.lgamma(size / 2 + 1) + size * math.log(self._radius)
        return z, tf.where(log_ratio >= self._least, log_p - log_balls + log_volume, -math.inf)

    def _sample_n(self, n, seed=None):
        def add(accepted, seed):
            seed, candidate_seed, acceptance_seed = tf.unstack(split_seed(seed, 3))
            z, log_weights = self._candidates(candidate_seed)
            u = random_uniform(tf.shape(z)[:1], acceptance_seed, z.dtype)
            is_accepted = tf.math.log(u) <= log_weights - self._log_bound
            return tf.concat([accepted, z[is_accepted]], axis=0), seed

        none = tf.zeros([0, self.event_shape[0]], self.dtype)
        seed = stateless_seed(seed)
        shapes = [tf.TensorShape([None, none.shape[1]]), seed.shape]
        accepted, _ = tf.while_loop(lambda accepted, _: tf.shape(accepted)[0] < n, add, [none, seed], shapes)
        return accepted[:n]

    def _log_prob(self, z):
        log_ratio, log_p, _ = self._log_ratio(z)
        return tf.where(log_ratio >= self._least, log_p - self._log_mass, -math.inf)

    def _event_shape(self):
        return self._posterior.distribution.event_shape

    def _batch_shape(self):
        return tf.TensorShape([])


def _log_mean(log_values):
    """Returns the logarithm of the mean of positive numbers, given their logarithms."""
    return tf.reduce_logsumexp(log_values, axis=0) - math.log(len(log_values))
