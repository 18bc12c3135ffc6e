"""The ten tasks of sbibm for `simulators.py`: priors, simulators, observations and posterior samples.

The tasks are from Lueckmann et al., "Benchmarking simulation-based inference" (2021). Two of them, an epidemic and
a predator-prey model, are integrated here, because sbibm solves them in Julia.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

TASKS = (
    *("two_moons", "gaussian_mixture", "bernoulli_glm", "gaussian_linear", "slcp", "gaussian_linear_uniform"),
    *("sir", "lotka_volterra", "slcp_distractors", "bernoulli_glm_raw"),
)

_FILES = {  # by task, if they are in the folder of another task
    "slcp_distractors": ("slcp", "observation_distractors.csv"),
    "bernoulli_glm_raw": ("bernoulli_glm", "observation_raw.csv"),
}
_MOST_AT_ONCE = {"slcp_distractors": 10_000}  # simulations, which need 1.4 MB each


class Task(NamedTuple):
    """A prior and a simulator.

    Attributes:
      prior: a `torch.distributions.Distribution`.
      simulate: function of parameters `[num, size]` and a NumPy generator, which returns observations
        `[num, data_size]`.
    """

    prior: Any
    simulate: Callable[[np.ndarray, np.random.Generator], np.ndarray]


def make_task(name: str) -> Task:
    """Returns the task with this name."""
    import torch

    if name in _OWN:
        return _OWN[name]()
    torch.load = functools.partial(torch.load, weights_only=False)  # sbibm stores whole distributions
    import sbibm

    task = sbibm.get_task(name)
    simulator = task.get_simulator()

    def simulate(theta, generator):
        torch.manual_seed(int(generator.integers(2**31)))
        return simulator(torch.as_tensor(theta, dtype=torch.float32)).numpy()

    return Task(task.get_prior_dist(), simulate)


def pairs(name: str, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns parameters `[num, size]` and observations `[num, data_size]`, the same at each call."""
    import torch

    task = make_task(name)
    torch.manual_seed(num)
    theta, generator = task.prior.sample((num,)).numpy(), np.random.default_rng(num)
    most = _MOST_AT_ONCE.get(name, num)
    parts = [task.simulate(theta[i : i + most], generator) for i in range(0, num, most)]
    return theta, np.concatenate(parts).astype(np.float32)


def observation(name: str, i: int) -> np.ndarray:
    """Returns the observation i = 1, ..., 10, `[data_size]`."""
    return _read(name, i, _FILES.get(name, (name, "observation.csv"))[1])[0]


def reference(name: str, i: int) -> np.ndarray:
    """Returns samples `[10000, size]` of the posterior of observation i."""
    return _read(name, i, "reference_posterior_samples.csv.bz2")


def _read(name, i, file):
    specification = importlib.util.find_spec("sbibm")
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError("sbibm is not installed. Run pip install --no-deps sbibm.")
    folder = pathlib.Path(specification.origin).parent / "tasks" / _FILES.get(name, (name, ""))[0]
    return pd.read_csv(folder / "files" / f"num_observation_{i}" / file).to_numpy(np.float32)


def runge_kutta(velocity: Callable, state: np.ndarray, step: float, times: np.ndarray) -> np.ndarray:
    """Solves an autonomous differential equation with the classical Runge-Kutta method.

    Args:
      velocity: function of a state.
      state: the state at time 0.
      step: the step size. All times must be multiples of it.
      times: the increasing times of the solution.

    Returns:
      The states at these times, `[times, *state.shape]`.
    """
    found = []
    for i in range(round(times[-1] / step) + 1):
        if round(times[len(found)] / step) == i:
            found.append(state)
        first = velocity(state)
        second = velocity(state + step / 2 * first)
        third = velocity(state + step / 2 * second)
        fourth = velocity(state + step * third)
        state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
    return np.stack(found)


def infected(theta: np.ndarray) -> np.ndarray:
    """Returns the infected fraction of a million people `[num, 10]`, every 17 days after the first infection.

    dS/dt = -beta S I, dI/dt = beta S I - gamma I; the state is (S, log I).
    """
    beta, gamma = theta.astype(np.float64).T

    def velocity(state):
        susceptible, log_infected = state
        return np.stack([-beta * susceptible * np.exp(log_infected), beta * susceptible - gamma])

    start = np.stack([np.full(len(theta), 1 - 1e-6), np.full(len(theta), np.log(1e-6))])
    return np.exp(runge_kutta(velocity, start, 0.25, 17.0 * np.arange(10))[:, 1].T)


def populations(theta: np.ndarray) -> np.ndarray:
    """Returns the logarithms of prey and predators `[num, 20]`, every 2.1 units of time, starting at 30 and 1.

    dx/dt = alpha x - beta x y, dy/dt = -gamma y + delta x y; the state is (log x, log y).
    """
    alpha, beta, gamma, delta = theta.astype(np.float64).T

    def velocity(state):
        prey, predators = np.exp(state)
        return np.stack([alpha - beta * predators, delta * prey - gamma])

    start = np.broadcast_to(np.log([[30.0], [1.0]]), [2, len(theta)])
    found = runge_kutta(velocity, start, 0.01, 2.1 * np.arange(10))
    return np.concatenate([found[:, 0].T, found[:, 1].T], axis=1)


def sir() -> Task:
    """Infected among 1,000 people at ten times. The parameters are the rates of contact and recovery."""
    prior = _log_normal(np.log(np.float32([0.4, 0.125])), [0.5, 0.2])

    def simulate(theta, generator):
        return generator.binomial(1000, np.clip(infected(theta), 0.0, 1.0)).astype(np.float32)

    return Task(prior, simulate)


def lotka_volterra() -> Task:
    """Prey and predators at ten times, with errors of 0.1 in their logarithms."""
    prior = _log_normal([-0.125, -3.0, -0.125, -3.0], [0.5] * 4)

    def simulate(theta, generator):
        log_mean = np.clip(populations(theta), np.log(1e-10), np.log(1e4))
        return np.exp(generator.normal(log_mean, 0.1))

    return Task(prior, simulate)


def _log_normal(loc, scale):
    import torch

    loc, scale = (torch.as_tensor(np.asarray(values, np.float32)) for values in (loc, scale))
    return torch.distributions.Independent(torch.distributions.LogNormal(loc, scale), 1)


_OWN = {"sir": sir, "lotka_volterra": lotka_volterra}
