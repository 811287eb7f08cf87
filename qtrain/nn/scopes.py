"""Named scopes for nnx modules, which add none of their own: profiles and traces name layers."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import TypeVar

import jax
from flax import nnx

from qtrain.nn.hooks import HOOKS

Model = TypeVar("Model", bound=nnx.Module)

_OPEN: contextvars.ContextVar[str] = contextvars.ContextVar("path of the open scope", default="")


def with_scopes(model: Model) -> Model:
    """A copy of `model` each of whose layers computes inside jax.named_scope of its path.

    A path joins attribute names and list indices with "/", as in `Rule`. `model` stays as
    it is; the copy has the same variables and results, and keeps its scopes through nnx.split,
    nnx.merge and JAX's transformations. The copy's modules are instances of subclasses of
    their classes. Only calls open a scope, other methods do not; a layer's hooks stay within
    the layer's scope. Works on abstract models, as nnx.eval_shape makes them.
    """
    copy = nnx.clone(model)
    for path, module in nnx.iter_modules(copy):
        if path and path[-1] not in HOOKS and callable(module):
            module.__class__ = _scoped(type(module), "/".join(map(str, path)))
    return copy


@functools.cache
def _scoped(cls: type, path: str) -> type:
    """A subclass of `cls` whose calls run below `path`; equal for equal arguments."""
    base = getattr(cls, "_unscoped", cls)

    def call(self, *args, **kwargs):
        with _open(path):
            return base.__call__(self, *args, **kwargs)

    functools.update_wrapper(call, base.__call__)
    names = {"__call__": call, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base)(base.__name__, (base,), names | {"_unscoped": base, "__doc__": base.__doc__})


@contextlib.contextmanager
def _open(path: str):
    """Adds what `path` has beyond the scope that is open already."""
    around = _OPEN.get()
    inside = around and path.startswith(around + "/")
    token = _OPEN.set(path)
    try:
        with jax.named_scope(path[len(around) + 1 :] if inside else path):
            yield
    finally:
        _OPEN.reset(token)
