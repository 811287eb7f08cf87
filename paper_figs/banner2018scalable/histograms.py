"""Histograms of what a layer computes with, each in its own root mean square, log scale.

Small CNN, float32, after 2 epochs, one batch; a line per layer, through the bins that are not
empty. Black: the Gaussian of the same mean square; grey: the Laplace law. Points at 0: density
within 0.01 of it, and its share in the legend. Left: what enters the normalizations, near Gaussian.
Middle: layer errors peak at zero, about 100 times the Gaussian (convolutions), 73 times (head), 14
times (hidden layer), with three quarters and more of the convolutions' within 0.01, and reach out
to 68: a range that spans them leaves next to no values for the rest. Right: weight gradients, sums
of many such products, are nearer to Gaussian again: of kurtosis 5 (conv1), between Gaussian, 3, and
Laplace, 6; the others beyond Laplace, 7, 9 and 12, yet far from the errors' 36 to 257. So errors
lose their direction at few bits and weight gradients less [banner2018scalable, Sec. 4 and poster].
Rows: python -m paper_figs.banner2018scalable._tensors
"""

import numpy as np

from paper_figs import style

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 3
TALL = 1.5
INPUTS = ("tensors",)
ROLES = {
    "output": "output of a GEMM",
    "error": "layer error, $g_l$",
    "gradient": "weight gradient, $g_W$",
}
REACH = 16.125  # of the counts
SHOWN = 12.0


def data(quick: bool) -> dict:
    """By role and layer: edges of the bins, densities, kurtosis and share near zero."""
    found: dict[str, dict] = {role: {} for role in ROLES}
    for row in style.rows(PAPER, "tensors"):
        if row["role"] in found:
            counts = np.array(row["counts"])
            width = 2 * REACH / len(counts)
            found[row["role"]][row["layer"]] = {
                "density": counts / row["n"] / width,
                "kurtosis": row["kurtosis"],
                "near_zero": row["near_zero"],
            }
    x = np.linspace(-SHOWN, SHOWN, 241)
    fits = {
        "Gaussian": np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
        "Laplace": np.exp(-np.sqrt(2) * abs(x)) / np.sqrt(2),
    }
    return {"tensors": found, "x": x, "fits": fits}


def draw(d: dict, axes) -> None:
    """A panel per role."""
    layers = list(d["tensors"]["error"])
    colors = style.shades(layers)
    for ax, (role, title) in zip(axes, ROLES.items(), strict=True):
        for layer, found in d["tensors"][role].items():
            edges = np.linspace(-REACH, REACH, len(found["density"]) + 1)
            label = f"{layer}: kurtosis {found['kurtosis']:.0f}"
            if role == "error":
                label += f", {100 * found['near_zero']:.0f} % at 0"
            some = found["density"] > 0
            middles = ((edges[:-1] + edges[1:]) / 2)[some]
            ax.plot(middles, found["density"][some], color=colors[layer], label=label,
                    linewidth=0.8)  # fmt: skip
            ax.plot([0], [found["near_zero"] / 0.02], ".", color=colors[layer])
        for name, color in (("Gaussian", "#000000"), ("Laplace", "#888888")):
            ax.plot(d["x"], d["fits"][name], color=color, linewidth=0.7)
        ax.set(yscale="log", xlim=(-SHOWN, SHOWN), ylim=(1e-6, 1e5))
        ax.set(xlabel=f"{title} / rms")
        ax.legend(loc="upper left", fontsize=5.5, handlelength=1.2, labelspacing=0.25)
    axes[0].set_ylabel("density")


if __name__ == "__main__":
    style.main(__name__)
