"""BinaryRelax and ProxQuant: what the weights of each step are, from free to quantized."""

import functools
import math

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from weights import SHAPE, UNIT, weights

import qtrain as qt
from qtrain.nn import Rule, quantize_model
from qtrain.optim import constrained
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.relaxed import METHODS, BinaryRelax, ProxQuant, attract, relax
from qtrain.zoo.ternary import TWN

BINARY = BinaryCodes(bits=1, per="layer")
SEEDS = st.integers(0, 2**32 - 1)
blend = jax.jit(relax)
pull = jax.jit(attract)
ternary = jax.jit(TWN())


@hp.given(weights(), st.floats(2.0**-10, 2.0**10, width=32))
def test_relax(w, eta):
    """(eta q + w) / (1 + eta), between w and q; w itself for eta 0, q itself for infinity.

    Four roundings of each share, one of its product and one of the sum. Kills: zoo/relaxed.py:
    `product(1 - own, q)` -> `product(eta, q)`.
    """
    q = np.asarray(ternary(w))
    want = (float(eta) * q.astype(float) + w) / (1 + float(eta))
    slack = 8 * UNIT * (np.abs(w) + np.abs(q))
    np.testing.assert_array_less(np.abs(blend(w, q, np.float32(eta)) - want), slack + 1e-30)
    np.testing.assert_array_equal(blend(w, q, np.float32(0)), w)
    np.testing.assert_array_equal(blend(w, q, np.float32(np.inf)), q)


@hp.given(weights(), st.floats(0, 2, width=32))
def test_attract(w, share):
    """Nearer by exactly `by`, one rounding, or at q itself; by = 0 changes nothing.

    Kills: zoo/relaxed.py: `<= by, q` -> `<= 2 * by, q`; `w - jnp.sign(away) * by` -> `w + ...`;
    `q, w - jnp.sign` -> `w, w - jnp.sign`.
    """
    q = np.asarray(ternary(w))
    by = np.float32(share * np.abs(w).max())
    away = w - q
    got = np.asarray(pull(w, q, by))
    near = np.abs(away) <= by
    np.testing.assert_array_equal(got[near], q[near])
    np.testing.assert_array_equal(got[~near], (w - np.sign(away) * by)[~near])
    np.testing.assert_array_equal(pull(w, q, np.float32(0)), w)


def test_relax_and_attract_by_hand():
    """Numbers that need no rounding. Kills: zoo/relaxed.py: `own` and `1 - own` swapped."""
    w, q = jnp.array([3.0, -1.0, 0.25]), jnp.array([2.0, -2.0, 0.0])
    np.testing.assert_array_equal(relax(w, q, jnp.float32(3)), [2.25, -1.75, 0.0625])
    np.testing.assert_array_equal(attract(w, q, jnp.float32(0.5)), [2.5, -1.5, 0.0])


@pytest.mark.parametrize("quantizer", [TWN(), BINARY], ids=lambda q: q.describe())
def test_phases_of_binary_relax(quantizer):
    """eta 1, 2, 4, then Q(w); the gradient is that of the identity; evaluation has Q(w) at once.

    Kills: zoo/relaxed.py: `step >= steps, eta` -> `step > steps, eta`; `/ steps)` -> `)`;
    `if not self.use_running_average` -> `if self.use_running_average`.
    """
    w, g = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    w, q = jnp.asarray(w), quantizer(jnp.asarray(w))
    module = BinaryRelax(quantizer=quantizer, exact_from=8.0, steps=3).module(w)
    for eta in (1, 2, 4, math.inf, math.inf):
        graph, state = nnx.split(module)
        slope = jax.grad(lambda w: jnp.vdot(nnx.merge(graph, state, copy=True)(w), g))(w)  # noqa: B023
        np.testing.assert_array_equal(slope, g)
        np.testing.assert_array_equal(module(w), relax(w, q, jnp.float32(eta)))
    fresh = BinaryRelax(quantizer=quantizer).module(w)
    fresh.eval()
    np.testing.assert_array_equal(fresh(w), q)
    fresh.train()
    np.testing.assert_array_equal(fresh(w), relax(w, q, jnp.float32(1)))


def test_phases_of_the_source():
    """1.04 an epoch for 150 of 200 epochs, as in its code, spread over the steps of the survey."""
    assert abs(1.04**150 - BinaryRelax.exact_from) < 0.5
    assert BinaryRelax.steps == math.ceil(150 / 200 * 186)


def test_relaxed_model():
    """Every layer counts its steps, under jit and the gradient.

    Kills: zoo/relaxed.py: `jnp.minimum(step + 1, steps)` -> `step`.
    """
    layer = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    net = quantize_model(nnx.Sequential(layer), [Rule(".*", qt.DotConfig(rhs=BinaryRelax()))])
    graph, params, rest = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return jnp.sum(model(jnp.ones((2, 6))) ** 2), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    slopes, after = step(params, rest)
    assert all(np.isfinite(x).all() and (np.asarray(x) != 0).any() for x in jax.tree.leaves(slopes))
    np.testing.assert_array_equal(jax.tree.leaves(after), [np.float32(1)])


STEPS = 12


@functools.partial(jax.jit, static_argnums=0)
def train(constraint, w, noise):
    """Weights and states of STEPS steps: projected, then moved by `noise`, (STEPS, *SHAPE)."""

    def step(carry, now):
        w, state = carry
        number, move = now
        projected, state = constraint.project(w, state, number, STEPS)
        return (projected + move, state), (projected, state)

    start = (w, constraint.init(w, STEPS))
    (w, state), seen = jax.lax.scan(step, start, (jnp.arange(STEPS), noise))
    return seen, constraint.deploy(w, state), w


@pytest.mark.parametrize("quantizer", [TWN(), BINARY], ids=lambda q: q.describe())
@hp.given(weights(), SEEDS)
def test_prox_quant(quantizer, w, seed):
    """most t / T nearer to Q(w) before T = 2/3 of the run; then Q(w) of step 8, whatever happens.

    Kills: zoo/relaxed.py: `jnp.where(state["frozen"], state["held"], self.quantizer(w))` of project
    -> `self.quantizer(w)`, and of deploy; `frozen, q, attract` -> `frozen, w, attract`;
    `step.astype(jnp.float32)` -> `jnp.float32(1)`; `max(self.freeze * steps, 1)` -> `steps`;
    freezing one step later.
    """
    size = np.abs(w).max() + np.float32(2.0**-30)
    noise = np.random.default_rng(seed).normal(size=(STEPS, *SHAPE)).astype(np.float32) * size / 2
    constraint = ProxQuant(quantizer=quantizer, most=2.0**-3)
    (seen, states), deployed, _ = train(constraint, w, noise)
    seen = np.asarray(seen)
    np.testing.assert_array_equal(states["frozen"], np.arange(STEPS) >= 8)
    before = w
    for t in range(9):
        q = np.asarray(quantize(quantizer, before))
        slack = 4 * w.size * UNIT * np.abs(q).max()
        want = q if t == 8 else attract(before, q, np.float32(t * 2.0**-6))
        np.testing.assert_allclose(seen[t], want, atol=slack)
        before = seen[t] + noise[t]
    assert (seen[8:] == seen[8]).all()
    np.testing.assert_array_equal(deployed, seen[8])


def test_codes_change_until_they_are_frozen():
    """A quadratic with noisy gradients under Adam, with the rate and the steps of the survey.

    In the last tenth before the freeze some codes still change, and none after it. Kills:
    zoo/relaxed.py: `most: float = 4e-5` -> `1e-3`; `self.most / max(self.freeze * steps, 1)` ->
    `self.most`.
    """
    steps, rng = 186, np.random.default_rng(0)
    start, goal = rng.normal(size=(2, 64, 64)).astype(np.float32) / 12
    noise = rng.normal(size=(steps, 64, 64)).astype(np.float32)
    constraint = METHODS[1].settings(2)["weight"]
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    @jax.jit
    def run():
        def one(carry, now):
            (w, kept, state), (t, extra) = carry, now
            w, kept = constraint.project(w, kept, t, steps)
            updates, state = tx.update(w - goal + extra, state, w)
            return (w + updates, kept, state), jnp.sign(constraint.deploy(w, kept))

        first = (jnp.asarray(start), constraint.init(start, steps), tx.init(start))
        return jax.lax.scan(one, first, (jnp.arange(steps), noise))[1]

    changes = (np.diff(run(), axis=0) != 0).sum(axis=(1, 2))  # from step t to t + 1
    freeze = math.ceil(constraint.freeze * steps)
    assert changes[freeze - freeze // 10 : freeze].sum() > 0
    assert (changes[freeze:] == 0).all()


quantize = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, w: quantizer(w))


def test_prox_quant_deploys_quantized_weights_before_it_freezes():
    """Kills: zoo/relaxed.py: `, self.quantizer(w))` of deploy -> `, w)`."""
    w = jax.random.normal(jax.random.key(0), SHAPE)
    constraint = ProxQuant()
    np.testing.assert_array_equal(constraint.deploy(w, constraint.init(w, 9)), TWN()(w))


def test_prox_quant_under_an_optimizer():
    """A quadratic: the gradient is that at w itself, which the optimizer subtracts."""
    w = {"kernel": jax.random.normal(jax.random.key(0), SHAPE)}
    tx = constrained(optax.sgd(0.5), {"kernel": ProxQuant()}, steps=9)
    updates, _ = tx.update(w, tx.init(w), w)
    np.testing.assert_array_equal(updates["kernel"], -0.5 * w["kernel"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("step", [1, 5])
def test_not_finite_and_zero(bad, step):
    """A NaN stays one, up to the step that freezes it; what is frozen before no longer moves."""
    w = jax.random.normal(jax.random.key(0), SHAPE)
    constraint = ProxQuant(freeze=0.5)
    spoilt = w.at[0, 0, 0, 0].set(bad)
    new, after = constraint.project(spoilt, constraint.init(w, 8), jnp.int32(step), 8)
    assert not np.isfinite(new).all()
    assert not np.isfinite(constraint.deploy(spoilt, after)).all()
    zeros = jnp.zeros(SHAPE)
    new, after = constraint.project(zeros, constraint.init(zeros, 8), jnp.int32(step), 8)
    np.testing.assert_array_equal(new, zeros)
    np.testing.assert_array_equal(constraint.deploy(zeros, after), zeros)
    relaxed = BinaryRelax().module(w)
    np.testing.assert_array_equal(relaxed(zeros), zeros)
    assert not np.isfinite(relaxed(spoilt)).all()


def test_methods():
    """One bit is binary, two are ternary; both settings are their own jit cache keys."""
    for method, make in zip(METHODS, (BinaryRelax, ProxQuant), strict=True):
        assert method.settings(2) == {"weight": make()}
        assert method.settings(1) == {"weight": make(quantizer=BINARY)}
        assert hash(method.settings()["weight"]) == hash(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryRelax(steps=0), "steps of the first phase must be 1 to 2\\^24, not 0"),
        (lambda: BinaryRelax(exact_from=math.inf), "exact_from must be above 1 and finite"),
        (lambda: ProxQuant(most=-1.0), "most must be finite and at least 0, not -1.0"),
        (lambda: ProxQuant(freeze=1.5), "freeze is a share of the run, 0 to 1, not 1.5"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
