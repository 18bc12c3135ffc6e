"""Neural posterior estimation: the posterior of a simulator's parameters for any observation."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow_probability as tfp

from tf_resflow._internal.serialization import Serializable
from tf_resflow._internal.typing import Seed, TensorLike
from tf_resflow.evaluation.calibration import Calibration
from tf_resflow.sbi.conditional_estimator import ConditionalEstimator
from tf_resflow.sbi.parameters import ParameterSpace, check_varying, checked_rows
from tf_resflow.sbi.posterior import ParameterDistribution, RestrictedVectors
from tf_resflow.sbi.posterior_model import SavedWithModel


class PosteriorEstimator(SavedWithModel, Serializable):
    r"""The posterior \\(q(\theta | x)\\) of a simulator's parameters, learned from simulations.

    The bijector of the prior's support maps parameters \\(\theta \sim p(\theta)\\) to unconstrained vectors. A
    conditional flow of these vectors maximizes the mean of \\(\log q(\theta_i | x_i)\\) over pairs with
    \\(x_i \sim p(x | \theta_i)\\). All posterior samples lie in the support of the prior.

    ```python
    import tensorflow as tf, tensorflow_probability as tfp
    import tf_resflow as resflow

    tfd = tfp.distributions
    prior = tfd.Independent(tfd.Uniform([-1.0, 0.0], [1.0, 5.0]), 1)
    theta = prior.sample(500, seed=0)
    x = theta + 0.1 * tf.random.stateless_normal([500, 2], [0, 1])  # the simulator

    estimator = resflow.PosteriorEstimator(prior, [2], num_blocks=1, hidden=(16,), ensemble=1)
    estimator.fit(theta, x, epochs=2, verbose=0)
    posterior = estimator.posterior([0.5, 2.0])
    draws = posterior.sample(100, seed=1)
    print(draws.shape, posterior.log_prob(draws).shape)
    # (100, 2) (100,)
    ```

    The flow consists of an affine map whose matrix and shift depend on the observation, affine autoregressive
    layers, and residual blocks with CPila activations. All receive the output of the `summary`, a network of the
    observation, which is trained with them. The input of the summary is standardized: each element has the median 0
    and the quartiles of a normal distribution. Training starts from a ridge regression on the summary.

    Args:
      prior: `tfd.Distribution` of the parameters, with events of any shape, or a joint distribution. Its
        `experimental_default_event_space_bijector` defines the support.
      condition_shape: Shape of an observation, such as `[100]`; `[None, *shape]` for sets of observations.
      summary: A built Keras layer or model from standardized observations to vectors, such as
        `tf_resflow.sbi.set_summary`. It is always called in inference mode: without dropout, and with the stored
        statistics of batch normalization. By default, two hidden layers of 64 units, 32 outputs, and
        a linear function with the size of the parameters.
      affine_layers: Number of affine autoregressive layers before the blocks.
      hidden: Widths of the inner layers of a block and of an autoregressive network.
      coefficient: Lipschitz bound of each layer of a block, below 1.
      ensemble: Number of networks with different initial weights (except for a given summary), whose posteriors
        are mixed. By default, 5 for up to 20,000 pairs, where a single network is often overconfident, otherwise 1.
      seed: `int` seed for the initial weights and `fit`.

    Attributes:
      model: The conditional `FlowModel` of the vectors given the observation; of an ensemble, the first one.

    References:
      Papamakarios and Murray, Fast epsilon-free inference of simulation models, 2016.
      Greenberg, Nonnenmacher and Macke, Automatic posterior transformation, 2019.
      Hermans et al., A trust crisis in simulation-based inference?, 2022, on ensembles.
    """

    def __init__(
        self,
        prior: tfp.distributions.Distribution,
        condition_shape: Sequence[int | None],
        *,
        summary: keras.Layer | None = None,
        num_blocks: int = 3,
        affine_layers: int = 2,
        hidden: Sequence[int] = (64, 64),
        coefficient: float = 0.97,
        ensemble: int | None = None,
        seed: int = 0,
        name: str = "posterior_estimator",
    ):
        self.parameters = {key: value for key, value in locals().items() if key != "self"}
        self.prior = prior
        self.space = ParameterSpace(prior)
        self._density = ConditionalEstimator(
            self,
            self.space,
            condition_shape,
            summary=summary,
            num_blocks=num_blocks,
            affine_layers=affine_layers,
            hidden=hidden,
            coefficient=coefficient,
            ensemble=ensemble,
            seed=seed,
            name=name,
        )
        self.model = self._density.model

    def fit(
        self,
        theta: Any,
        x: TensorLike,
        *,
        batch_size: int = 64,
        epochs: int | None = None,
        learning_rate: float = 1e-2,
        weight_decays: Sequence[float] = (0.0, 0.3, 1.0, 3.0),
        validation_fraction: float = 0.1,
        drop_invalid: bool = True,
        warm_start: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Any = "auto",
    ) -> keras.callbacks.History:
        """Trains with increasing weight decay while this helps, and keeps the weights with the best held-out loss.

        The parameters must be draws of the prior, or of `proposal(x)`, or both. Then the posterior of x is right.
        Draws of the posterior would count the likelihood twice.

        Give it the pairs of all rounds. Weight decay blurs sharp posteriors, such as crescents. Without it, long
        observations and many parameters overfit. The first network chooses it in trainings with a third of the
        epochs. The optimizer is AdamW. Its learning rate increases over the first quarter of the steps, and then
        decays to zero along a cosine. A training stops when the held-out loss has not decreased for three quarters
        of the steps, or, with a warning, when it diverges. A warning says if the posteriors of held-out pairs are
        clearly miscalibrated.

        Args:
          theta: Parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: Observations `[num, *condition_shape]` that were simulated with `theta`. Sets of different sizes are
            filled up with NaN.
          batch_size: Number of pairs of a step.
          epochs: Maximum number of passes over the training pairs. By default, chosen to give about
            30 sqrt(num) steps, but at most 4,000.
          learning_rate: Maximum learning rate.
          weight_decays: Weight decays of AdamW to try, in this order, until one is worse.
          validation_fraction: Fraction of the pairs that is held out.
          drop_invalid: Whether to leave out pairs whose observation contains NaN or infinity, with a warning.
            Otherwise, they are an error. Without them, the posterior is that given that the simulation succeeds.
          warm_start: Whether to continue from the weights and the weight decay of the last fit, for more pairs or
            epochs. By default, each call starts from initial weights. The statistics of the observations stay as
            they are, and `epochs` is smaller by default. Keep the order of the former pairs, and append the others:
            then the same pairs are held out.
          callbacks: Keras callbacks whose methods for the beginning and the end of a training and for the end of an
            epoch are called in the training of each network.
          verbose: 0 hides the progress bar, which counts the steps of all trainings.

        Returns:
          The history of the first network, a `keras.callbacks.History`.
        """
        x, is_valid = self._density.observations.shaped(x)
        theta = self.space.events(theta, len(x))
        self.space.check_drawn(theta)
        vectors = self.space.vectors(theta, len(x))
        checked_rows(is_valid, drop_invalid)
        check_varying(vectors[is_valid], "theta")
        return self._density.fit(
            vectors[is_valid],
            x[is_valid],
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decays=weight_decays,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            callbacks=callbacks,
            verbose=verbose,
        )

    def posterior(self, x: TensorLike) -> ParameterDistribution:
        """Returns the posterior for an observation `[*condition_shape]` or a batch `[batch, *condition_shape]`.

        It is a `tfd.Distribution` with the methods `map_estimate` and `to_arviz`, and differentiable in x. Later
        training does not change it. An observation that is much farther from the median than those of the training
        gives a warning. In a `tf.function`, there is no such warning, the weights are those at the time of tracing,
        and NaN or infinity in x raises an InvalidArgumentError.
        """
        return self._density.distribution(x, "posterior")

    def proposal(self, x: TensorLike, tail: float = 1e-4, seed: Seed = 0) -> ParameterDistribution:
        r"""Returns the prior, restricted to a region that holds all but about `tail` of the posterior of x.

        Use it to spend simulations where they help to find the posterior of one observation: draw parameters from
        the proposal, simulate, `fit` to the pairs of all rounds, and repeat. Within the region, the density of the
        parameters is proportional to the prior, so the posterior of x stays right; those of other observations do
        not. Of the regions of this probability, it has nearly the smallest prior probability.

        Args:
          x: An observation `[*condition_shape]`.
          tail: Posterior probability outside the region, at least 1e-4.
          seed: Seed of the posterior samples that determine the region.

        Raises:
          ValueError: If the region is so small that it takes too long to draw from it.

        References:
          Deistler, Goncalves and Macke, "Truncated proposals for scalable and hassle-free simulation-based
          inference" (2022).
        """
        posterior = self.posterior(x)
        if posterior.batch_shape.rank:
            raise ValueError("x is a batch of observations. A proposal is for one observation, such as x[0].")
        vectors = RestrictedVectors(posterior, tail, seed)
        return ParameterDistribution(vectors, posterior.bijector, self.prior, "proposal")

    def calibrate(self, theta: Any, x: TensorLike, *, num_draws: int = 100, seed: int = 0) -> Calibration:
        """Checks the posteriors on new pairs, prints what the tests show, and returns the `Calibration`.

        Args:
          theta: Parameters `[num, *event_shape]` that were drawn like those of `fit`, but not used there; a few
            hundred.
          x: Observations `[num, *condition_shape]` that were simulated with `theta`.
          num_draws: Number of posterior samples per observation.
          seed: Seed of the samples.
        """
        theta, x = self._checked_pairs(theta, x)
        if num_draws < 1:
            raise ValueError(f"num_draws={num_draws} is too small. Draw at least 1 sample, or better 100.")
        calibration = self._density.calibration(theta, x, num_draws, seed)
        print(calibration)
        return calibration

    def score(self, theta: Any, x: TensorLike) -> float:
        """Returns the mean log-density of pairs in nats, which is minus infinity for parameters on a bound.

        Args:
          theta: Parameters `[num, *event_shape]`, in the structure of the prior's events.
          x: Observations `[num, *condition_shape]` that were simulated with `theta`.
        """
        chunks = self._density.chunks(*self._checked_pairs(theta, x))
        log_probs = [posterior.log_prob(events) for posterior, events in chunks]
        return float(np.mean(np.concatenate(log_probs), dtype=np.float64))

    def _checked_pairs(self, theta, x):
        """Returns checked pairs, with parameters in the structure of the prior's events."""
        x = self._density.observations.checked(x)
        theta = self.space.events(theta, len(x))
        self.space.vectors(theta, len(x))  # raises for wrong parameters
        return theta, x
