"""The simulators of the comparison with sbi that are integrated there, against SciPy."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy import integrate

PATH = pathlib.Path(__file__).parents[2] / "benchmarks/simulator_tasks.py"
SPECIFICATION = importlib.util.spec_from_file_location("simulator_tasks", PATH)
tasks = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(tasks)


def epidemic(_, state, beta, gamma):
    susceptible, infected = state
    return [-beta * susceptible * infected, beta * susceptible * infected - gamma * infected]


def prey_and_predators(_, state, alpha, beta, gamma, delta):
    prey, predators = state
    return [alpha * prey - beta * prey * predators, -gamma * predators + delta * prey * predators]


def solution(velocity, start, step, theta):
    times = step * np.arange(10)
    found = integrate.solve_ivp(
        velocity, (0, times[-1]), start, t_eval=times, args=theta, method="LSODA", rtol=1e-10, atol=1e-12
    )
    return found.y


@pytest.mark.parametrize("deviation", [-1.0, 0.0, 1.0])
def test_solutions(deviation):
    """At the medians of the priors and a deviation of the logarithms from them."""
    theta = np.exp(np.log([0.4, 0.125]) + deviation * np.array([0.5, -0.2]))
    _, expected = solution(epidemic, [1 - 1e-6, 1e-6], 17.0, theta)
    np.testing.assert_allclose(tasks.infected(theta[np.newaxis])[0], expected, rtol=1e-4, atol=1e-9)
    theta = np.exp([-0.125, -3.0, -0.125, -3.0] + deviation * np.array([0.5, -0.5, -0.5, 0.5]))
    expected = np.log(solution(prey_and_predators, [30.0, 1.0], 2.1, theta)).ravel()
    np.testing.assert_allclose(tasks.populations(theta[np.newaxis])[0], expected, rtol=1e-4, atol=1e-4)
