"""From a function and its arguments, abstract or not, to the list of its GEMMs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jcore
from jax.interpreters import partial_eval

from qtrain.workload.listing import Workload
from qtrain.workload.roles import assign
from qtrain.workload.walk import DATA, ERROR, PARAMETER, Context, Walker

_STATIC = "bind it with functools.partial(fn, ...) if it is no array"
_REMEDIES = (  # first match wins: the errors are each other's subclasses
    (jax.errors.TracerBoolConversionError,
     "Python control flow needs the value of an array", "use jnp.where or lax.cond, or " + _STATIC),
    (jax.errors.NonConcreteBooleanIndexError,
     "a boolean index makes a shape depend on values", "use jnp.where with three arguments"),
    (jax.errors.TracerIntegerConversionError,
     "Python needs the value of an array as an integer", _STATIC),
    (jax.errors.TracerArrayConversionError,
     "numpy is called on a traced array", "use jax.numpy"),
    (jax.errors.ConcretizationTypeError,
     "Python needs the value of an array", "keep it in jax.numpy, or " + _STATIC),
    (jax.errors.UnexpectedTracerError,
     "a traced array escaped by a side effect", "return it instead of storing it"),
)  # fmt: skip


def trace(
    fn: Callable,
    *args,
    grad: bool = False,
    argnums: int | Sequence[int] = 0,
    params: int | Sequence[int] | None = None,
    has_aux: bool = False,
    **kwargs,
) -> Workload:
    """Lists the GEMMs and convolutions of `fn(*args, **kwargs)`; nothing is computed.

    With grad=True the three GEMMs of every layer appear; roles.py says how they are told apart.
    Layers are named by jax.named_scope, which nn.with_scopes gives to nnx modules.

    Dead code is left out, as XLA leaves it out. A loop of unknown length counts once, a cond
    counts as its branch with the most flops; both are noted. Sums emulated by qtrain.ops
    are loops of additions, not GEMMs: trace the model as it was before quantize_model.

    Args:
      fn: any JAX function: a loss, a gradient, a whole training step.
      args: arrays or jax.ShapeDtypeStruct, in any pytrees (nnx modules among them).
      grad: trace jax.value_and_grad of `fn` by the floating-point leaves of `argnums`.
      argnums: positions of the arguments to differentiate by, with `grad`.
      params: positions of the arguments that hold weights, from which the roles follow, with or
        without `grad`; by default the first of `argnums`. All other arguments are data.
      has_aux: with `grad`, whether `fn` returns (loss, anything).
      kwargs: further arguments, data.

    Raises:
      ValueError: `fn` cannot be traced; says why, where, and what to do.
    """
    return workload(stage(fn, args, kwargs, Options(grad, argnums, params, has_aux)))


class Options(NamedTuple):
    """The options of `trace`."""

    grad: bool = False
    argnums: int | Sequence[int] = 0
    params: int | Sequence[int] | None = None
    has_aux: bool = False


class Staged(NamedTuple):
    """A function's jaxpr, and what to call it with."""

    name: str
    jaxpr: jcore.Jaxpr  # without dead code
    everything: jcore.Jaxpr
    consts: Sequence
    leaves: list  # inputs, abstract or not
    origins: list[int]  # of the inputs: PARAMETER, DATA or ERROR


def workload(staged: Staged) -> Workload:
    """The GEMMs of a staged function."""
    live, everything = Walker(), Walker()
    live.walk(staged.jaxpr, staged.origins, Context())
    everything.walk(staged.everything, staged.origins, Context())
    gemms = assign(live.sites, everything.sites)
    return Workload(gemms, tuple(live.opaque), staged.name)


def stage(fn: Callable, args: tuple, kwargs: dict, options: Options) -> Staged:
    """Traces `fn` as `trace` says."""
    name = getattr(getattr(fn, "func", fn), "__name__", type(fn).__name__)
    leaves, moving, origins = _inputs(name, args, kwargs, options)
    treedef = jax.tree.structure((args, kwargs))

    def call(*flat):
        a, k = jax.tree.unflatten(treedef, flat)
        return fn(*a, **k)

    if options.grad:
        call = _value_and_grad(name, call, moving, options.has_aux)
        # The seed of the backward pass is an input, so that it can be told from constants.
        leaves, origins = [*leaves, jnp.float32(1)], [*origins, ERROR]
    try:
        closed = jax.make_jaxpr(call)(*leaves)
    except _Untraceable as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(_explain(name, error)) from error
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
    )
    return Staged(name, jaxpr, closed.jaxpr, closed.consts, leaves, origins)


def _inputs(name: str, args: tuple, kwargs: dict, options: Options):
    """Leaves of the arguments; whether each is differentiated by; what it is."""
    argnums = _positions(name, options.argnums, len(args), options.grad)
    params = argnums[:1]
    if options.params is not None:
        params = _positions(name, options.params, len(args), True)
    leaves, moving, origins = [], [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path((args, kwargs)):
        _check(name, path, leaf)
        position = path[1].idx if path[0].idx == 0 else None  # None: a keyword
        leaves.append(leaf)
        moving.append(position in argnums and jnp.issubdtype(_dtype(leaf), jnp.inexact))
        origins.append(PARAMETER if position in params else DATA)
    return leaves, moving, origins


def _positions(name: str, given: int | Sequence[int], n: int, strict: bool) -> list[int]:
    given = [given] if isinstance(given, int) else list(given)
    if strict and not all(-n <= i < n for i in given):
        raise ValueError(f"cannot trace {name}: no argument {given} among {n} positional ones")
    return [i % n for i in given if -n <= i < n]


class _Untraceable(Exception):
    """Carries its whole message."""


def _value_and_grad(name: str, call: Callable, by: list[bool], has_aux: bool) -> Callable:
    """`call` and its gradient by the inputs marked in `by`, with the seed as last input."""

    def step(*inputs):
        *flat, seed = inputs

        def loss(moving):
            moving = iter(moving)
            out = call(*(next(moving) if b else x for b, x in zip(by, flat, strict=True)))
            value = out[0] if has_aux and isinstance(out, tuple) and len(out) == 2 else out
            if not hasattr(value, "shape") or value.shape or has_aux is (value is out):
                raise _Untraceable(
                    f"cannot trace the gradient of {name}: it returns {_describe(out)}; return "
                    "a scalar loss, or (loss, anything) with has_aux=True"
                )
            return out

        moving = [x for x, b in zip(flat, by, strict=True) if b]
        if has_aux:
            value, pull, aux = jax.vjp(loss, moving, has_aux=True)
        else:
            value, pull, aux = *jax.vjp(loss, moving), None
        return value, pull(seed.astype(value.dtype)), aux

    return step


def _describe(out) -> str:
    if hasattr(out, "shape"):
        return f"an array of shape {out.shape}"
    return f"a {type(out).__name__}"


def _dtype(leaf):
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _check(name: str, path, leaf) -> None:
    if isinstance(leaf, (bool, int, float, complex)) or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    ):
        return
    (kind, first, *rest) = path
    what = f"argument {first.idx}" if kind.idx == 0 else f"argument {first.key!r}"
    where = what + jax.tree_util.keystr(tuple(rest))
    raise ValueError(
        f"cannot trace {name}: {where} is a {type(leaf).__name__}, not an array; "
        "bind it with functools.partial(fn, ...)"
    )


def _explain(name: str, error: Exception) -> str:
    """One line: what failed, where in the caller's code, and the remedy if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and f.filename != __file__]
    where = f" at {own[-1].filename.rsplit('/', 1)[-1]}:{own[-1].lineno}" if own else ""
    for kind, why, remedy in _REMEDIES:
        if isinstance(error, kind):
            return f"cannot trace {name}: {why}{where}; {remedy}"
    if "concrete values" in str(error):
        return f"cannot trace {name}: a shape depends on the value of an array{where}; {_STATIC}"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"cannot trace {name}: {type(error).__name__}: {first}{where}"
