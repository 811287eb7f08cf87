"""The matrix products of any JAX function: shapes, roles, lengths of accumulation, sparsity."""

from qtrain.workload.gemm import Gemm, NonZero, Opaque
from qtrain.workload.listing import Workload
from qtrain.workload.sparsity import measure_sparsity
from qtrain.workload.trace import trace

__all__ = ["Gemm", "NonZero", "Opaque", "Workload", "measure_sparsity", "trace"]
