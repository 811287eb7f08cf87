"""Scales against direct computation, and what they do with awkward arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain import formats
from qtrain.quantize import Cast, Scale, cast

X = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
METHODS = ["absmax", "power_of_two", "percentile", "mse"]


def groups(axis, block):
    """Index tuples of the values that share a scale."""
    if axis is None:
        return [np.index_exp[:]]
    if block is None:
        return [(*[slice(None)] * axis, i) for i in range(X.shape[axis])]
    parts = [slice(b, b + block) for b in range(0, X.shape[axis], block)]
    rest = [range(n) for i, n in enumerate(X.shape) if i != axis]
    found = []
    for index in np.ndindex(*map(len, rest)):
        for part in parts:
            full = list(index)
            full.insert(axis, part)
            found.append(tuple(full))
    return found


def expected(values: np.ndarray, method: str, fmt) -> float:
    """The scale of one group, in float64."""
    top = np.abs(values).max()
    if method == "percentile":
        top = np.percentile(np.abs(values), 99.9)
    s = float(np.float32(top) / np.float32(fmt.max))
    if method == "power_of_two":
        return 2.0 ** np.ceil(np.log2(s))
    if method == "mse":
        shares = [np.float32(s) * np.float32(k / 32) for k in range(32, 0, -1)]
        errors = [
            np.sum(
                (np.asarray(cast(np.clip(values / c, -fmt.max, fmt.max), fmt)) * c - values) ** 2
            )
            for c in shares
        ]
        return float(shares[int(np.argmin(errors))])
    return s


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("axis", "block"), [(None, None), (0, None), (2, None), (2, 4), (1, 3)])
def test_each_group_has_its_own(method, axis, block):
    """Within 2^-22 of the scale: two float32 roundings (for mse, of the same candidate); within
    2^-21 for a percentile, whose interpolation rounds four times more.

    Kills: scale.py: blocks cut along the wrong axis; axis and the others swapped.
    """
    fmt = formats.get("e4m3fn")
    scale = Scale(method=method, axis=axis, block=block)(X, fmt)
    scale = np.broadcast_to(scale, X.shape)
    for group in groups(axis, block):
        shared = np.unique(scale[group])
        assert shared.size == 1
        want = expected(X[group], method, fmt)
        bound = 2.0 ** -(21 if method == "percentile" else 22)
        assert abs(shared[0] - want) <= bound * want


def test_a_power_of_two_divides_exactly():
    """Scaling back and forth loses nothing but the rounding itself; exact powers stay."""
    scale = Scale(method="power_of_two")
    s = float(scale(X, "e4m3fn").squeeze())
    assert np.log2(s) == np.round(np.log2(s))
    assert np.abs(X / s).max() <= 448
    assert float(scale(jnp.asarray([448.0 * 2]), "e4m3fn").squeeze()) == 2


def test_mse_beats_absmax():
    """On 20,000 Gaussian values in four bits; never worse, since absmax is among its candidates.

    Kills: scale.py: argmin -> argmax.
    """
    x = jax.random.normal(jax.random.key(0), (20000,))
    error = {
        m: float(jnp.sum((Cast("int4", scale=Scale(method=m))(x) - x) ** 2))
        for m in ("absmax", "mse")
    }
    assert error["mse"] < 0.8 * error["absmax"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.zeros(8), np.full(8, np.inf), np.full(8, np.nan)])
def test_hopeless_arrays_have_scale_one(method, bad):
    assert float(Scale(method=method)(jnp.asarray(bad, jnp.float32), "int8").squeeze()) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fmt", ["e5m2", "int8", "ternary", "e8m7"])
def test_magnitudes_of_all_sizes_stay_finite(method, fmt):
    """Where max|x| / max or a share of it underflows, s is 2^-126; it never overflows.

    Kills: scale.py: the scale not clipped (0 below max * 2^-126: NaN).
    """
    exponents = np.array([*range(-149, -100, 3), 0, 100, 126, 127], np.float64)
    x = np.array([1, -0.6, 0.3, 0]) * np.exp2(exponents)[:, None]  # 1.4e-45 and up
    scale = Scale(method=method)
    both = jax.vmap(lambda x: (Cast(fmt, scale=scale)(x), scale(x, fmt)))
    y, s = jax.jit(both)(x.astype(np.float32))
    assert jnp.isfinite(y).all()
    assert ((s >= 2.0**-126) & (s <= 2.0**126)).all()
    assert (y[exponents >= -96, 0] > 0).all()


@pytest.mark.parametrize("n", [1, 2, 11, 1001])
@pytest.mark.parametrize("percent", [0.1, 50, 90, 99.9, 100])
def test_percentile_of_numbers_at_hand(n, percent):
    """Of 1 to n: 1 + percent (n - 1) / 100, in float32; with one infinity beyond the rank the same,
    and with a NaN anywhere, none: 1.

    Kills: scale.py `_percentile`: the share left out; NaN passed over.
    """
    x = np.arange(1, n + 1, dtype=np.float32)
    scale = lambda x: float(Scale(method="percentile", percentile=percent)(x, "binary").squeeze())  # noqa: E731
    exact = 1 + percent * (n - 1) / 100
    assert abs(scale(x) - exact) <= 5 * 2.0**-24 * exact
    if exact <= n - 1:
        assert scale(np.where(x == n, np.inf, x)) == scale(x)
    assert scale(np.where(x == 1, np.nan, x)) == 1


def test_what_the_maximum_is_mapped_to():
    """The largest magnitude of a codebook, whatever its sign; and empty arrays have a scale."""
    x = jnp.asarray([-3.0, 2.0])
    assert float(Scale()(x, "codebook[-2.0,-1.0]").squeeze()) == 1.5
    assert float(Scale()(x, "codebook[-4.0,0.25]").squeeze()) == 0.75
    assert float(Scale()(x, "fixed1.0").squeeze()) == 3
    np.testing.assert_array_equal(Cast("codebook[-2.0,-1.0]", scale=Scale())(x), [-3, -1.5])
    for method in METHODS:
        assert Cast("e5m2", scale=Scale(method=method, axis=0))(jnp.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_equal_scales_share_a_compilation(method):
    traces = []

    @jax.jit
    def run(x):
        traces.append(1)
        return Scale(method=method)(x, "int8")

    assert Scale(method=method) == Scale(method=method)
    assert hash(Scale(method=method)) == hash(Scale(method=method))
    run(X), run(X)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scale(method="max"), "unknown scale 'max': one of absmax"),
        (lambda: Scale(block=4), "block 4 needs an axis"),
        (lambda: Scale(percentile=0), r"percentile must be in \(0, 100\], not 0"),
        (lambda: Scale(axis=3)(X, "int8"), r"axis 3 is not one of an array of shape \(4, 6, 8\)"),
        (lambda: Scale(axis=2, block=3)(X, "int8"), "block 3 does not divide axis 2 of length 8"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
