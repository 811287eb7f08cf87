"""Angle between w and sign(w), by dimension: signs keep about the direction.

Left: histograms over 2000 drawn vectors w of n independent normal elements, 500 of 16384. Right:
their means, bars of one standard deviation; line: the angle of the mean cosine, which is
sqrt(n/pi) Gamma(n/2) / Gamma((n+1)/2); grey: one standard deviation to each side for large n, 20.2
degrees / sqrt n [both derived]. Dashed: arccos sqrt(2/pi) = 37.07 degrees, where it all ends
[anderson2018geometry, recalled]: normal weights of a wide layer are turned by nearly the same
angle, whichever they are. Cross: a single vector of 400000 elements.
"""

import math

import numpy as np
from scipy.special import gammaln

from paper_figs import style
from theory import angle

PAPER = "guo2018survey"
WIDTH = "text"
PANELS = 2
DIMENSIONS = (4, 16, 64, 256, 1024, 4096, 16384)
SHOWN = (16, 64, 256, 1024, 4096)
VECTORS, LARGE = 2000, 400_000
SPREAD = math.degrees(math.sqrt((1 - 3 / math.pi) / (1 - 2 / math.pi)))  # times 1 / sqrt n
EDGES = np.linspace(18, 52, 69)  # degrees


def data(quick: bool) -> dict:
    """Degrees by dimension: histograms as densities, means and deviations; the law."""
    rng = np.random.default_rng(0)
    found = {
        n: drawn(rng, n, VECTORS // (8 if quick else 4 if n > 8192 else 1)) for n in DIMENSIONS
    }
    large = rng.standard_normal(LARGE)
    return {
        "histogram": {n: density(found[n]) for n in SHOWN},
        "mean": {n: float(x.mean()) for n, x in found.items()},
        "deviation": {n: float(x.std(ddof=1)) for n, x in found.items()},
        "expected": {n: float(angle.degrees(mean_cosine(n))) for n in DIMENSIONS},
        "large": float(angle.degrees(angle.cosine(large, np.where(large < 0, -1, 1)))),
        "limit": float(angle.degrees(angle.binary())),
    }


def drawn(rng: np.random.Generator, n: int, vectors: int) -> np.ndarray:
    """Angles of that many vectors in degrees: <w, sign w> = |w|_1, |sign w| = sqrt n."""
    w = rng.standard_normal((vectors, n))
    return angle.degrees(abs(w).sum(1) / np.sqrt(n * (w**2).sum(1)))


def density(angles: np.ndarray) -> np.ndarray:
    """Of the angles, for each bin of EDGES."""
    return np.histogram(angles, EDGES)[0] / (len(angles) * (EDGES[1] - EDGES[0]))


def mean_cosine(n: int) -> float:
    """E |u|_1 / sqrt n for u uniform on the sphere of R^n: sqrt(2/pi) for large n."""
    return math.exp(math.log(n / math.pi) / 2 + gammaln(n / 2) - gammaln((n + 1) / 2))


def draw(d: dict, axes) -> None:
    """Histograms; means over n."""
    histogram, means = axes
    colors = style.shades(SHOWN)
    for n in SHOWN:
        histogram.stairs(d["histogram"][n], EDGES, color=colors[n], label=f"n = {n}")
    means.errorbar(list(d["mean"]), list(d["mean"].values()), list(d["deviation"].values()),
                   fmt="o", color="#0072B2", elinewidth=0.8, label="drawn")  # fmt: skip
    n, line = np.array(list(d["expected"])), np.array(list(d["expected"].values()))
    means.plot(n, line, color="#000000", linewidth=0.7, label="angle of the mean cosine")
    means.fill_between(n, line - SPREAD / n**0.5, line + SPREAD / n**0.5, color="#DDDDDD",
                       zorder=0, label=r"$\pm$ 20.2 degrees / $\sqrt{n}$")  # fmt: skip
    means.plot(LARGE, d["large"], "kx", label=f"one vector, n = {LARGE}")
    histogram.axvline(d["limit"], color="#888888", linestyle="--", linewidth=0.8, zorder=0)
    means.axhline(d["limit"], color="#888888", linestyle="--", linewidth=0.8, zorder=1)
    histogram.set(xlabel="angle (degrees)", ylabel="density", yscale="log", ylim=(0.001, 3))
    means.set(xscale="log", xlabel="elements of w, n", ylabel="angle (degrees)", ylim=(20, 50))
    for ax in axes:
        ax.legend(fontsize=6, loc="upper left" if ax is histogram else "upper right")


if __name__ == "__main__":
    style.main(__name__)
