"""Runs a jaxpr equation by equation and shows the operands of chosen ones to a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend import core as jcore

from qtrain.workload.gemm import GEMM_PRIMITIVES
from qtrain.workload.walk import Body, bodies, scan_split

Address = tuple[int, ...]


def evaluate(
    jaxpr: jcore.Jaxpr, consts: Sequence, args: Sequence, chosen: set[Address], note: Callable
) -> list:
    """Outputs of `jaxpr`; `note(address, eqn, lhs, rhs)` is called at each chosen GEMM.

    An address names an equation as `walk.Context` does: its position in each jaxpr, from the
    outermost, with the position of the inner jaxpr between. Inner jaxprs without a chosen
    address run compiled; values are dropped after their last use.
    """
    prefixes = {a[:i] for a in chosen for i in range(len(a) + 1)}
    return _Interpreter(prefixes, note).run(jaxpr, consts, args, ())


class _Interpreter:
    def __init__(self, prefixes: set[Address], note: Callable):
        self.prefixes = prefixes
        self.note = note

    def run(self, jaxpr: jcore.Jaxpr, consts: Sequence, args: Sequence, address: Address) -> list:
        """Outputs of `jaxpr`, whose equations lie below `address`."""
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, map(_array, args), strict=True)
        read = lambda v: v.val if _is_literal(v) else values[v]  # noqa: E731
        last = _last_uses(jaxpr)
        for index, eqn in enumerate(jaxpr.eqns):
            inputs = [read(v) for v in eqn.invars]
            outputs = self._entered(eqn, inputs, (*address, index))
            if outputs is None:
                outputs = _bind(jaxpr, eqn, inputs)
            values |= zip(eqn.outvars, outputs, strict=True)
            del inputs, outputs
            for v in last[index]:
                values.pop(v, None)
        return [read(v) for v in jaxpr.outvars]

    def _entered(self, eqn, inputs: list, address: Address) -> Sequence | None:
        """Outputs of an equation with a chosen GEMM inside; None if it must run as a whole."""
        if address in self.prefixes:
            if eqn.primitive.name in GEMM_PRIMITIVES:
                self.note(address, eqn, _array(inputs[0]), _array(inputs[1]))
            elif eqn.primitive.name != "shard_map":  # its inner shapes are those of one device
                inner = bodies(eqn)
                match eqn.primitive.name:
                    case "scan":
                        return self._scan(eqn, inner[0], inputs, address)
                    case "while":
                        return self._while(eqn, inner, inputs, address)
                    case "cond":
                        taken = min(max(int(inputs[0]), 0), len(inner) - 1)
                        return self._call(inner[taken], inputs[1:], address)
                if len(inner) == 1 and len(inner[0].jaxpr.invars) == len(inputs):
                    return self._call(inner[0], inputs, address)
        return None

    def _call(self, body: Body, inputs: Sequence, address: Address) -> list:
        return self.run(body.jaxpr, body.consts, inputs, (*address, body.index))

    def _scan(self, eqn, body: Body, inputs: list, address: Address) -> list:
        params = eqn.params
        fixed, carried = scan_split(eqn, body.jaxpr)
        consts, carry = inputs[:fixed], inputs[fixed : fixed + carried]
        xs = inputs[fixed + carried :]
        order = range(params["length"])
        stacked: list[list] = [[] for _ in eqn.outvars[carried:]]
        for i in reversed(order) if params["reverse"] else order:
            out = self._call(body, [*consts, *carry, *(x[i] for x in xs)], address)
            carry = out[:carried]
            for column, y in zip(stacked, out[carried:], strict=True):
                column.append(y)
        if not stacked or params["length"]:
            ys = [jnp.stack(c[::-1] if params["reverse"] else c) for c in stacked]
        else:
            ys = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[carried:]]
        return [*carry, *ys]

    def _while(self, eqn, inner: Sequence[Body], inputs: list, address: Address) -> list:
        split = eqn.params["cond_nconsts"]
        start = split + eqn.params["body_nconsts"]
        carry = inputs[start:]
        while bool(self._call(inner[0], [*inputs[:split], *carry], address)[0]):
            carry = self._call(inner[1], [*inputs[split:start], *carry], address)
        return carry


def _array(x):
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _bind(jaxpr: jcore.Jaxpr, eqn, inputs: list) -> Sequence:
    """The outputs of one equation of `jaxpr`."""
    known = {v: x for v, x in zip(eqn.invars, inputs, strict=True) if not _is_literal(v)}
    alone = jaxpr.replace(
        constvars=[], invars=list(known), eqns=[eqn], outvars=eqn.outvars, effects=eqn.effects
    )
    return jcore.jaxpr_as_fun(jcore.ClosedJaxpr(alone, ()))(*known.values())


def _is_literal(atom) -> bool:
    return isinstance(atom, jcore.Literal)


def _last_uses(jaxpr: jcore.Jaxpr) -> list[list]:
    """By equation, the variables that nothing reads after it."""
    last: dict = {}
    for index, eqn in enumerate(jaxpr.eqns):
        for v in (*eqn.invars, *eqn.outvars):
            if not _is_literal(v):
                last[v] = index
    for v in jaxpr.outvars:
        if not _is_literal(v):
            last.pop(v, None)
    by_index: list[list] = [[] for _ in jaxpr.eqns]
    for v, index in last.items():
        by_index[index].append(v)
    return by_index
