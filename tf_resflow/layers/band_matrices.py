"""The largest eigenvalue of block-tridiagonal matrices, as those of convolutions are: a guess and its proof."""

import numpy as np

_KRYLOV = 200
_EXCESS = 1e-9  # of the first bound that is tried, over the guess


def eigenvalue_bound(diagonal: np.ndarray, below: np.ndarray) -> float:
    r"""An upper bound of the largest eigenvalue of a symmetric, semidefinite, block-tridiagonal matrix G.

    \\(\mu I - G\\) has a Cholesky factor if and only if \\(\mu\\) is above all eigenvalues. The first \\(\mu\\) is
    above the largest Ritz value of 200 steps of Lanczos' method by a factor of \\(1 + 10^{-9}\\); each further one
    by a hundred times as much, up to the largest sum of a row.

    The blocks on the diagonal are `[blocks, m, m]`, float64, and those under it `[blocks - 1, m, m]`.

    References:
      Golub and Van Loan, "Matrix Computations", sections 4.2 and 10.1.
    """
    most = _largest_row_sum(diagonal, below)
    if not 0.0 < most < np.inf:
        return most
    guess, excess = _ritz_value(diagonal / most, below / most), _EXCESS
    while guess * (1.0 + excess) < 1.0:
        if _is_above(guess * (1.0 + excess), diagonal / most, below / most):
            return most * guess * (1.0 + excess)
        excess *= 100.0
    return most


def _largest_row_sum(diagonal, below):
    sums = np.abs(diagonal).sum(2)
    sums[1:] += np.abs(below).sum(2)
    sums[:-1] += np.abs(below).sum(1)
    return float(sums.max())


def _ritz_value(diagonal, below):
    """The largest eigenvalue in a Krylov space of a random vector: from below, up to rounding."""
    x = np.random.default_rng(0).normal(size=(*diagonal.shape[:2], 1))
    x /= np.linalg.norm(x)
    before, beta, alphas, betas = np.zeros_like(x), 0.0, [], []
    for _ in range(min(_KRYLOV, x.size)):
        y = diagonal @ x
        y[1:] += below @ x[:-1]
        y[:-1] += below.transpose(0, 2, 1) @ x[1:]
        y -= beta * before
        alphas.append(float(np.vdot(x, y)))
        y -= alphas[-1] * x
        beta = float(np.linalg.norm(y))
        betas.append(beta)
        if beta < 1e-14:
            break
        before, x = x, y / beta
    off = np.diag(betas[:-1], 1)
    return float(np.linalg.eigvalsh(np.diag(alphas) + off + off.T)[-1])


def _is_above(bound, diagonal, below):
    identity = np.eye(diagonal.shape[1])
    complement = bound * identity - diagonal[0]
    try:
        for block, coupling in zip(diagonal[1:], below, strict=True):
            factor = np.linalg.cholesky(complement)
            rows = np.linalg.solve(factor, coupling.T)
            complement = bound * identity - block - rows.T @ rows
        np.linalg.cholesky(complement)
    except np.linalg.LinAlgError:
        return False
    return True
