"""Figures of guo2018survey: the same bytes each time, and what their docstrings claim."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from paper_figs import style
from paper_figs.guo2018survey import (
    _compress,
    _fixed,
    _mse,
    angle,
    compression,
    floors,
    levels,
    mse,
    table,
    zoo,
)
from qtrain.train import metrics

DRAWN = [angle, compression, floors, levels, mse, table, zoo]


@pytest.mark.parametrize("module", DRAWN, ids=lambda m: m.__name__)
def test_same_bytes(module, tmp_path, monkeypatch):
    """PDF, PNG and the sidecar, drawn twice, from a copy of the results and one commit."""
    monkeypatch.setitem(style.SETTINGS, "savefig.dpi", 50)
    shutil.copytree(style.RESULTS / module.PAPER, tmp_path / "results" / module.PAPER)
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(metrics, "commit", lambda: "0123")
    folders = [style.make(module, True, tmp_path / name).parent for name in ("a", "b")]
    names = sorted(p.name for p in folders[0].iterdir())
    assert {name.rpartition(".")[2] for name in names} == {"json", "pdf", "png"}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_laws_have_their_moments():
    """Variance 1; kurtosis 3, 6 and 9/5, less what lies beyond the last of N weights: of Laplace
    weights, 2 shares of 1 / 2N near x = log(N) / sqrt 2 hold about (log(N)^4 + ...) / 4N < 0.2.

    Kills: _mse.py: `2 - 2 * p` -> `2 - p`.
    """
    for (name, x), kurtosis in zip(_mse.laws().items(), (3, 6, 1.8), strict=True):
        x = np.float64(x)
        assert abs(x.mean()) < 1e-6, name
        assert (x**2).mean() == pytest.approx(1, abs=1e-6), name
        assert (x**4).mean() == pytest.approx(kurtosis, abs=0.2), name


def test_errors_are_the_sampled_constants():
    """Within 0.003, as they were given. Kills: mse.py: rows of another law."""
    d = mse.data(quick=True)
    for name, by_bits in d["constants"].items():
        line = d["errors"]["normal"][name]
        found = dict(zip(line["bits"], line["mse"], strict=True))
        for bits, want in by_bits.items():
            assert found[bits] == pytest.approx(want, abs=3e-3), (name, bits)


def test_a_row_is_the_error_of_its_quantizer():
    """Four digits: sums of 65536 in another order. Kills: _mse.py: `np.mean(q**2)` ->
    `np.mean(w**2)`; `Int(bits, symmetric=True)` -> `Int(bits)`.
    """
    w = _mse.laws()["laplace"]
    rows = {(r["law"], r["quantizer"], r["bits"]): r for r in style.rows(mse.PAPER, "mse")}
    for name, bits in (("uniform", 2), ("balanced", 3), ("inq", 3)):
        q = np.asarray(jax.jit(_mse.quantizers()[name, bits])(jnp.asarray(w)))
        found, row = _mse.errors(w, q), rows["laplace", name, bits]
        for key, value in found.items():
            assert value == pytest.approx(row[key], rel=1e-4), (name, key)
    assert _mse.errors(w, 3 * w)["scaled"] == pytest.approx(0, abs=1e-6)
    assert _mse.errors(w, 3 * w)["mse"] == pytest.approx(4, abs=1e-5)


def test_what_the_caption_says_of_errors():
    """Nothing beats Shannon's bound, nor Lloyd-Max of as many bits.

    Kills: mse.py: `math.e / math.pi` -> `math.pi / math.e`.
    """
    d = mse.data(quick=True)
    frozen = {"normal": stats.norm(), "laplace": stats.laplace(scale=0.5**0.5),
              "uniform": stats.uniform(0, 12**0.5)}  # fmt: skip
    for law, bound in d["shannon"].items():
        power = math.exp(2 * frozen[law].entropy()) / (2 * math.pi * math.e)
        assert bound == pytest.approx(power), law
    for law, lines in d["errors"].items():
        at = {(n, b): line["mse"][i] for n, line in lines.items()
              for i, b in enumerate(line["bits"])}  # fmt: skip
        for (_, bits), error in at.items():
            assert error > d["shannon"][law] * 4.0**-bits
            assert bits > 4 or error >= at["lloyd", bits] * (1 - 1e-3)
        for bits in (1, 2, 3, 4):
            assert at["uniform", bits] == pytest.approx(at["laq", bits], rel=5e-3)
        for bits in (1, 2):
            for name in ("lq_nets", "alternating"):
                assert at[name, bits] == pytest.approx(at["lloyd", bits], rel=1e-3)
        if law != "uniform":
            for name in ("lq_nets", "alternating"):
                assert 1.195 < at[name, 4] / at["lloyd", 4] < 1.51
        assert at["abc_net", 5] > at["lloyd", 3]
    balanced = d["errors"]["laplace"]["balanced"]["scaled"][3]
    assert balanced / d["errors"]["laplace"]["lloyd"]["mse"][3] == pytest.approx(11, abs=0.5)
    for row in style.rows(mse.PAPER, "mse"):
        assert row["quantizer"] != "abc_net" or row["values"] == row["bits"] + 1


def test_angles_have_the_law():
    """Mean cosine: 1 for one element; for two, of even directions, 4 / (pi sqrt 2). A vector of
    400000 elements within 5 deviations of 37.07 degrees, as the 37.03 that were sampled before;
    deviations of 4096 elements within 5 standard errors.

    Kills: angle.py: `gammaln((n + 1) / 2)` -> `gammaln(n / 2 + 1)`; `3 / math.pi` -> `2 / math.pi`.
    """
    assert angle.mean_cosine(1) == pytest.approx(1)
    assert angle.mean_cosine(2) == pytest.approx(4 / (math.pi * math.sqrt(2)))
    d = angle.data(quick=True)
    deviation = angle.SPREAD / angle.LARGE**0.5
    assert round(angle.SPREAD, 1) == 20.2
    for sampled in (d["large"], 37.03):
        assert abs(sampled - 37.07) < 5 * deviation
    vectors = angle.VECTORS // 8
    for n in (1024, 4096):
        error = angle.SPREAD / n**0.5
        assert abs(d["mean"][n] - d["expected"][n]) < 5 * error / vectors**0.5
        assert d["deviation"][n] == pytest.approx(error, rel=5 / (2 * vectors) ** 0.5)


def test_backward_rules_are_those_of_the_table():
    """Kills: levels.py: `jnp.float32(0.6)` -> `jnp.float32(0.5)`."""
    d = levels.data(quick=True)
    x = {kind: next(c["x"] for n, c in d.items() if levels.operand(n) == kind) for kind in "AW"}
    act, w = x["A"], x["W"]
    size = abs(w)
    want = {
        "BNN, A, 1 bit": abs(act) <= 1,
        "DoReFa, A, 2 bits": (act >= 0) & (act <= 1),
        "HWGQ, A, 2 bits": (act > 0) & (act <= 1.617),
        "PACT, A, 2 bits": (act >= 0) & (act < 1.5),
        "BWN, W, 1 bit": 1 / w.size + size.mean() * (size <= 1),
        "TWN, W, 2 bits": np.ones_like(w),
        "DoReFa, W, 2 bits": (1 - np.tanh(w) ** 2) / np.tanh(size.max()),
        "QIL, W, 3 bits": 1.25 * ((size >= 0.2) & (size <= 1)),
    }
    number = {"BNN, A, 1 bit": 2, "BWN, W, 1 bit": 2, "TWN, W, 2 bits": 3, "QIL, W, 3 bits": 7}
    assert d.keys() == want.keys()
    for name, curve in d.items():
        inner = slice(1, -1)  # the ends share the gradient of a maximum
        np.testing.assert_allclose(curve["gradient"][inner], want[name][inner], rtol=1e-5)
        assert np.unique(curve["value"]).size == number.get(name, 4), name


def test_rounding_adds_the_variance_that_is_derived():
    """Mean of f (1 - f), f = |u z| mod 1 for normal z, by 20001 nodes of z from -8 to 8, where the
    integrand is continuous. Kills: _fixed.py: `1 / 6 -` -> `1 / 12 -`; `- u**2` -> `+ u**2`.
    """
    z = np.linspace(-8, 8, 20001)
    density = np.exp(-(z**2) / 2)
    for u in (0.01, 0.04, 0.06, 0.3, 2.0):
        f = abs(u * z) % 1
        want = (f * (1 - f) * density).sum() / density.sum()
        assert _fixed.added(u, np.arange(1, _fixed.TERMS + 1)) == pytest.approx(want, rel=1e-3)


def test_stochastic_rounding_is_unbiased_on_the_grid():
    """Kills: _fixed.py: `np.floor(scaled + uniform)` -> `np.rint(scaled + uniform)`."""
    n = 10**5
    even = (np.arange(n) + 0.5) / n
    for w in (0.3, -0.3, 1.1):
        q = _fixed.rounded(np.full(n, w), 3, even)
        assert set(np.unique(q)) == {np.floor(w * 8) / 8, np.ceil(w * 8) / 8}
        assert q.mean() == pytest.approx(w, abs=1 / n)
    assert _fixed.rounded(np.array([5.0, -5.0, 0.3]), 3).tolist() == [1.875, -2.0, 0.25]


def test_floors_are_in_order_and_as_predicted():
    """A short run, and all rows. Kills: _fixed.py: the gradient of the wide copy is taken at it,
    `rounded(w[:, 2], frac)` -> `w[:, 2]`.
    """
    short = _fixed.floors([(0.01, 4)], steps=1500)[0].mean(-1)
    assert (np.diff(short) < 0).all()  # nearest, stochastic, master, free
    d = floors.data(quick=True)
    for sweep, of in d["found"].items():
        ratio = np.array(of["stochastic"])[:, 2] / d["predicted"][sweep]
        assert ((ratio > 0.925) & (ratio < 1.03)).all()
    rates = np.array(d["found"]["rate"]["stochastic"])[1:, 2]
    assert np.ptp(rates) / rates.mean() < 0.05  # it does not anneal
    at = {kind: dict(np.array(v)[:, [0, 2]]) for kind, v in d["found"]["bits"].items()}
    for frac in (5, 6, 7):
        assert 1.9 < at["stochastic"][frac] / at["stochastic"][frac + 1] < 2.3
    assert at["nearest"][6] > at["stochastic"][6]
    assert at["nearest"][7] < at["stochastic"][7]
    last = np.array(d["found"]["rate"]["master"])[-1, 2]
    assert last / d["rounded"]["rate"][-1] == pytest.approx(2, rel=0.1)


def test_rates_count_codes_and_codebooks():
    """By hand, of two kernels together. Kills: _compress.py: `inputs // about["length"]` ->
    `about["length"]`.
    """
    shapes = [(3, 3, 4, 8), (20, 6)]
    n = 3 * 3 * 4 * 8 + 20 * 6
    want = {
        "kmeans": n * 3 + 2 * 8 * 32,
        "product": n * 3 / 4 + 8 * 32 * (36 + 20),
        "residual": n * 2 * 3 / 4 + 2 * 2 * 8 * 4 * 32,
    }
    about = {"bits": 3, "length": 4, "stages": 2}
    for kind, bits in want.items():
        found = _compress.rate(shapes, {"kind": kind, **about})
        assert found == pytest.approx(32 * n / bits), kind
    assert _compress.rate(shapes, {"kind": "float32"}) == 1
    assert _compress.code_bits({"kind": "residual", **about}) == 1.5


def test_only_inner_kernels_are_quantized():
    """Kills: _compress.py: `path[-1] == "kernel" and ` left out."""

    class Model(nnx.Module):
        def __init__(self):
            for name in ("conv1", "conv2", "hidden"):
                setattr(self, name, nnx.Linear(2, 2, rngs=nnx.Rngs(0)))

    params = nnx.state(Model(), nnx.Param)
    changed = dict(nnx.to_flat_state(_compress.replaced(params, lambda w: w + 1)))
    for path, value in nnx.to_flat_state(params):
        moved = path in (("conv2", "kernel"), ("hidden", "kernel"))
        np.testing.assert_array_equal(changed[path][...], value[...] + moved)


def test_rows_of_compression():
    """More codes leave less error; each setting has a row."""
    d = compression.data(quick=True)
    assert sum(len(of["rate"]) for of in d["lines"].values()) == len(list(_compress.settings())) - 1
    for name, of in d["lines"].items():
        order = np.argsort(of["code_bits"])
        assert (np.diff(np.array(of["error"])[order]) < 0).all(), name
