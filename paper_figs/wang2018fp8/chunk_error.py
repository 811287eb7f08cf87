"""Error of a chunked 16-bit sum against the chunk size: it falls until about sqrt(n), then rises.

Mean over 64 sums of |sum - exact| / exact, for uniform addends as in Fig. 3(b), all in (1,6,9),
nearest. Short chunks leave the sum over chunks too long, long ones the sum inside a chunk
[wang2018fp8, Fig. 5(b)].
"""

from paper_figs import style
from paper_figs.wang2018fp8.fig3b import addends

PAPER = "wang2018fp8"
WIDTH = "column"


def data(quick: bool) -> dict:
    """Mean relative error by length and chunk size."""
    import jax.numpy as jnp
    import numpy as np

    import qtrain as qt

    lengths = (4096,) if quick else (4096, 65536)
    errors: dict[str, list[float]] = {}
    chunks: dict[str, list[int]] = {}
    for n in lengths:
        x = qt.cast(jnp.asarray(addends(n)), qt.formats.get("e6m9"))
        exact = np.asarray(x, np.float64).sum(1)
        sizes = [c for c in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 65536) if c <= n]
        sums = [qt.dot(x, jnp.ones((n, 1)), accum=qt.Accumulator("e6m9", c))[:, 0] for c in sizes]
        errors[str(n)] = [float(np.mean(np.abs(np.asarray(s) - exact) / exact)) for s in sums]
        chunks[str(n)] = sizes
    return {"chunk": chunks, "error": errors}


def draw(d: dict, ax) -> None:
    """Relative error against chunk size, one line per length."""
    for n, marker in zip(d["error"], "os", strict=False):
        style_of_line = {**style.LINE["nearest"], "label": f"n = {n}"}
        ax.plot(d["chunk"][n], d["error"][n], marker=marker, **style_of_line)
    ax.axvline(64, **{**style.LINE["theory"], "label": "chunk 64"}, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="additions per chunk", ylabel="mean relative error")
    ax.legend()


if __name__ == "__main__":
    style.main(__name__)
