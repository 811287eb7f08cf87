"""More workers, each with a batch of its own: fewer steps to the same regret.

Convex laboratory: linear regression, d = 64, 4 samples a worker and step, weak scaling. Left: the
variance of the mean of N workers' gradients at w = 0, quantized on their own: 1/N (lines), at SQ2
about twice that of float32. Middle: average regret of SGD with SQ2, at the best step for each N.
Right: steps until the average regret is that of N = 1 after 1000 steps; dots are seeds. SGD needs
1/N of the steps (grey), with SQ2 and LAQ3 a little fewer: the remark of [hou2019analysis, Sec. 3]
holds where noise is the limit and the step is tuned for each N (with SQ2 it grows from 1 to 3.2).
RMSProp gains more than N, to 25 to 100 steps at N = 8; why was not examined.
Rows: python -m paper_figs.hou2019analysis._lab workers
"""

import numpy as np

from paper_figs import style
from theory import convex_problem
from theory import gradient_quantization as gq
from theory.convex_lab import Lab

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 3
TALL = 1.6
INPUTS = ("workers",)
WORKERS = (1, 2, 4, 8)
SETTINGS = {  # weights, gradients
    "float32": ((None, None), "#000000"),
    "SQ2": ((None, 2), "#0072B2"),
    "LAQ3, SQ2": ((3, 2), "#D55E00"),
}
GRADIENTS = {None: "#000000", 4: "#009E73", 3: "#56B4E9", 2: "#0072B2"}  # bits
DASH = {"sgd": "-", "rmsprop": "--"}
NAME = {"sgd": "SGD", "rmsprop": "RMSProp"}
STEPS = 2000  # steps whose gradients give the variance


def data(quick: bool) -> dict:
    """Variances by bits; curves of seed 0 with SGD and SQ2; steps by optimizer, setting, N."""
    curves, until = {}, {}
    names = {what: name for name, (what, _) in SETTINGS.items()}
    for row in style.rows(PAPER, "workers"):
        lab = Lab(**row["lab"])
        name = f"{lab.optimizer}, {names[lab.weights, lab.gradients]}"
        until.setdefault(name, {}).setdefault(lab.workers, []).append(row["until"])
        if name == "sgd, SQ2" and "curve" in row:
            curves[lab.workers] = row["curve"]
    steps = STEPS // 10 if quick else STEPS
    return {
        "variance": {str(bits): variance(bits, steps) for bits in GRADIENTS},
        "curves": curves, "until": until, "steps": Lab().steps,
    }  # fmt: skip


def variance(bits: int | None, steps: int) -> list[float]:
    """E||g~ - E g~||^2 of the mean g~ of N workers' quantized gradients, all at w = 0, by N."""
    lab = Lab(d=64, batch=4, steps=steps)
    problem = convex_problem.draw(
        lab.loss, d=lab.d, steps=steps, workers=WORKERS[-1], batch=lab.batch, scale=lab.scale,
        noise=lab.noise, seed=lab.seed,
    )  # fmt: skip
    w, rng = np.zeros((1, lab.d)), np.random.default_rng(lab.seed)
    g = np.array([convex_problem.gradients(problem, t, w)[0] for t in range(steps)])
    mean = g.mean((0, 1))
    sent = g if bits is None else gq.quantize(g, bits, rng)
    return [float((((sent[:, :n].mean(1)) - mean) ** 2).sum(-1).mean()) for n in WORKERS]


def draw(d: dict, axes) -> None:
    """Variance, curves, steps."""
    spread, curves, steps = axes
    for bits, color in GRADIENTS.items():
        values = d["variance"][str(bits)]
        label = "float32" if bits is None else f"SQ{bits}"
        spread.plot(WORKERS, values, "o", color=color, label=label)
        spread.plot(WORKERS, values[0] / np.array(WORKERS), color=color, linewidth=0.7)
    spread.set(ylabel="variance of the mean gradient")
    colors = style.shades(WORKERS)
    for n, (t, _, regret) in d["curves"].items():
        curves.plot(t, regret, color=colors[n], label=f"N = {n}")
    curves.axhline(d["curves"][1][2][-1], color="#888888", linewidth=0.7, linestyle=":")
    curves.set(xscale="log", yscale="log", xlabel="step, t", ylabel="average regret (SGD, SQ2)")
    for optimizer, dash in DASH.items():
        for name, (_, color) in SETTINGS.items():
            found = d["until"][f"{optimizer}, {name}"]
            label = f"{NAME[optimizer]}, {name}"
            steps.plot(list(found), [np.mean(v) for v in found.values()], dash, color=color,
                       label=label)  # fmt: skip
            for n, values in found.items():
                steps.plot([n] * len(values), values, ".", color=color, markersize=3)
    steps.plot(WORKERS, d["steps"] / np.array(WORKERS), color="#888888", linewidth=3, alpha=0.4,
               label="1 / N", zorder=0)  # fmt: skip
    steps.set(ylabel="steps to the regret of N = 1")
    for ax in (spread, steps):
        ax.set(xscale="log", yscale="log", xlabel="workers, N")
        ax.set_xticks(WORKERS, WORKERS)
        ax.tick_params(which="minor", labelbottom=False, bottom=False)
    for ax in axes:
        ax.legend(fontsize=5.5, loc="lower left")


if __name__ == "__main__":
    style.main(__name__)
