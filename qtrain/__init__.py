"""Low-precision training in JAX: any number format in any place of the training step.

The names below load on first use (PEP 562), so `import qtrain` costs nothing and, in particular,
does not start JAX: formats and theory work without it.
"""

import importlib

_MODULES = {
    "formats", "models", "nn", "ops", "optim", "papers", "quantize", "recipes", "workload",
}  # fmt: skip
_NAMES = {  # public name: module it lives in
    "Float": "formats",
    "Int": "formats",
    "Fixed": "formats",
    "Codebook": "formats",
    "cast": "quantize",
    "Cast": "quantize",
    "dot": "ops",
    "conv": "ops",
    "Accumulator": "ops",
    "DotConfig": "ops",
    "Rule": "nn",
    "quantize_model": "nn",
    "cite": "citation",
}

__all__ = sorted(_MODULES | _NAMES.keys())  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Imports the module behind a public name; AttributeError names what is missing."""
    module = name if name in _MODULES else _NAMES.get(name)
    if module is None:
        raise AttributeError(
            f"module 'qtrain' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    try:
        loaded = importlib.import_module(f"qtrain.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"qtrain.{module}":  # a dependency is missing: its own message is better
            raise
        raise AttributeError(f"qtrain.{name} is not part of this version of qtrain") from None
    value = loaded if name in _MODULES else getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
