"""conv: every geometry against lax, gradients, and the tiling over images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qtrain as qt
from qtrain.ops import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
GEOMETRIES = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "strided": {"window_strides": (2, 2), "padding": "SAME"},
    "valid": {"window_strides": (2, 1), "padding": "VALID"},
    "uneven": {"window_strides": (2, 2), "padding": [(2, 1), (0, 3)], "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": [(1, 1), (2, 1)], "lhs_dilation": (2, 3)},
    "grouped": {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
}
FLOAT32 = qt.Accumulator("float32")
ALL = qt.DotConfig(forward=FLOAT32, input_grad=FLOAT32, weight_grad=FLOAT32)


def arrays(groups: int = 1):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (3, 9, 8, 4))
    return x, jax.random.normal(keys[1], (3, 2, 4 // groups, 6))


def run(conv, x, w, error):
    y, pull = jax.vjp(conv, x, w)
    return y, *pull(error)


def test_negative_padding_crops():
    """Not compared with lax, which on CPU reads past the end of a cropped input (jax 0.10.2)."""
    x, w = arrays()
    conv = lambda x, padding: conv_general_dilated(  # noqa: E731
        x, w, (1, 2), padding, dimension_numbers=NHWC, config=ALL
    )
    cropped = conv(x, [(-1, 1), (0, -1)])
    assert (cropped == conv(x[:, 1:, :-1], [(0, 1), (0, 0)])).all()


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_geometry_equals_lax(geometry):
    """Within 2 gamma_K sum |x w| for any order of K float32 additions
    [higham2002accuracy, Sec. 3.1]. Kills: an unflipped kernel, a padding off by one."""
    x, w = arrays(geometry.get("feature_group_count", 1))
    plain = lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=NHWC, **geometry)  # noqa: E731
    ours = lambda x, w: conv_general_dilated(x, w, dimension_numbers=NHWC, config=ALL, **geometry)  # noqa: E731
    error = jax.random.normal(jax.random.key(1), plain(x, w).shape)
    size = run(plain, jnp.abs(x), jnp.abs(w), jnp.abs(error))
    unit = max(w[..., 0].size, w[:, :, 0].size, error[..., 0].size) * 2.0**-24
    got, want = jax.jit(lambda *a: run(ours, *a))(x, w, error), run(plain, x, w, error)
    for g, p, magnitude in zip(got, want, size, strict=True):
        bound = 2 * unit / (1 - unit) * np.asarray(magnitude, np.float64) * (1 + 1e-6)
        assert (np.abs(np.asarray(g, np.float64) - np.asarray(p, np.float64)) <= bound).all()


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_empty_config_is_lax(geometry):
    x, w = arrays(geometry.get("feature_group_count", 1))
    plain = lambda x, w: lax.conv_general_dilated(x, w, dimension_numbers=NHWC, **geometry)  # noqa: E731
    ours = lambda x, w: conv_general_dilated(  # noqa: E731
        x, w, dimension_numbers=NHWC, config=qt.DotConfig(), **geometry
    )
    error = jnp.ones(plain(x, w).shape)
    for g, p in zip(run(ours, x, w, error), run(plain, x, w, error), strict=True):
        np.testing.assert_array_equal(g, p)


def test_other_layouts():
    x, w = arrays()
    first = lambda x: jnp.moveaxis(x, -1, 1)  # noqa: E731
    config = qt.DotConfig(forward=qt.Accumulator("e6m9", 8))
    want = qt.conv(x, w, config=config)
    got = conv_general_dilated(
        first(x), jnp.transpose(w, (3, 2, 0, 1)), (1, 1), "SAME", config=config
    )
    np.testing.assert_array_equal(first(want), got)


@pytest.mark.parametrize("rank", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks(rank):
    x = jax.random.normal(jax.random.key(0), (2, *[5] * rank, 3))
    w = jax.random.normal(jax.random.key(1), (*[2] * rank, 3, 4))
    got = qt.conv(x, w, padding="VALID", config=ALL)
    spatial = "DHW"[-rank:]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    plain = lax.conv_general_dilated(x, w, (1,) * rank, "VALID", dimension_numbers=layout)
    size = lax.conv_general_dilated(abs(x), abs(w), (1,) * rank, "VALID", dimension_numbers=layout)
    assert (jnp.abs(got - plain) <= 2 * w[..., 0].size * 2.0**-24 * size * 1.0001).all()


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_tiles_of_images_do_not_show(rounding, monkeypatch):
    """Kills: random bits that restart in each tile; images lost in a short last tile."""
    module = __import__("sys").modules["qtrain.ops.conv"]
    accum = qt.Accumulator("e6m5", 8, rounding)
    config = qt.DotConfig(forward=accum, input_grad=accum, weight_grad=accum)
    x, w = arrays()
    error, key = jnp.ones((3, 9, 8, 6)), jax.random.key(5)
    conv = lambda x, w: qt.conv(x, w, config=config, key=key)  # noqa: E731
    want = run(conv, x, w, error)
    monkeypatch.setattr(module, "_TILE_PIXELS", 2 * 9 * 8)  # two images a tile, one left over
    for g, p in zip(run(conv, x, w, error), want, strict=True):
        np.testing.assert_array_equal(g, p)


@pytest.mark.parametrize(
    ("x", "w", "settings", "message"),
    [
        ((1, 4, 4, 3), (3, 3, 4), {}, r"cannot convolve \(1, 4, 4, 3\) with \(3, 3, 4\)"),
        ((4,), (3,), {}, "cannot convolve"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"strides": (1,)}, r"2 strides are needed, not \(1,\)"),
        ((1, 4, 4, 3), (3, 3, 2, 4), {}, "feature dimension"),
        ((1, 4, 4, 3), (3, 3, 1, 4), {"groups": 3}, "4 is not a multiple of 3"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"groups": 0}, "positive integer, got 0"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"padding": "FULL"}, "expected 'VALID'.* got FULL"),
        ((1, 4, 4, 3), (3, 3, 3, 4), {"padding": [(1, 1)]}, "expected 2, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(x, w, settings, message):
    """With sums and without, by one line. Kills: conv.py: the checks of axes and strides."""
    for config in (ALL, qt.DotConfig()):
        with pytest.raises((ValueError, TypeError, RuntimeError), match=message) as error:
            qt.conv(jnp.ones(x), jnp.ones(w), config=config, **settings)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dilation", ["lhs_dilation", "rhs_dilation"])
def test_dilations_of_zero_are_refused(dilation):
    x, w = arrays()
    with pytest.raises(TypeError, match="dilations must be positive"):
        conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=NHWC, config=ALL, **{dilation: (0, 1)}
        )


def test_batch_groups_are_refused():
    x, w = jnp.ones((2, 4, 4, 2)), jnp.ones((2, 2, 2, 4))
    with pytest.raises(ValueError, match="batch_group_count must be 1 here, not 2"):
        conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=NHWC, batch_group_count=2, config=ALL
        )


def test_empty_convolutions_and_strides_of_zero():
    """No images, with chunks: no outputs and no gradient. Kills: conv.py: the early returns."""
    sums = qt.Accumulator("e6m9", 4)
    config = qt.DotConfig(forward=sums, input_grad=sums, weight_grad=sums)
    x, w = jnp.zeros((0, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    y, back = jax.vjp(lambda x, w: qt.conv(x, w, config=config), x, w)
    dx, dw = back(y)
    assert y.shape == (0, 5, 5, 4)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))
    assert qt.conv(jnp.ones((1, 5, 5, 2)), w[..., :0], config=config).shape == (1, 5, 5, 0)
    for each in (config, qt.DotConfig()):
        with pytest.raises(ValueError, match="strides must be at least 1"):
            qt.conv(jnp.ones((1, 5, 5, 2)), w, strides=0, config=each)
