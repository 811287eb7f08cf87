"""Squared errors of the zoo's weight quantizers on three laws, for `mse.py`.

    python -m paper_figs.guo2018survey._mse      # half a minute on one core

Weights of unit variance: the middles (i + 1/2) / N of N equal shares of each law, so that nothing
is random; the largest of them, on which some methods hang, is about the median largest of N drawn
ones. All are one group of weights. Rows go to results/guo2018survey/mse.jsonl, one a law, quantizer
and number of bits: `mse`, as it is; `scaled`, after the factor of least error, of methods whose
scale means nothing, since a normalization follows the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtri

from paper_figs import short_run
from qtrain import formats
from qtrain.formats import Int
from qtrain.optim import LossAware
from qtrain.quantize import Cast, Scale
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.abc_net import AbcWeights
from qtrain.zoo.balanced import Balanced
from qtrain.zoo.clusters import kmeans
from qtrain.zoo.dorefa import weight as dorefa
from qtrain.zoo.incremental import power, powers_of_two
from qtrain.zoo.lq_nets import KEPT, LearnedBasis, least_squares, rounded, sorted_levels
from qtrain.zoo.ternary import TWN

PAPER = "guo2018survey"
N = 2**16
STEPS = 400  # of the basis of LQ-Nets
LLOYD = 2000  # iterations of k-means, where it is to stand
SMALL = 0.05  # a standard deviation of weights at which tanh is nearly linear

Quantize = Callable[[jax.Array], jax.Array]


def laws() -> dict[str, np.ndarray]:
    """Weights by law, float32 (N, 1), mean 0 and variance 1."""
    p = (np.arange(N) + 0.5) / N
    laplace = np.where(p < 0.5, np.log(2 * p), -np.log(2 - 2 * p)) / np.sqrt(2)
    found = {"normal": ndtri(p), "laplace": laplace, "uniform": (2 * p - 1) * np.sqrt(3)}
    return {name: np.float32(x / x.std())[:, None] for name, x in found.items()}


def quantizers() -> dict[tuple[str, int], Quantize]:
    """By name and bits: functions of an array (n, 1)."""
    found: dict[tuple[str, int], Quantize] = {("twn", 2): TWN()}
    for bits in (1, 2, 3, 4):
        for rule in ("greedy", "refined", "alternating"):
            found[rule, bits] = BinaryCodes(bits=bits, rule=rule)
        found["kmeans", bits] = lambda w, k=2**bits: kmeans(w, k).weights
        found["lloyd", bits] = lambda w, k=2**bits: kmeans(w, k, iterations=LLOYD).weights
        found["lq_nets", bits] = lambda w, bits=bits: settled_basis(w, bits)
        found["dorefa", bits] = dorefa(bits)
        found["dorefa small", bits] = lambda w, bits=bits: dorefa(bits)(SMALL * w) / SMALL
        found["balanced", bits] = Balanced(bits=bits)
        found["laq", bits] = LossAware(bits=bits, rule="optimum")
        found["uniform", bits] = evenly(bits)
    for bits in (1, 2, 3, 4, 5):
        found["abc_net", bits] = AbcWeights(bits=bits)
        if bits > 1:
            found["inq", bits] = lambda w, b=bits: powers_of_two(w, power(jnp.max(jnp.abs(w))), b)
    return found


def evenly(bits: int) -> Quantize:
    """Evenly spaced values around 0 with the best of 32 scales; of one bit, the signs."""
    fmt = "binary" if bits == 1 else Int(bits, symmetric=True).name
    formats.get(fmt)
    return Cast(fmt, scale=Scale(method="mse"))


def settled_basis(w: jax.Array, bits: int) -> jax.Array:
    """What LQ-Nets makes of w after STEPS steps of its basis."""
    settings = LearnedBasis(bits=bits, signed=True)

    def step(_, v):
        levels, codes = sorted_levels(v, settings.codes)
        return KEPT * v + (1 - KEPT) * least_squares(w, v, levels, codes)

    v = lax.fori_loop(0, STEPS, step, settings.first(w.shape))
    return rounded(w, sorted_levels(v, settings.codes)[0])


def errors(w: np.ndarray, q: np.ndarray) -> dict[str, float]:
    """Mean (q - w)^2, and the least mean (a q - w)^2 over all a, for weights of variance 1."""
    w, q = np.float64(w).ravel(), np.float64(q).ravel()
    power_of_q = np.mean(q**2)
    best = np.mean(w**2) - (np.mean(w * q) ** 2 / power_of_q if power_of_q > 0 else 0)
    return {"mse": _digits(np.mean((q - w) ** 2)), "scaled": _digits(best)}


def rows() -> Iterator[dict]:
    """One a law, quantizer and number of bits."""
    for (name, bits), quantize in quantizers().items():
        compiled = jax.jit(quantize)
        for law, w in laws().items():
            q = np.asarray(compiled(jnp.asarray(w)))
            yield {"law": law, "quantizer": name, "bits": bits,
                   "values": len(np.unique(q)), **errors(w, q)}  # fmt: skip


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    short_run.write(PAPER, "mse", list(rows()))
