"""How the loops over a GEMM are cut must not show: equal bits for any tile, side and thread."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtrain as qt
from qtrain.ops.accumulate import accumulate

CUTS = [  # running sums per tile, outputs below which chunks run side by side, sums per thread
    (8, 1 << 16, 1 << 14),  # a row or two per tile, a short last one
    (30, 8, 1),
    (1 << 18, 80, 0),  # few chunks side by side
]
GEMMS = [  # batch, M, N, K, chunk, rounding, whether float32 operands
    (1, 7, 5, 19, 4, "nearest", True),
    (1, 7, 5, 19, 5, "stochastic", False),
    pytest.param((1, 5, 9, 23, 3, "stochastic", True), marks=pytest.mark.slow),
    pytest.param((2, 3, 4, 11, 4, "stochastic", False), marks=pytest.mark.slow),
    (1, 6, 6, 8, None, "align", True),
]


def cut(monkeypatch, tile: int, side: int, parallel: int) -> None:
    blocks, loop = (sys.modules[f"qtrain.ops.{name}"] for name in ("blocks", "accumulate"))
    monkeypatch.setattr(loop, "TILE", tile)
    monkeypatch.setattr(blocks, "_SIDE", side)
    monkeypatch.setattr(blocks, "_PARALLEL", parallel)


@pytest.mark.parametrize("gemm", GEMMS, ids=lambda g: "-".join(map(str, g)))
def test_cuts_do_not_show(gemm, monkeypatch):
    """Kills: accumulate.py `_by_tiles`: the last rows lost; the index of a tile cut otherwise than
    its rows; blocks.py: the last of several chunks left out.
    """
    batch, m, n, k, chunk, rounding, wide = gemm
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((batch, m, k), (batch, k, n)))
    if not wide:  # through the short sequence of instructions
        a, b = (x.astype(jnp.float8_e5m2).astype(jnp.float32) for x in (a, b))
    accum = qt.Accumulator("e6m9", chunk, rounding)
    key = jax.random.key(3) if accum.needs_key else None
    run = jax.jit(lambda a, b: accumulate(a, b, accum, key))
    want = run(a, b)
    for sizes in CUTS:
        cut(monkeypatch, *sizes)
        got = jax.jit(lambda a, b: accumulate(a, b, accum, key))(a, b)  # traced anew
        np.testing.assert_array_equal(got, want, err_msg=str(sizes))
