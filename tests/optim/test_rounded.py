"""SGD and Adam whose additions are rounded: bits against exact arithmetic, and stochastic odds."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain import formats
from qtrain.optim import adam, apply_updates, axpy, loss_scaled, round_params, sgd
from qtrain.quantize import cast, fold

KEY = jax.random.key(3)


def arrays(*sizes, scale=1.0):
    keys = jax.random.split(KEY, len(sizes))
    return [scale * jax.random.normal(k, (n,)) for k, n in zip(keys, sizes, strict=True)]


def nearest(value: Fraction, fmt) -> Fraction:
    """Ties to even on the unbounded grid of `fmt`, subnormals included."""
    if value == 0:
        return value
    exponent = max(int(np.floor(np.log2(float(abs(value))))), fmt.emin)
    ulp = Fraction(2) ** (exponent - fmt.man)
    return round(value / ulp) * ulp


@pytest.mark.parametrize("name", ["e6m9", "e5m10", "e8m7"])
def test_axpy_is_one_exact_addition(name):
    """Of y and the float32 product, rounded once from the exact sum.

    Kills: optim/axpy.py `add(y, p, fmt, "nearest")` -> `cast(y + p, fmt)` (rounds twice).
    """
    fmt = formats.get(name)
    x, y = arrays(4000, 4000)
    half = y + cast(y, fmt) * 2.0 ** -(fmt.man + 1)  # near ties of the sum
    y = cast(jnp.concatenate([y[:2000], half[2000:]]), fmt)
    x = jnp.where(jnp.arange(4000) % 2 == 0, x, y * 2.0 ** -(fmt.man + 1) * (1 + 2.0**-20))
    got = np.asarray(axpy(1.0, x, y, fmt))
    want = [
        nearest(Fraction(float(a)) + Fraction(float(b)), fmt) for a, b in zip(x, y, strict=True)
    ]
    assert [Fraction(float(g)) for g in got] == want


def keys_of(key, rounding):
    """The key of each addition of leaf "w", by its role."""
    return lambda role: fold(key, "['w']", role) if rounding == "stochastic" else None


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_sgd_is_three_rounded_additions(rounding):
    """Two steps written out with `axpy`, bit for bit.

    Kills: optim/sgd.py `axpy(momentum, v, g` -> `axpy(momentum, g, v`.
    """
    w, g = arrays(1000, 1000, scale=0.1)
    w = cast(w, "e6m9")
    tx = sgd(0.1, momentum=0.9, weight_decay=1e-2, rounding=rounding)
    state, v, weights = tx.init({"w": w}), jnp.zeros(1000), w
    params = {"w": w}
    for step in range(2):
        key = jax.random.fold_in(KEY, step)
        updates, state = tx.update({"w": g}, state, params, key=key)
        params = apply_updates(params, updates, "e6m9")
        of = keys_of(key, rounding)
        decayed = axpy(1e-2, weights, g, "e6m9", of("decay"))
        v = axpy(0.9, v, decayed, "e6m9", of("momentum"))
        weights = axpy(-0.1, v, weights, "e6m9", of("update"))
        np.testing.assert_array_equal(params["w"], weights)
        np.testing.assert_array_equal(state.velocity["w"], v)
    for leaf in (params["w"], state.velocity["w"]):
        np.testing.assert_array_equal(leaf, cast(leaf, "e6m9"))


def test_float32_limit_is_optax():
    """With 21 significant bits, within the rounding of three additions of optax.sgd.

    Each addition errs by at most half an ulp, 2^-22 of its result; with |w|, |v|, |g| < 8 and
    lr 0.1, five steps stay within 5 (3 * 8 * 2^-21): first-order growth is at most 1 + momentum.
    """
    w, g = arrays(256, 256)
    ours = sgd(0.1, momentum=0.5, fmt="e8m21", rounding="nearest")
    theirs = optax.sgd(0.1, momentum=0.5)
    a, b = round_params(w, "e8m21"), w
    state, other = ours.init(a), theirs.init(b)
    for _ in range(5):
        updates, state = ours.update(g, state, a)
        a = apply_updates(a, updates, "e8m21")
        updates, other = theirs.update(g, other, b)
        b = optax.apply_updates(b, updates)
    assert jnp.abs(a - b).max() <= 5 * 3 * 8 * 2.0**-21


def test_small_updates_arrive_only_stochastically():
    """lr g = 2^-12 at w = 1, where half an ulp of (1,6,9) is 2^-10: nearest never moves.

    Stochastic: each step moves down by 2^-10 (the ulp below 1) with probability 1/4, so after
    100 steps of 4096 weights the mean is -100 * 2^-12; 6 standard errors of the mean,
    2^-10 sqrt(100 * 3/16 / 4096), allow 1e-9 of false alarms.
    """
    w, g = jnp.ones(4096), jnp.full(4096, 2.0**-12)
    ends = {}
    for rounding in ("nearest", "stochastic"):
        tx = sgd(1.0, momentum=0.0, rounding=rounding)

        def step(i, carry, tx=tx):
            params, state = carry
            updates, state = tx.update(g, state, params, key=jax.random.fold_in(KEY, i))
            return apply_updates(params, updates, "e6m9"), state

        ends[rounding] = jax.jit(lambda: jax.lax.fori_loop(0, 100, step, (w, tx.init(w))))()[0]  # noqa: B023
    assert (ends["nearest"] == 1).all()
    error = 2.0**-10 * np.sqrt(100 * 3 / 16 / 4096)
    assert abs(float(ends["stochastic"].mean()) - (1 - 100 * 2.0**-12)) < 6 * error


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_adam_is_three_rounded_additions(rounding):
    """Three steps with decay and a schedule: moments bit for bit, as `axpy` makes them, and the
    weights within one ulp of a step in float64 (2^-9, and 2^-18 for float32 on the way). Moments
    of a constant g, stochastic, have the exact mean over 4096 weights.

    Kills: adam.py: `+ weight_decay * w` left out; axpy.py: `learning_rate(count)` at step 0.
    """
    n = 4096
    w = cast(jax.random.uniform(KEY, (n,), minval=1.2, maxval=1.8), "e6m9")
    g = jnp.full(n, 0.3)
    rates = (0.1, 0.02, 0.05)
    schedule = lambda count: jnp.asarray(rates)[count]  # noqa: E731
    tx = adam(schedule, weight_decay=0.5, rounding=rounding)
    params, state = {"w": w}, tx.init({"w": w})
    mu, nu = jnp.zeros(n), jnp.zeros(n)
    for t, lr in enumerate(rates, 1):
        key = jax.random.fold_in(KEY, t)
        of = keys_of(key, rounding)
        before = np.asarray(params["w"], np.float64)
        updates, state = tx.update({"w": g}, state, params, key=key)
        params = apply_updates(params, updates, "e6m9")
        mu = axpy(0.9, mu, jnp.float32(1 - 0.9) * g, "e6m9", of("mu"))
        nu = axpy(0.999, nu, jnp.float32(1 - 0.999) * (g * g), "e6m9", of("nu"))
        np.testing.assert_array_equal(state.mu["w"], mu)
        np.testing.assert_array_equal(state.nu["w"], nu)
        m, v = np.asarray(mu, np.float64), np.asarray(nu, np.float64)
        d = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 0.5 * before
        assert np.abs(params["w"] - (before - lr * d)).max() <= 2.0**-9 + 2.0**-18
    if rounding == "stochastic":
        for moment, mean in ((m, 0.3 * (1 - 0.9**3)), (v, 0.09 * (1 - 0.999**3))):
            # each of three roundings has a variance of at most ulp^2 / 4, ulp <= 2^-9 moment
            assert abs(moment.mean() - mean) < 6 * 2.0**-9 * moment.max() * np.sqrt(3 / 4 / n)


def test_adam_equals_optax_in_its_limit():
    """Moments and weights with 21 stored bits. The gradient is constant, so nothing cancels: after
    three steps mu and nu err by at most 3 * 2^-22 of themselves, the direction (at most 1) by less
    than 8 * 2^-21; each rounding of a weight below 8 errs by at most 8 * 2^-22."""
    w, g = arrays(128, 128)
    ours, theirs = adam(0.01, fmt="e8m21", rounding="nearest"), optax.adam(0.01)
    a, b = round_params(w, "e8m21"), w
    state, other = ours.init(a), theirs.init(b)
    for _ in range(3):
        updates, state = ours.update(g, state, a)
        a = apply_updates(a, updates, "e8m21")
        updates, other = theirs.update(g, other, b)
        b = optax.apply_updates(b, updates)
    assert jnp.abs(a - b).max() <= 3 * (2.0**-22 * 8 + 0.01 * 8 * 2.0**-21)
    for leaf in (state.mu, state.nu, a):
        np.testing.assert_array_equal(leaf, cast(leaf, "e8m21"))


@pytest.mark.parametrize("name", ["e6m9", "e5m10", "e8m7", "e8m14", "e8m21"])
def test_updates_land_exactly(name):
    """`apply_updates` ends on the weight w' that the update was computed from, unless w shrinks
    to less than 2^(man - 22) of itself: then within 2^-23 |w| of it, still on the grid.

    Kills: optim/axpy.py `round_params(optax.apply_updates(...))` -> `optax.apply_updates(...)`.
    """
    keys = jax.random.split(KEY, 4)
    w, target = (
        cast(jax.random.normal(a, (20000,)) * 2.0 ** jax.random.randint(b, (20000,), -10, 10), name)
        for a, b in (keys[:2], keys[2:])
    )
    end = apply_updates(w, target - w, name)
    np.testing.assert_array_equal(end, cast(end, name))
    exact = jnp.abs(target) >= jnp.abs(w) * 2.0 ** (formats.get(name).man - 22)
    assert exact.any()
    np.testing.assert_array_equal(jnp.where(exact, end, 0), jnp.where(exact, target, 0))
    assert (jnp.abs(end - target) <= 2.0**-23 * (jnp.abs(w) + jnp.abs(target))).all()


def test_loss_scale_is_taken_out_and_bad_steps_are_skipped():
    """Kills: optim/loss_scale.py `g / state.scale` -> `g`; `where(finite, new, old)` swapped."""
    tx = loss_scaled(optax.sgd(1.0, momentum=0.5), 1000.0)
    w = jnp.ones(3)
    state = tx.init(w)
    updates, state = tx.update(jnp.full(3, 1000.0), state, w)
    np.testing.assert_array_equal(updates, -jnp.ones(3))
    updates, after = tx.update(jnp.array([1.0, jnp.nan, 1.0]), state, w)
    np.testing.assert_array_equal(updates, jnp.zeros(3))
    assert (after.skipped, after.in_a_row, after.good) == (1, 1, 0)
    jax.tree.map(np.testing.assert_array_equal, after.inner, state.inner)


def test_dynamic_loss_scale_falls_and_rises():
    """Halved at each overflow, not below 1; doubled after `interval` good steps, then anew."""
    tx = loss_scaled(optax.sgd(1.0), 4.0, dynamic=True, interval=3, largest=8.0)
    w = jnp.ones(1)
    state = tx.init(w)
    scales = []
    for bad in (1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, *[0] * 12):
        _, state = tx.update(jnp.where(bad, jnp.inf, w), state, w)
        scales.append(int(state.scale))
    assert scales[:11] == [2, 1, 1, 1, 1, 1, 2, 2, 2, 4, 2]
    assert scales[11:] == [2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sgd(0.1, fmt="int8"), "cannot update weights in int8: a float"),
        (lambda: sgd(0.1, fmt="float32"), "at most 21 mantissa bits"),
        (lambda: adam(0.1, rounding="up"), "unknown rounding 'up'"),
        (lambda: sgd(0.1).update(1.0, sgd(0.1).init(1.0), 1.0), "need a key"),
        (lambda: sgd(0.1).update(1.0, None), "needs the weights"),
        (lambda: loss_scaled(optax.sgd(1.0), 0.0), "positive and finite, not 0"),
        (lambda: loss_scaled(optax.sgd(1.0), 1.0, factor=1.0), "factor must be above 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
