"""Eight 2-D densities from the normalizing-flow literature, in closed form or by quadrature."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from tf_resflow.data.dataset import Dataset

_AT_ONCE = 2**17  # maximum number of logits in memory


class Density2D:
    """A density on the plane, with the methods of a TFP distribution, for NumPy arrays."""

    _draw: Callable[..., np.ndarray]  # arguments: num, generator
    _log_prob: Callable[..., np.ndarray]
    _grid: Any  # half width and spacing of the quadrature grid

    def sample(self, num: int, seed: int | Sequence[int]) -> np.ndarray:
        """Draws `num` independent points, float64 `[num, 2]`. The seed goes to `np.random.default_rng`."""
        return self._draw(num, np.random.default_rng(seed))

    def log_prob(self, points: np.ndarray) -> np.ndarray:
        """Returns the log-density in nats, float64 `[num]`, of points `[num, 2]`."""
        return self._log_prob(np.asarray(points, np.float64))

    def entropy(self) -> float:
        """Returns the differential entropy -E log p in nats, exact or by quadrature on a grid."""
        return float(self._entropy)

    @functools.cached_property
    def _entropy(self):
        half_width, spacing = self._grid
        size = int(np.ceil(2 * half_width / spacing))
        side = (np.arange(size) + 0.5) * spacing - size * spacing / 2
        logs = self._log_prob(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
        return -np.sum(np.exp(logs) * logs) * spacing**2


@dataclasses.dataclass(frozen=True)
class BlurredCurves(Density2D):
    """An equal mixture of curves, each blurred by isotropic Gaussian noise.

    x = c_b(u) + std * noise, with b uniform over the branches and u ~ U(0, 1). Hence

        p(x) = mean_b int_0^1 N(x; c_b(u), std^2 I) du.

    The integral is computed by Gauss-Legendre quadrature in sqrt(u), because the spirals are smooth in sqrt(u).

    Attributes:
      curve: `curve(branch, u)` returns points `[..., 2]` for arrays of branches and of u.
      nodes: Number of quadrature nodes per curve; 1 if the curve is a point.
    """

    curve: Callable
    branches: int
    std: float
    nodes: int = 200

    def _draw(self, num, generator):
        branch = generator.integers(self.branches, size=num)
        points = self.curve(branch, generator.uniform(size=num))
        return points + self.std * generator.normal(size=[num, 2])

    def _log_prob(self, points):
        centers, weights = self._quadrature
        precision = 1 / self.std**2
        bias = np.log(weights * precision / (2 * np.pi))
        bias -= precision / 2 * np.sum(centers**2, axis=1)
        result = -precision / 2 * np.sum(points**2, axis=1)
        num = max(1, _AT_ONCE // len(weights))
        for rows in (slice(start, start + num) for start in range(0, len(points), num)):
            logits = points[rows] @ (precision * centers.T) + bias
            result[rows] += special.logsumexp(logits, axis=1)
        return result

    @property
    def _grid(self):
        return np.max(np.abs(self._quadrature[0])) + 6 * self.std, self.std / 2

    @functools.cached_property
    def _quadrature(self):
        roots, weights = np.polynomial.legendre.leggauss(self.nodes)
        v = np.tile((roots + 1) / 2, self.branches)
        branch = np.repeat(np.arange(self.branches), self.nodes)
        weights = np.tile(weights, self.branches) * v
        return self.curve(branch, v**2), weights / np.sum(weights)


class Checkerboard(Density2D):
    """The uniform density on 8 of the 16 squares of side 2 that tile [-4, 4]^2."""

    _entropy = np.log(32)

    def _draw(self, num, generator):
        column = generator.integers(4, size=num)
        half = generator.integers(2, size=num)
        corner = np.stack([column, 2 * half + column % 2], axis=1)
        return 2 * (corner + generator.uniform(size=[num, 2])) - 4

    def _log_prob(self, points):
        column, row = np.floor(points.T / 2)
        inside = np.all(np.abs(points) < 4, axis=1) & ((column + row) % 2 == 0)
        return np.where(inside, -np.log(32), -np.inf)


class Pinwheel(Density2D):
    """Five elongated Gaussians, each rotated by an angle that grows with the radius.

    z ~ N((1, 0), diag(0.3^2, 0.1^2)) is rotated by 2 pi b / 5 + exp(|z|) / 4, with b uniform over 0, ..., 4, and
    doubled. The rotation preserves the radius, and therefore area. Hence p(x) is 1/4 of the mean over b of the
    Gaussian density at x / 2, rotated back.
    """

    def _draw(self, num, generator):
        z = generator.normal(size=[num, 2]) * [0.3, 0.1] + [1, 0]
        return 2 * _rotate(z, self._angle(z, generator.integers(5, size=num)))

    def _log_prob(self, points):
        z = points[:, np.newaxis] / 2
        z = _rotate(z, -self._angle(z, np.arange(5)))
        exponents = -np.sum(((z - [1, 0]) / [0.3, 0.1]) ** 2, axis=-1) / 2
        return np.logaddexp.reduce(exponents, axis=1) - np.log(5 * 4 * 2 * np.pi * 0.3 * 0.1)

    _grid = 2 * (1 + 6 * 0.3), 0.02

    def _angle(self, z, branch):
        return 2 * np.pi * branch / 5 + np.exp(np.linalg.norm(z, axis=-1)) / 4


def _rotate(points, angle):
    x, y = np.moveaxis(points, -1, 0)
    cos = np.cos(angle)
    sin = np.sin(angle)
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _polar(radius, angle):
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _moon(branch, u):
    outer = 2 * _polar(1, np.pi * u) + [-1, -0.2]
    return np.where(branch[:, np.newaxis] == 0, outer, [0, 0.6] - outer)


def _spiral(branch, u):
    angle = 3 * np.pi * np.sqrt(u)
    return _polar(angle / 3, np.pi * branch - angle)


def _swiss_roll(branch, u):
    angle = 1.5 * np.pi * (1 + 2 * u)
    return _polar(angle / 5, angle)


DENSITIES: dict[str, Density2D] = {
    "8gaussians": BlurredCurves(lambda b, u: _polar(np.sqrt(8), np.pi * b / 4), 8, np.sqrt(1 / 8), nodes=1),
    "checkerboard": Checkerboard(),
    "pinwheel": Pinwheel(),
    "rings": BlurredCurves(lambda b, u: _polar((b + 1) * 0.75, 2 * np.pi * u), 4, 0.08, nodes=400),
    "circles": BlurredCurves(lambda b, u: _polar((b + 1) * 1.5, 2 * np.pi * u), 2, 0.24),
    "moons": BlurredCurves(_moon, 2, 0.2),
    "2spirals": BlurredCurves(_spiral, 2, 0.1, nodes=300),
    "swissroll": BlurredCurves(_swiss_roll, 1, 0.2, nodes=300),
}
"""Eight 2-D densities by name.

`DENSITIES["moons"].sample(num, seed)` draws independent points, float64 `[num, 2]`. The seed goes to
`np.random.default_rng`. `log_prob(points)` returns log-densities, and `entropy()` the differential entropy, in
nats.
"""


def load_density(name: str, num_test: int = 10_000, num_validation: int = 10_000) -> Dataset:
    """Loads a 2-D density: an endless train stream of new samples, and fixed samples for validation and testing.

    Args:
      name: A key of `DENSITIES`.
      num_test: Number of test examples.
      num_validation: Number of validation examples; 0 for no such split.

    Returns:
      A `Dataset` of event shape `(2,)` with its `entropy`.
    """
    sizes = {"test": num_test} | ({"validation": num_validation} if num_validation else {})
    words = {"test": 1, "validation": 3}  # start of the seeds; the train stream uses 2
    density = DENSITIES[name]

    @functools.cache
    def read(split):
        return density.sample(sizes[split], (words[split],)).astype(np.float32)

    def draw(num, seed):
        return density.sample(num, (2, *(word % 2**32 for word in seed)))

    return Dataset(name, (2,), None, sizes, read=read, draw=draw, entropy=density.entropy())
