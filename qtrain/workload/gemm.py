"""One matrix product or convolution of a traced function, read from its equation.

A convolution is a GEMM per group: m = images x output positions, n = output channels of the
group, k = kernel positions x input channels of the group.
"""

from __future__ import annotations

import dataclasses
import math

GEMM_PRIMITIVES = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True)
class NonZero:
    """Ratios of non-zeros in [0, 1]; NaN counts as non-zero, -0 as zero.

    `product` is the share of the m n k products a_ik b_kj that are not zero: both factors
    non-zero, whatever underflows. Zeros of padding and dilation count, as in k.
    """

    lhs: float
    rhs: float
    product: float


@dataclasses.dataclass(frozen=True)
class Gemm:
    """`batch` x `groups` products of (m, k) by (k, n), executed `count` times.

    `flops` and `bytes` are those of one execution. Like `k`, `flops` counts products with the
    zeros of padding and dilation, which XLA's own cost analysis leaves out.
    """

    path: str  # named scopes around it, joined by "/"
    role: str  # "forward", "input_grad", "weight_grad"; "" where no rule tells
    primitive: str  # one of GEMM_PRIMITIVES
    m: int
    n: int
    k: int  # length of accumulation, structural zeros of padding and dilation included
    batch: int = 1  # batch dimensions of a dot_general
    groups: int = 1  # feature or batch groups of a convolution
    dtypes: tuple[str, str, str] = ("float32", "float32", "float32")  # lhs, rhs, result
    bytes: int = 0  # both operands read once and the result written once
    count: int = 1  # multiplicity from loops of known length
    source: str = ""  # "file.py:123 (function)"
    column: int = 0  # of `source`, 1-based; 0 where unknown
    layer: int = -1  # rank among the function's forward GEMMs of the one it belongs to; -1 unknown
    notes: tuple[str, ...] = ()  # "recomputed", "while", "cond", "shard of 8"
    nonzero: NonZero | None = None  # filled by measure_sparsity where the GEMM was executed
    address: tuple[int, ...] = dataclasses.field(default=(), repr=False)  # of the equation

    @property
    def length(self) -> int:
        """Products in one sum: k."""
        return self.k

    @property
    def flops(self) -> int:
        """Multiplications and additions of one execution: 2 m n k batch groups."""
        return 2 * self.m * self.n * self.k * self.batch * self.groups

    @property
    def name(self) -> str:
        """The path, or the source line where there is none."""
        return self.path or self.source


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A call that may hold GEMMs nobody can see from outside: a kernel or foreign function."""

    path: str
    primitive: str  # "pallas_call", "ffi_call", ...
    name: str  # of the kernel, "" where it has none
    count: int = 1
    source: str = ""


def shape_of(eqn) -> dict:
    """The fields of `Gemm` that follow from the equation's parameters and operand shapes."""
    lhs, rhs = (v.aval for v in eqn.invars[:2])
    out = eqn.outvars[0].aval
    read = _dot_shape if eqn.primitive.name == "dot_general" else _conv_shape
    size = lambda aval: math.prod(aval.shape) * aval.dtype.itemsize  # noqa: E731
    return read(eqn.params, lhs.shape, rhs.shape, out.shape) | {
        "primitive": eqn.primitive.name,
        "dtypes": tuple(str(a.dtype) for a in (lhs, rhs, out)),
        "bytes": size(lhs) + size(rhs) + size(out),
    }


def _dot_shape(params, lhs, rhs, out) -> dict:
    (lhs_contract, _), (lhs_batch, _) = params["dimension_numbers"]
    k = math.prod(lhs[d] for d in lhs_contract)
    batch = math.prod(lhs[d] for d in lhs_batch)
    free = [d for d in range(len(lhs)) if d not in (*lhs_contract, *lhs_batch)]
    m = math.prod(lhs[d] for d in free)
    n = math.prod(out[len(lhs_batch) + len(free) :])  # the result is (batch, lhs free, rhs free)
    return {"m": m, "n": n, "k": k, "batch": batch}


def _conv_shape(params, lhs, rhs, out) -> dict:
    numbers = params["dimension_numbers"]
    groups = params["feature_group_count"] * params["batch_group_count"]
    c_out = rhs[numbers.rhs_spec[0]]
    m = math.prod(out) // max(out[numbers.out_spec[1]], 1)
    k = math.prod(rhs[d] for d in numbers.rhs_spec[1:])  # kernel positions x channels of a group
    return {"m": m, "n": c_out // groups, "k": k, "groups": groups}
