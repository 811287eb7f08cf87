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


def assign(sites: Sequence[Site]) -> tuple[Gemm, ...]:
    """The sites' GEMMs with `role` and `layer` filled in."""
    layers = _Layers(sites)
    return tuple(
        dataclasses.replace(site.gemm, role=role, layer=layer)
        for site, (role, layer) in zip(sites, map(layers.place, range(len(sites))), strict=True)
    )


class _Layers:
    """The forward GEMMs, and which of their backward ones were found."""

    def __init__(self, sites: Sequence[Site]):
        self.sites = sites
        self.taken: set[tuple[int, object]] = set()
        self.index: list[dict[tuple, list[int]]] = [defaultdict(list) for _ in _KEYS]
        for i, site in enumerate(sites):
            if not site.backward and not _recomputed(site):
                for table, key in zip(self.index, _KEYS, strict=True):
                    table[key(site.gemm)].append(i)

    def place(self, i: int) -> tuple[str, int]:
        """Role and layer of site `i`."""
        site = self.sites[i]
        if not site.backward:
            return "forward", self._find(i, _same)[0] if _recomputed(site) else i
        layer, operand = self._find(i, _operand)
        if layer < 0:
            return ("input_grad" if any(site.weights) else ""), -1
        return ("weight_grad" if self.sites[layer].weights[operand] else "input_grad"), layer

    def _find(self, i: int, relation: Callable) -> tuple[int, int]:
        """The last forward site of which `i` is the part that nothing else was found to be:
        the backward pass runs through equal layers in reverse.
        """
        site = self.sites[i]
        for table, key in zip(self.index, _KEYS, strict=True):
            related = [(f, relation(site, self.sites[f])) for f in table[key(site.gemm)]]
            fitting = [(f, part) for f, part in related if part >= 0]
            if fitting:
                free = [pair for pair in fitting if pair not in self.taken]
                choice = (free or fitting)[-1]
                self.taken.add(choice)
                return choice
        return -1, -1


def _recomputed(site: Site) -> bool:
    return "recomputed" in site.gemm.notes


def _same(site: Site, forward: Site) -> int:
    """2, which is no operand, if `site` computes what `forward` did, else -1."""
    return 2 if site.sizes == forward.sizes else -1


def _operand(site: Site, forward: Site) -> int:
    """The operand of `forward` whose gradient `site` is; -1 if it is neither's."""
    inputs, result = sorted(site.sizes[:2]), site.sizes[2]
    lhs, rhs, out = forward.sizes
    fits = [inputs == sorted((out, rhs)) and result == lhs]
    fits.append(inputs == sorted((out, lhs)) and result == rhs)
    if not all(fits):
        return fits.index(True) if any(fits) else -1
    if forward.weights[0] == forward.weights[1]:
        return 0  # either: the role is the same
    weight = forward.weights.index(True)
    return 1 - weight if any(site.weights) else weight
