"""Fig. 3(b): a 16-bit sum of uniform values (mean 1, standard deviation 1) against its length.

Sum of n values on the (1,6,9) grid, mean over repetitions; every addition rounded to (1,6,9).
Nearest rounding sticks at exactly 4096, where half an ulp (4) exceeds every addend (at most
1 + sqrt 3); chunks of 64, or stochastic rounding, follow the true sum [wang2018fp8, Fig. 3(b)].
"""

import numpy as np

from paper_figs import style

PAPER = "wang2018fp8"
WIDTH = "column"
REPETITIONS = 64
LOOKS = {  # three of the four sums agree: a band, rings on it, and crosses in the rings
    "float32": {"linewidth": 5, "alpha": 0.2, "solid_capstyle": "butt"},
    "stochastic": {"marker": "o", "markersize": 6, "markerfacecolor": "none"},
    "chunked": {"marker": "x", "linewidth": 0.6},
    "nearest": {"marker": "."},
}


def addends(length: int) -> np.ndarray:
    """(repetitions, length) float32 uniform on [1 - sqrt 3, 1 + sqrt 3]."""
    low, high = 1 - np.sqrt(3), 1 + np.sqrt(3)
    return np.random.default_rng(0).uniform(low, high, (REPETITIONS, length)).astype(np.float32)


def data(quick: bool) -> dict:
    """Mean sum at each length, by method."""
    import jax
    import jax.numpy as jnp

    import qtrain as qt

    lengths = [2**i for i in (range(8, 15, 2) if quick else range(8, 17))]
    x = np.asarray(qt.cast(jnp.asarray(addends(lengths[-1])), qt.formats.get("e6m9")))
    key = jax.random.key(0)
    sums: dict[str, list[float]] = {"float32": [], "nearest": [], "chunked": [], "stochastic": []}
    for n in lengths:
        ones = jnp.ones((n, 1))
        accumulators = {
            "nearest": qt.Accumulator("e6m9"),
            "chunked": qt.Accumulator("e6m9", 64),
            "stochastic": qt.Accumulator("e6m9", rounding="stochastic"),
        }
        sums["float32"].append(float(jnp.sum(jnp.asarray(x[:, :n]), 1).mean()))
        for name, accum in accumulators.items():
            total = qt.dot(jnp.asarray(x[:, :n]), ones, accum=accum, key=key)
            sums[name].append(float(total.mean()))
    return {"length": lengths, **sums}


def draw(d: dict, ax) -> None:
    """Sum against length, both logarithmic."""
    for method, look in LOOKS.items():
        ax.plot(d["length"], d[method], **{**style.LINE[method], **look})
    ax.axhline(4096, **{**style.LINE["theory"], "label": "4096"}, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="length of the sum", ylabel="mean sum")
    ax.legend()


if __name__ == "__main__":
    style.main(__name__)
