"""How many mantissa bits a running sum needs: the published answer beside the exact one.

Published: the variance retention ratio of [sakr2019accumulation, Thm. 1] and its limit
v(n) < 50; for chunks, counted over the chunks, which is what its Table 1 agrees with. Exact: the
law of the rounded sum itself keeps at least nine tenths of the variance, and no more than eleven.
"""

from __future__ import annotations

import functools
from typing import Literal

from theory import scaling
from theory.addition import Rounding
from theory.vrr import Criterion
from theory.vrr import mantissa_bits as published_bits

Theory = Literal["published", "exact"]
TOLERANCE = 0.1  # of the variance; what training tolerates is measured in paper_figs


@functools.cache
def mantissa_bits(
    n: int,
    *,
    theory: Theory = "exact",
    chunk: int | None = None,
    nonzero: float = 1.0,
    rounding: Rounding = "nearest",
    product_bits: int = 5,
) -> int:
    """The smallest m with which (1,6,m) accumulates n products.

    Args:
      n: length of the accumulation.
      chunk: products per chunk, at most n; None for one plain sum.
      nonzero: share of the products that are not zero, in (0, 1].
      rounding: of each addition; the published formula knows no rounding.
      product_bits: stored mantissa bits of a product, 5 for two (1,5,2) numbers; the exact theory
        needs none, because products with a smooth law behave alike.

    Raises:
      ValueError: an argument out of range, or an unknown theory.
    """
    if theory == "published":
        criterion: Criterion = "total" if chunk is None else "inter"
        return published_bits(n, product_bits, chunk, nonzero, criterion)
    if theory == "exact":
        return scaling.mantissa_bits(n, rounding, TOLERANCE, chunk, nonzero)
    raise ValueError(f"unknown theory {theory!r}: published or exact")
