"""Roles of a differentiated function's GEMMs, and the layer each belongs to.

JAX marks the backward pass in the name stack: transpose(jvp(...)). A GEMM without the mark is
forward. The two backward GEMMs of y = a . b are da = dy . b' and db = dy . a', so a backward
GEMM belongs to a forward one of the same scope and source line if its operands have as many
elements as y and one of a, b, and its result as many as the other; that other operand is the
one whose gradient it is. Where a and b are equally large, the origins of the operands decide:
a weight among them (see walk) means the gradient of the other operand. The role is
weight_grad if that gradient is a weight's, else input_grad: both gradients of a product of
two activations, as in attention, are input gradients.

A backward pass of one's own (jax.custom_vjp) may lie on other lines, so scope alone, then
line alone, then sizes alone are tried next. One with no forward GEMM is an input gradient if
an operand is a weight; else its role is unknown.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

from qtrain.workload.gemm import Gemm
from qtrain.workload.walk import Site

# How a backward GEMM and its forward one agree, from the surest to the weakest.
_KEYS: tuple[Callable[[Gemm], tuple], ...] = (
    lambda g: (g.path, g.source, g.column),
    lambda g: (g.path,),
    lambda g: (g.source, g.column),
    lambda g: (),
)


def assign(sites: Sequence[Site], everything: Sequence[Site]) -> tuple[Gemm, ...]:
    """The sites' GEMMs with `role` and `layer` filled in.

    Args:
      sites: in order of execution, without dead code.
      everything: dead code included. jax.grad without the value leaves the last forward GEMM
        dead, yet its backward ones belong to it.
    """
    layers = _Layers([s for s in everything if _is_first(s)])
    return tuple(
        dataclasses.replace(site.gemm, role=role, layer=layer)
        for site, (role, layer) in zip(sites, map(layers.place, sites), strict=True)
    )


class _Layers:
    """The forward GEMMs, and which parts of their layers were found."""

    def __init__(self, forward: Sequence[Site]):
        self.forward = forward
        self.taken: set[tuple[int, object]] = set()
        self.index: list[dict[tuple, list[int]]] = [defaultdict(list) for _ in _KEYS]
        for i, site in enumerate(forward):
            for table, key in zip(self.index, _KEYS, strict=True):
                table[key(site.gemm)].append(i)

    def place(self, site: Site) -> tuple[str, int]:
        """Role and layer of the next site."""
        if _is_first(site):
            return "forward", self._find(site, _itself, 0)[0]
        if not site.backward:
            return "forward", self._find(site, _recomputation, -1)[0]
        layer, operand = self._find(site, _operands, -1)
        if layer < 0:
            return ("input_grad" if any(site.weights) else ""), -1
        return ("weight_grad" if self.forward[layer].weights[operand] else "input_grad"), layer

    def _find(self, site: Site, relation: Callable, pick: int) -> tuple[int, int]:
        """The first (pick 0) or last (pick -1) forward GEMM of which `site` is a part that was
        not found before; the backward pass runs through equal layers in reverse.
        """
        for table, key in zip(self.index, _KEYS, strict=True):
            fitting = [
                (f, part) for f in table[key(site.gemm)] for part in relation(site, self.forward[f])
            ]
            if fitting:
                free = [pair for pair in fitting if pair not in self.taken]
                choice = (free or fitting)[pick]
                self.taken.add(choice)
                return choice
        return -1, -1


def _is_first(site: Site) -> bool:
    """Whether it is a forward GEMM and not its recomputation."""
    return not site.backward and "recomputed" not in site.gemm.notes


# Parts of a layer: 0 and 1 are the gradients of lhs and rhs.


def _itself(site: Site, forward: Site) -> tuple[int, ...]:
    return (2,) if site.sizes == forward.sizes else ()


def _recomputation(site: Site, forward: Site) -> tuple[int, ...]:
    return (3,) if site.sizes == forward.sizes else ()


def _operands(site: Site, forward: Site) -> tuple[int, ...]:
    """The operands of `forward` whose gradient `site` may be."""
    inputs, result = sorted(site.sizes[:2]), site.sizes[2]
    lhs, rhs, out = forward.sizes
    repeats = site.gemm.batch * site.gemm.groups  # vmap keeps a gradient per example apart
    fits = []
    if inputs == sorted((out, rhs)) and result in (lhs, lhs * repeats):
        fits.append(0)
    if inputs == sorted((out, lhs)) and result in (rhs, rhs * repeats):
        fits.append(1)
    if len(fits) < 2 or forward.weights[0] == forward.weights[1]:
        return tuple(fits)
    weight = forward.weights.index(True)
    return (1 - weight,) if any(site.weights) else (weight,)
