"""Level sets and backward rules: what eight quantizers make of a number, and of its gradient.

Black: the value; blue: by what the gradient at the value is multiplied, `jax.grad` of the sum of
all values. Above, activations: BNN's sign; DoReFa's and WRPN's four levels in [0, 1]; HWGQ, where
the smallest positive number goes to the first level; PACT, cut off at a learned level, here 1.5.
Their gradients are those of hard tanh, a cut to [0, 1], a clipped ReLU and a cut to [0, 1.5].
Below, weights, evenly spread from -1.5 to 1.5: BWN's scaled signs, with their scale, 0.75, as
gradient within [-1, 1], and 1 / n, here nothing, outside; TWN, the identity, also for weights that
are zero; DoReFa, through its tanh, so that large weights are moved less; QIL, the slope 1 / (2 d) =
1.25 of its interval, here from 0.2 to 1, and none outside, where weights are not moved.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from paper_figs import style
from qtrain.zoo.binary import Sign
from qtrain.zoo.dorefa import TanhWeight
from qtrain.zoo.half_wave import HalfWave
from qtrain.zoo.interval import discretize, transform_signed
from qtrain.zoo.pact import pact
from qtrain.zoo.ternary import TWN
from qtrain.zoo.uniform import Clipped
from qtrain.zoo.xnor import BWN

PAPER = "guo2018survey"
WIDTH = "text"
TALL = 0.8
REACH = {"A": 2.0, "W": 1.5}  # of activations and weights
C, D = jnp.float32(0.6), jnp.float32(0.4)  # QIL's interval: from 0.2 to 1
SHOWN: dict[str, Callable] = {
    "BNN, A, 1 bit": Sign(),
    "DoReFa, A, 2 bits": Clipped(bits=2),
    "HWGQ, A, 2 bits": HalfWave(bits=2),
    "PACT, A, 2 bits": lambda x: pact(x, jnp.float32(1.5), 2),
    "BWN, W, 1 bit": BWN(),
    "TWN, W, 2 bits": TWN(),
    "DoReFa, W, 2 bits": TanhWeight(bits=2),
    "QIL, W, 3 bits": lambda w: discretize(transform_signed(w, C, D), 3),
}


@jax.jit
def curves(x: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """By name: values and gradients at the operand's x, (n, 1)."""
    return {
        name: (f(x[operand(name)]), jax.grad(lambda x, f=f: jnp.sum(f(x)))(x[operand(name)]))
        for name, f in SHOWN.items()
    }


def operand(name: str) -> str:
    """A or W."""
    return name.split(", ")[1]


def data(quick: bool) -> dict:
    """By name: x, the value and the gradient there."""
    n = 2**8 if quick else 2**12  # middles of equal parts: 0 is none
    middles = (2 * np.arange(n) + 1 - n) / n
    x = {kind: np.float32(reach * middles) for kind, reach in REACH.items()}
    found = curves({kind: jnp.asarray(v)[:, None] for kind, v in x.items()})
    return {
        name: {"x": x[operand(name)], "value": np.ravel(found[name][0]),
               "gradient": np.ravel(found[name][1])}
        for name in SHOWN  # a jitted function sorts its names
    }  # fmt: skip


def draw(d: dict, ax) -> None:
    """Activations above, weights below."""
    figure = ax.figure
    ax.remove()
    axes = figure.subplots(2, 4, sharex="row", sharey="row")
    for ax, (name, curve) in zip(axes.flat, d.items(), strict=True):
        ax.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
        ax.fill_between(curve["x"], curve["gradient"], color="#0072B2", alpha=0.15, linewidth=0)
        ax.plot(curve["x"], curve["gradient"], color="#0072B2", linewidth=0.8, label="gradient")
        ax.plot(curve["x"], curve["value"], color="#000000", linewidth=1.0, label="value")
        ax.set_title(name, fontsize=7)
    for ax in axes[0]:
        ax.set_xlabel("activation")
    for ax in axes[1]:
        ax.set_xlabel("weight")
    axes[0, 0].legend(fontsize=6, loc="lower right")


if __name__ == "__main__":
    style.main(__name__)
