"""The bound of the largest eigenvalue of block-tridiagonal matrices, against dense eigenvalues in NumPy."""

import numpy as np
import pytest
import scipy.linalg

from tf_resflow.layers import band_matrices

_KINDS = ["the first block", "the last block", "a block inside", "the couplings", "a single block"]
_GUESSES = [1.0 - 1e-3, 1.0 - 1e-6, 0.9, 0.6, 0.05]  # Ritz values that have not converged, over the eigenvalue


def random_band(kind, seed):
    """The blocks of B B' on and below the diagonal. B is block-bidiagonal, and one of its parts dominates."""
    generator = np.random.default_rng(seed)
    num, size = int(generator.integers(3, 7)), int(generator.integers(1, 5))
    factors = 0.3 * generator.normal(size=(num, size, size))
    lower = 0.3 * generator.normal(size=(num - 1, size, size))
    if kind == "a single block":
        factors, lower = factors[:1], lower[:0]
    elif kind == "the couplings":  # equal blocks, whose products add up along the band
        factors[:] = lower[:] = np.linalg.qr(factors[0])[0]
    else:
        factors[{"the first block": 0, "the last block": -1, "a block inside": num // 2}[kind]] *= 10.0
    diagonal = factors @ factors.transpose(0, 2, 1)
    diagonal[1:] += lower @ lower.transpose(0, 2, 1)
    return diagonal, lower @ factors[:-1].transpose(0, 2, 1)


def largest_eigenvalue(diagonal, below):
    dense, size = scipy.linalg.block_diag(*diagonal), diagonal.shape[1]
    dense[size:, :-size] += scipy.linalg.block_diag(*below) if len(below) else 0.0
    return np.linalg.eigvalsh(dense)[-1]  # of the lower triangle


@pytest.mark.parametrize("kind", _KINDS)
def test_the_bound_is_tight_and_one_that_is_too_low_is_never_certified(kind, monkeypatch):
    """If the guess is too low, the bound is the first of those that are tried that is above all eigenvalues."""
    for seed in range(20):
        band = random_band(kind, seed)
        expected, most = largest_eigenvalue(*band), band_matrices._largest_row_sum(*band)
        assert expected <= band_matrices.eigenvalue_bound(*band) <= expected * (1 + 1e-8)
        for share in _GUESSES:
            tried = [share * expected * (1 + 1e-9 * 100.0**i) for i in range(9)]
            first = min(bound for bound in [*tried, most] if bound >= expected)
            with monkeypatch.context() as patch:
                patch.setattr(band_matrices, "_ritz_value", lambda *_, guess=share * expected / most: guess)
                np.testing.assert_allclose(band_matrices.eigenvalue_bound(*band), min(first, most), rtol=1e-12)
