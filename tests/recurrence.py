"""The recurrence of models.CharLstm in numpy, and how far float32 may be from it."""

import jax
import jax.numpy as jnp
import numpy as np

UNIT = 2.0**-24  # unit roundoff of float32
FUNCTION = 8 * UNIT  # of sigmoid and tanh, whose values are below 1; `functions_err` measures it


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def functions_err(z) -> float:
    """The largest error of JAX's sigmoid and tanh at float32 arguments."""
    z = np.asarray(z, np.float32)
    exact = np.asarray(z, np.float64)
    return max(
        np.abs(np.asarray(jax.nn.sigmoid(jnp.asarray(z)), np.float64) - sigmoid(exact)).max(),
        np.abs(np.asarray(jnp.tanh(jnp.asarray(z)), np.float64) - np.tanh(exact)).max(),
    )


def logits(params, ids):
    """Float64 (N, T, V), a bound on what float32 may differ by, and the gates' arguments.

    `params` are kernels and biases by layer. A sum of K products and a bias errs by at most
    (K + 1) u (|x| |w| + |b|), to first order and in any order [higham2002accuracy, eq. (3.5)];
    what the operands are off by goes through |w|, through sigmoid by at most 1/4, through tanh by
    at most 1. The factor 1.01 is for terms of second order.
    """
    weights = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    rows, bias = weights["inputs"]["kernel"], weights["inputs"]["bias"]
    recurrent, head = weights["recurrent"]["kernel"], weights["head"]
    width = len(recurrent)
    h, c, dh, dc = np.zeros((4, len(ids), width))
    out, bounds, seen = [], [], []
    for letters in np.asarray(ids).T:
        given = rows[letters] + bias
        z = given + h @ recurrent
        size = np.abs(rows[letters]) + np.abs(bias) + np.abs(h) @ np.abs(recurrent)
        dz = (width + 3) * UNIT * size + dh @ np.abs(recurrent)
        i, f, g, o = np.split(z, 4, axis=1)
        slopes = zip(np.split(dz, 4, axis=1), (0.25, 0.25, 1, 0.25), strict=True)
        di, df, dg, do = (slope * d + FUNCTION for d, slope in slopes)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        dc = f * dc + np.abs(c) * df + i * dg + np.abs(g) * di
        dc += 2 * UNIT * (np.abs(f * c) + np.abs(i * g))
        c = f * c + i * g
        h, dh = o * np.tanh(c), o * (dc + FUNCTION) + np.abs(np.tanh(c)) * do + UNIT
        size = np.abs(h) @ np.abs(head["kernel"]) + np.abs(head["bias"])
        out.append(h @ head["kernel"] + head["bias"])
        bounds.append((width + 1) * UNIT * size + dh @ np.abs(head["kernel"]))
        seen.append(z)
    return np.stack(out, 1), 1.01 * np.stack(bounds, 1), np.stack(seen, 1)
