"""Bits of weights against bits of gradients: test accuracy.

Small CNN on fashion-mnist-8k, Adam, 6 epochs. Left: means, and half the range of three seeds.
Middle: the same by weights, single seeds as points; grey: gain of the next finer weights, paired by
gradients and seed. The published order appears: LAB < LAQ2 < LAQ3 <= LAQ4 <= float32, by 0.8 +- 0.2
points, 1.1 +- 0.1, 0.3 +- 0.1 and 0.1 +- 0.1 (standard errors of 15 pairs): the last step is noise.
With the published rule for the scale (crosses) weights of 3 and 4 bits are no better. Right: points
lost by quantizing gradients, paired by weights and seed; dashed: 1 point. At a rate of 3e-3 SQ2
loses 2.8 points, SQ3 0.9, SQ4 0.2; clipped at c = 3 SQ2 is as good as SQ3 and loses 1.0, from 0.5
with float32 weights to 1.4 with LAB. At a third of the rate each loses 0.8 to 0.9 points more, as
the theory has it: larger norms make Adam's steps shorter, which costs where the step is the limit
(`theory.gradient_slowdown`).
Rows: python scripts/sweep.py hou2019analysis; those at 1e-3 are of an earlier default.
"""

import numpy as np

from paper_figs import style, sweeps

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 3
TALL = 1.6
INPUTS = ("ablations", "short_steps")
WEIGHTS = ("lab", "laq2", "laq3", "laq4", "fp")
GRADIENTS = ("sq2", "sq2 clip 3", "sq3", "sq4", "fp")
NAME = {"lab": "LAB", "laq2": "LAQ2", "laq3": "LAQ3", "laq4": "LAQ4", "fp": "float32",
        "sq2": "SQ2", "sq2 clip 3": "SQ2\nc = 3", "sq3": "SQ3", "sq4": "SQ4"}  # fmt: skip
PUBLISHED_RULE = ("laq3", "laq4")
RATES = {"3e-3": ("ablations", "#0072B2"), "1e-3": ("short_steps", "#D55E00")}  # files


def data(quick: bool) -> dict:
    """Percents by weights, gradients and seed; paired gains and losses; how many runs lack."""
    names = [f"{w} {g}" for w in WEIGHTS for g in GRADIENTS]
    rule = {w: f"{w} fp, published" for w in PUBLISHED_RULE}
    found = sweeps.runs(PAPER, [*names, *rule.values()])
    percents = {name: sweeps.percent(by_seed) for name, by_seed in found.items()}
    return {
        "percent": {w: {g: percents[f"{w} {g}"] for g in GRADIENTS} for w in WEIGHTS},
        "published": {w: percents[name] for w, name in rule.items()},
        "steps": {w: steps(percents, w) for w in WEIGHTS[:-1]},
        "lost": {rate: lost(sweeps.runs(PAPER, names, file)) for rate, (file, _) in RATES.items()},
        "missing": sum(len(sweeps.SEEDS) - len(by_seed) for by_seed in found.values()),
    }


def steps(percents: dict, weights: str) -> list[float]:
    """Gain of the next finer weights, paired by gradients and seed."""
    finer = WEIGHTS[WEIGHTS.index(weights) + 1]
    return [
        percents[f"{finer} {g}"][seed] - value
        for g in GRADIENTS
        for seed, value in percents[f"{weights} {g}"].items()
        if seed in percents[f"{finer} {g}"]
    ]


def lost(found: dict[str, dict[int, dict]]) -> dict[str, list[float]]:
    """Accuracy with float32 gradients less that with quantized ones, paired by weights and seed."""
    percents = {name: sweeps.percent(by_seed) for name, by_seed in found.items()}
    return {
        g: [
            percents[f"{w} fp"][seed] - value
            for w in WEIGHTS
            for seed, value in percents[f"{w} {g}"].items()
            if seed in percents[f"{w} fp"]
        ]
        for g in GRADIENTS[:-1]
    }


def draw(d: dict, axes) -> None:
    """The table, accuracy by the bits of weights, losses by the bits of gradients."""
    table, lines, losses = axes
    _table(table, d["percent"])
    _losses(losses, d["lost"])
    colors = style.shades(GRADIENTS)
    for shift, g in zip(np.linspace(-0.12, 0.12, len(GRADIENTS)), GRADIENTS, strict=True):
        by_weights = {i: list(d["percent"][w][g].values()) for i, w in enumerate(WEIGHTS)}
        done = {i + shift: values for i, values in by_weights.items() if values}
        lines.plot(list(done), [np.mean(v) for v in done.values()], color=colors[g],
                   label=NAME[g].replace("\n", ", "))  # fmt: skip
        for x, values in done.items():
            lines.plot([x] * len(values), values, "o", color=colors[g], alpha=0.6, markersize=2.5)
    for w, percents in d["published"].items():
        if percents:
            x = WEIGHTS.index(w) + 0.24
            label = "float32, published rule" if w == PUBLISHED_RULE[0] else None
            lines.plot([x] * len(percents), list(percents.values()), "x", color="#D55E00",
                       label=label)  # fmt: skip
    lines.set_xticks(range(len(WEIGHTS)), [NAME[w] for w in WEIGHTS])
    lines.set(xlabel="weights", ylabel="final test accuracy (%)")
    for x, gains in enumerate(d["steps"].values()):
        if gains:
            lines.annotate(f"{np.mean(gains):+.1f}", (x + 0.5, 1), va="top", ha="center",
                           xycoords=("data", "axes fraction"), color="#888888")  # fmt: skip
    lines.set(ylim=(80, 91))
    lines.legend(fontsize=5.5, loc="lower right")
    if d["missing"]:
        sweeps.note(table, f"{d['missing']} runs are missing", x=0, y=0)


def _losses(ax, lost: dict[str, dict[str, list[float]]]) -> None:
    for shift, (rate, (_, color)) in zip((-0.1, 0.1), RATES.items(), strict=True):
        for x, values in enumerate(lost[rate].values()):
            ax.plot([x + shift] * len(values), values, "o", color=color, alpha=0.4, markersize=2.5)
            if values:
                ax.plot([x + shift], [np.mean(values)], "_", color=color, markersize=12,
                        label=f"rate {rate}" if x == 0 else None)  # fmt: skip
    ax.axhline(0, color="#000000", linewidth=0.6)
    ax.axhline(1, color="#888888", linewidth=0.7, linestyle="--")
    ax.set_xticks(range(len(GRADIENTS) - 1), [NAME[g] for g in GRADIENTS[:-1]])
    ax.set(xlabel="gradients", ylabel="points below float32 gradients")
    ax.legend(fontsize=6, loc="upper right")


def _table(ax, percent: dict) -> None:
    """Means, and below them half the range of the seeds."""
    cells = [[list(percent[w][g].values()) for g in GRADIENTS] for w in WEIGHTS]
    means = np.array([[np.mean(v) if v else np.nan for v in row] for row in cells])
    ax.imshow(means, cmap="viridis", aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for i, row in enumerate(cells):
        for j, values in enumerate(row):
            if values:
                color = "#FFFFFF" if means[i, j] < middle else "#000000"
                text = f"{means[i, j]:.1f}\n±{np.ptp(values) / 2:.1f}"
                ax.text(j, i, text, ha="center", va="center", color=color, fontsize=6.5)
    ax.set_xticks(range(len(GRADIENTS)), [NAME[g] for g in GRADIENTS])
    ax.set_yticks(range(len(WEIGHTS)), [NAME[w] for w in WEIGHTS])
    ax.set(xlabel="gradients", ylabel="weights")


if __name__ == "__main__":
    style.main(__name__)
