"""Loss-aware methods: the order of their errors, and two scales as two problems of one."""

import functools

import hypothesis as hp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import UNIT, weights

from qtrain.optim import LossAware
from qtrain.zoo.loss_aware import METHODS, TwoScales
from qtrain.zoo.ternary import TWN
from theory import loss_aware as theory

run = functools.partial(jax.jit, static_argnums=0)(lambda q, w, v: q(w, v))
SETTINGS = {
    method.name: method.settings(2 if method.name == "laq" else None)["weight"]
    for method in METHODS
}


def moments(w: np.ndarray) -> np.ndarray:
    """Second moments over six decades, and the curvature they stand for, float64."""
    rng = np.random.default_rng(int(np.abs(w).view(np.uint32).sum()) % 2**32)
    v = (10.0 ** rng.uniform(-8, -2, w.shape)).astype(np.float32)
    return v, np.sqrt(v.astype(float)) + 1e-8


@hp.given(weights())
def test_exact_is_no_worse_than_alternating_and_that_no_worse_than_where_it_begins(w):
    """Errors weighted by curvature; two scales are no worse than one, and TWN no better than exact.

    It begins with the ternary codes of TWN, and may end worse than signs: see
    optim/test_loss_aware.py.

    Each within the rounding of scales, at most 8 n u of the weighted sum of squares. Kills:
    zoo/loss_aware.py: `jnp.minimum(w, 0)` -> `jnp.maximum(w, 0)`; `one: LossAware = _TERNARY` of
    `least_squares` is caught by the next test; `begin="ternary"` left out of laq.
    """
    v, c = moments(w)
    error = lambda q: (c * (np.asarray(q, float) - w) ** 2).sum()  # noqa: E731
    slack = 8 * w.size * UNIT * (c * w.astype(float) ** 2).sum()
    alternating, exact, two = (error(run(SETTINGS[name], w, v)) for name in ("laq", "lat", "lat2"))
    assert two <= exact + slack
    assert exact <= alternating + slack
    assert alternating <= error(TWN()(jnp.asarray(w))) + slack
    even = lambda q: ((np.asarray(q, float) - w) ** 2).sum()  # noqa: E731
    slack = 8 * w.size * UNIT * (w.astype(float) ** 2).sum()
    assert even(run(SETTINGS["lat"], w, np.ones_like(v))) <= even(TWN()(jnp.asarray(w))) + slack


@hp.given(weights())
def test_two_scales_are_the_optimum_of_each_sign(w):
    """The error of theory's exact optimum of each side alone, but for rounding; zeros stay.

    Rounding moves an error by (8 (n + 8) + 24) u of the sum of c w^2 at most, see
    test_optimum_is_the_least_error in optim/test_loss_aware.py. Kills: zoo/loss_aware.py:
    `jnp.maximum(w, 0)` -> `w`; `_TERNARY` with the rule least_squares.
    """
    v, c = moments(w)
    got = np.asarray(run(TwoScales(), w, v))
    for side in (w > 0, w < 0):
        if side.any():
            own, weight = w[side].astype(float), c[side]
            best = theory.error(own, weight, theory.optimum(own, weight, 2))
            error = (weight * (got[side] - own) ** 2).sum()
            assert error <= best + (8 * w.size + 88) * UNIT * (weight * own**2).sum()
    np.testing.assert_array_equal(got[w == 0], 0)
    assert len(np.unique(got)) <= 3


@pytest.mark.parametrize("name", SETTINGS)
def test_stored_and_finite(name):
    """Methods act in the optimizer, on both signs; zeros stay zeros, what is not finite shows."""
    settings = SETTINGS[name]
    assert settings.stored
    w = jnp.array([0.5, -1.0, 0.0, 0.25])
    assert np.isnan(settings(w.at[1].set(jnp.nan))).any()
    np.testing.assert_array_equal(settings(0 * w), 0 * w)
    assert "in the optimizer" in settings.describe()


def test_widths():
    """Kills: `bits` of laq not passed on."""
    (laq,) = (method for method in METHODS if method.name == "laq")
    assert [laq.settings(bits)["weight"].bits for bits in (2, 3, 8)] == [2, 3, 8]
    with pytest.raises(ValueError, match="laq has no bits 7"):
        laq.settings(7)
    with pytest.raises(ValueError, match="two scales are for ternary weights, bits=2, not 3"):
        TwoScales(one=LossAware(bits=3))
