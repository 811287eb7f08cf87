"""SGD on weights in fixed point, a least-squares problem small enough for a figure: `floors.py`.

    python -m paper_figs.guo2018survey._fixed      # about 15 seconds on one core

Samples (x, x w* + e), x of D independent N(0, 1), e of N(0, NOISE^2), w* uniform in [-1, 1]; steps
w <- w - eta g, g the gradient of half the squared error over BATCH of them. Where w lives:

  nearest     on the grid <2, FL>: each new w is rounded to the nearest value, ties to even
  stochastic  the same, rounded to one of the two neighbours without bias [gupta2015limited]
  master      in float64; the gradient is taken at w rounded to nearest, and so is the loss
              [courbariaux2015binaryconnect, with a grid in place of signs]
  free        in float64

All see the same samples, and start from 0. Rows go to results/guo2018survey/floors.jsonl, one a
rate, grid and kind: mean loss above that of w*, |w - w*|^2 / 2, of the last half of STEPS steps,
and its standard error over the replicas.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from paper_figs import short_run

PAPER = "guo2018survey"
D, BATCH, NOISE, REPLICAS = 16, 8, 0.25, 8
STEPS = 16_000
KINDS = ("nearest", "stochastic", "master", "free")
FRACTION_BITS = tuple(range(2, 15))
RATE, FIXED = 0.01, 6  # of the sweeps over the bits and over the rates
RATES = tuple(0.1 * 2.0**-i for i in range(7))
INTEGER_BITS = 2  # from -2 to 2: no weight comes near
TERMS = 64  # of a series


def rounded(w: np.ndarray, frac: np.ndarray | int, uniform: np.ndarray | None = None) -> np.ndarray:
    """To multiples of 2^-frac, nearest, or by `uniform` numbers in [0, 1) to a neighbour."""
    scaled = np.ldexp(w, frac)
    whole = np.rint(scaled) if uniform is None else np.floor(scaled + uniform)
    reach = np.ldexp(1.0, INTEGER_BITS - 1 + frac)
    return np.ldexp(np.clip(whole, -reach, reach - 1), np.negative(frac))


def floors(settings: list[tuple[float, int]], steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """Mean losses above that of w*, (settings, kinds, replicas), of (rate, FL) in `settings`."""
    rng = np.random.default_rng(seed)
    best = rng.uniform(-1, 1, (REPLICAS, D))
    eta = np.array([s[0] for s in settings])[:, None, None]
    frac = np.array([s[1] for s in settings])[:, None, None]
    w = np.zeros((len(settings), len(KINDS), REPLICAS, D))
    total = np.zeros(w.shape[:-1])
    for t in range(steps):
        x = rng.standard_normal((REPLICAS, BATCH, D))
        noise = NOISE * rng.standard_normal((REPLICAS, BATCH))
        seen = w.copy()
        seen[:, 2] = rounded(w[:, 2], frac)
        wrong = seen - best
        if t >= steps - steps // 2:
            total += (wrong**2).sum(-1) / 2
        misses = np.einsum("skrd,rbd->skrb", wrong, x) - noise
        w -= eta[..., None] * np.einsum("skrb,rbd->skrd", misses, x) / BATCH
        w[:, 0] = rounded(w[:, 0], frac)
        w[:, 1] = rounded(w[:, 1], frac, rng.random((REPLICAS, D)))
    return total / (steps // 2)


def predicted(eta: float, frac: int) -> float:
    """The floor of stochastic rounding: the stationary mean of |w - w*|^2 / 2 [derived].

    For m, the mean square of an element of w - w*, s^2, that of an element of the gradient, and a
    step of 2^-frac,

        s^2 = m + ((D + 1) m + NOISE^2) / BATCH
        2 eta m = eta^2 s^2 + v(eta s)

    where v(u) is the variance that rounding adds to a weight on the grid whose update is normal
    with deviation u: of step^2 f (1 - f), f the part of it that is no whole step,

        v(u) = step^2 (1/6 - sum over k of exp(-2 pi^2 k^2 (u / step)^2) / (pi k)^2)

    near step u sqrt(2/pi) for updates that are much smaller than the step: then the floor is
    proportional to the step, and hardly depends on the rate.
    """
    step, k, m = 2.0**-frac, np.arange(1, TERMS + 1), 0.0
    for _ in range(200):
        s = np.sqrt(m + ((D + 1) * m + NOISE**2) / BATCH)
        m = (eta * s**2 + added(eta * s / step, k) * step**2 / eta) / 2
    return D * m / 2


def added(u: float, k: np.ndarray) -> float:
    """Mean of f (1 - f) for a normal update of deviation u steps; sqrt(2/pi) u - u^2 if small."""
    if u < 0.05:  # the series converges slowly; what is left out is below exp(-1 / (2 u^2))
        return np.sqrt(2 / np.pi) * u - u**2
    return 1 / 6 - float((np.exp(-2 * (np.pi * k * u) ** 2) / (np.pi * k) ** 2).sum())


def rows() -> Iterator[dict]:
    """One a sweep, setting and kind."""
    sweeps = {
        "bits": [(RATE, frac) for frac in FRACTION_BITS],
        "rate": [(eta, FIXED) for eta in RATES],
    }
    for sweep, settings in sweeps.items():
        for (eta, frac), by_kind in zip(settings, floors(settings), strict=True):
            for kind, losses in zip(KINDS, by_kind, strict=True):
                error = losses.std(ddof=1) / np.sqrt(len(losses))
                yield {"sweep": sweep, "eta": eta, "frac": frac, "kind": kind,
                       "loss": _digits(losses.mean()), "se": _digits(error)}  # fmt: skip


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    short_run.write(PAPER, "floors", list(rows()))
