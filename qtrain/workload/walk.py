"""Walks a jaxpr and its inner jaxprs, and notes every GEMM with what its operands depend on.

Each value carries what it was made from, as a set of bits: parameters, data, and error (what
the backward pass computes). A weight is made from parameters and not from data. In the
backward pass only values made from weights alone stay weights (a flipped kernel); all others
are error, so that a weight updated inside a loop remains one: parameters plus error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jcore
from jax.extend import source_info_util

from qtrain.workload.gemm import GEMM_PRIMITIVES, Gemm, Opaque, shape_of

PARAMETER, DATA, ERROR = 1, 2, 4
_FRAMES = 16  # that a source line is looked for in
_LIBRARY = ("site-packages/", "qtrain/ops/", "qtrain/nn/", "qtrain/workload/")
OPAQUE_PRIMITIVES = ("pallas_call", "ffi_call", "ragged_dot_general", "scaled_matmul_wrapper")


def is_weight(origin: int) -> bool:
    """Whether a value is made from parameters and not from data."""
    return bool(origin & PARAMETER) and not origin & DATA


@dataclasses.dataclass(frozen=True)
class Site:
    """One GEMM equation: its shape, and what its role follows from."""

    gemm: Gemm
    sizes: tuple[int, int, int]  # elements of lhs, rhs, result
    weights: tuple[bool, bool]  # whether lhs, rhs is a weight
    backward: bool  # below a transpose(...) mark, and not recomputed


@dataclasses.dataclass(frozen=True)
class Context:
    """What surrounds an equation."""

    scopes: tuple[str, ...] = ()
    backward: bool = False
    recomputed: bool = False
    count: int = 1
    notes: tuple[str, ...] = ()
    address: tuple[int, ...] = ()
    source: tuple[str, int] = ("", 0)

    def enter(self, eqn, index: int) -> Context:
        """The context of `eqn`, the `index`-th equation of the jaxpr around it."""
        scopes, transforms = _names(eqn)
        return dataclasses.replace(
            self,
            scopes=self.scopes + tuple(s for s in scopes if s != "rematted_computation"),
            backward=self.backward or "transpose" in transforms,
            recomputed=self.recomputed or "rematted_computation" in scopes,
            address=(*self.address, index),
            source=_source(eqn, self.source),
        )

    def inside(self, body: Body) -> Context:
        """The context of the equations of an inner jaxpr."""
        return dataclasses.replace(
            self,
            count=self.count * body.count,
            notes=self.notes + body.notes,
            address=(*self.address, body.index),
        )


@dataclasses.dataclass(frozen=True)
class Body:
    """An inner jaxpr of an equation."""

    jaxpr: jcore.Jaxpr
    index: int  # among the equation's inner jaxprs
    consts: tuple = ()
    count: int = 1
    notes: tuple[str, ...] = ()


def scan_split(eqn, body) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many are carried.

    Read off the shapes, since the names of the parameters change between versions of JAX: what is
    scanned over has one dimension more outside the body than inside, what is carried has not.
    """
    same = lambda outer, inner: len(outer.aval.shape) == len(inner.aval.shape)  # noqa: E731
    whole = sum(map(same, eqn.invars, body.invars))
    carried = sum(map(same, eqn.outvars, body.outvars))
    return whole - carried, carried


def bodies(eqn) -> tuple[Body, ...]:
    """The inner jaxprs of an equation, opaque ones excepted: a while's condition, then its body."""
    if eqn.primitive.name in OPAQUE_PRIMITIVES:
        return ()
    params, count = eqn.params, 1
    notes: tuple[str, ...] = ()
    match eqn.primitive.name:
        case "scan":
            count = params["length"]
        case "while":
            notes = ("while",)
        case "cond":
            notes = ("cond",)
        case "shard_map":
            notes = (f"shard of {params['mesh'].size}",)
    found = []
    for name in sorted(params):  # "body_jaxpr" < "cond_jaxpr"
        # Of a custom_linear_solve only the solver runs; its other parts serve derivatives.
        given = getattr(params[name], "solve", params[name])
        values = given if isinstance(given, tuple) else (given,)
        for value in values:
            if isinstance(value, jcore.ClosedJaxpr):
                found.append((value.jaxpr, tuple(value.consts)))
            elif isinstance(value, jcore.Jaxpr):
                found.append((value, ()))
    if eqn.primitive.name == "while":
        found.reverse()
    return tuple(Body(j, i, consts, count, notes) for i, (j, consts) in enumerate(found))


class Walker:
    """Collects the sites and opaque calls of one jaxpr, in order of execution."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.opaque: list[Opaque] = []

    def walk(self, jaxpr: jcore.Jaxpr, origins: Sequence[int], context: Context) -> list[int]:
        """Origins of the outputs, given those of the inputs."""
        known = dict(zip(jaxpr.invars, origins, strict=True))
        known |= dict.fromkeys(jaxpr.constvars, DATA)  # a closed-over array is data

        def origin(atom) -> int:
            if isinstance(atom, jcore.Literal):
                return DATA if getattr(atom.val, "ndim", 0) else 0
            return known[atom]

        for index, eqn in enumerate(jaxpr.eqns):
            here = context.enter(eqn, index)
            inputs = [origin(v) for v in eqn.invars]
            known |= zip(eqn.outvars, self._outputs(eqn, inputs, here), strict=True)
        return [origin(v) for v in jaxpr.outvars]

    def _outputs(self, eqn, inputs: list[int], here: Context) -> list[int]:
        name = eqn.primitive.name
        if name in GEMM_PRIMITIVES:
            self.sites.append(_site(eqn, inputs, here))
        elif name in OPAQUE_PRIMITIVES:
            self.opaque.append(_opaque(eqn, here))
        elif inner := bodies(eqn):
            return self._descend(eqn, inner, inputs, here)
        return [_merge(eqn, inputs, here.backward)] * len(eqn.outvars)

    def _descend(self, eqn, inner, inputs: list[int], here: Context) -> list[int]:
        if here.backward:  # the seed, where jax.grad hands it to a jitted backward pass
            pairs = zip(eqn.invars, inputs, strict=True)
            inputs = [ERROR if _is_one(v) else origin for v, origin in pairs]
        match eqn.primitive.name:
            case "scan":
                consts, carried = scan_split(eqn, inner[0].jaxpr)
                return self._loop(inner[0], inputs, consts, consts + carried, here)
            case "while":
                split = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
                carry = inputs[sum(split) :]
                out = self._loop(inner[1], inputs[split[0] :], split[1], len(inputs), here)
                self.walk(inner[0].jaxpr, inputs[: split[0]] + carry, here.inside(inner[0]))
                return out
            case "cond":
                return self._branches(inner, inputs[1:], here)
        merged = [_merge(eqn, inputs, here.backward)]
        fits = len(inner) == 1 and len(inner[0].jaxpr.invars) == len(inputs)
        for body in inner:
            given = inputs if fits else merged * len(body.jaxpr.invars)
            out = self.walk(body.jaxpr, given, here.inside(body))
        return out if fits and len(out) == len(eqn.outvars) else merged * len(eqn.outvars)

    def _loop(self, body: Body, inputs: list[int], first: int, last: int, here: Context):
        """Origins behind a loop whose inputs first..last are carried: a fixed point."""
        inputs = list(inputs)
        while True:
            trial = Walker()
            out = trial.walk(body.jaxpr, inputs, here.inside(body))
            carry = [a | b for a, b in zip(inputs[first:last], out, strict=False)]
            if carry == inputs[first:last]:
                break
            inputs[first:last] = carry
        self._take(trial)
        return out

    def _branches(self, inner, inputs: list[int], here: Context) -> list[int]:
        """Takes the branch with the most flops; outputs may come from any."""
        trials, outs = [], []
        for body in inner:
            trials.append(Walker())
            outs.append(trials[-1].walk(body.jaxpr, inputs, here.inside(body)))
        self._take(max(trials, key=Walker.flops))
        return [_union(origins) for origins in zip(*outs, strict=True)]

    def _take(self, other: Walker) -> None:
        self.sites += other.sites
        self.opaque += other.opaque

    def flops(self) -> int:
        """Of all sites, loops counted."""
        return sum(s.gemm.flops * s.gemm.count for s in self.sites)


def _is_one(atom) -> bool:
    """Whether an atom is the literal 1.0, from which jax.grad starts the backward pass."""
    if not isinstance(atom, jcore.Literal) or np.ndim(atom.val):
        return False
    return atom.val == 1 and jnp.issubdtype(jnp.result_type(atom.val), jnp.floating)


def _union(origins) -> int:
    out = 0
    for origin in origins:
        out |= origin
    return out


def _merge(eqn, inputs: list[int], backward: bool) -> int:
    """What an equation's outputs are made from."""
    union = _union(inputs)
    if not backward:
        return union
    if not union:
        return ERROR if any(map(_is_one, eqn.invars)) else 0
    return union if all(is_weight(o) for o in inputs if o) else ERROR


def _site(eqn, inputs: list[int], here: Context) -> Site:
    source, column = here.source
    notes = (*here.notes, *(("recomputed",) if here.recomputed else ()))
    return Site(
        Gemm(
            path="/".join(here.scopes),
            role="",
            count=here.count,
            source=source,
            column=column,
            notes=tuple(dict.fromkeys(notes)),
            address=here.address,
            **shape_of(eqn),
        ),
        sizes=tuple(v.aval.size for v in (*eqn.invars[:2], eqn.outvars[0])),
        weights=(is_weight(inputs[0]), is_weight(inputs[1])),
        backward=here.backward and not here.recomputed,
    )


def _opaque(eqn, here: Context) -> Opaque:
    params = eqn.params
    kernel = getattr(getattr(params.get("jaxpr"), "debug_info", None), "func_name", "")
    name = params.get("name") or params.get("target_name") or kernel
    return Opaque("/".join(here.scopes), eqn.primitive.name, str(name), here.count, here.source[0])


def _names(eqn) -> tuple[list[str], list[str]]:
    """Scopes and transformations of an equation's own name stack.

    The scope of an einsum's expression is left out: it is no module. The backward equation of
    a checkpoint names its scopes twice, as transpose(jvp(a))/jvp(a); the first copy is dropped.
    """
    stack = [(type(e).__name__, e.name) for e in eqn.source_info.name_stack.stack]
    transforms = [name for kind, name in stack if kind != "Scope"]
    if eqn.primitive.name.startswith(("remat", "checkpoint")) and "transpose" in transforms:
        first = stack.index(("Transform", "transpose"))
        last = max((i for i, e in enumerate(stack) if e == ("Transform", "jvp")), default=first)
        stack = stack[:first] + stack[last:]
    scopes = [name for kind, name in stack if kind == "Scope" and "->" not in name]
    return [part for name in scopes for part in name.split("/") if part], transforms


def _source(eqn, around: tuple[str, int]) -> tuple[str, int]:
    """("file.py:123 (function)", column) of the innermost frame of the caller's own code.

    Frames of installed packages and of qtrain's layers name every GEMM alike: they give way
    to the place of the equation around, and serve only where there is no other.
    """
    frames = source_info_util.summarize(eqn.source_info, num_frames=_FRAMES).splitlines()
    frames = [f.replace("\\", "/") for f in reversed(frames) if ":" in f]
    own = [f for f in frames if not any(part in f for part in _LIBRARY)]
    if (around[0] and not own) or not frames:
        return around
    place, _, function = (own or frames)[0].partition(" (")
    file, *numbers = place.rsplit("/", 1)[-1].split(":")
    line, column = (*numbers, "0", "0")[:2]
    return f"{file}:{line}" + (f" ({function}" if function else ""), int(column)
