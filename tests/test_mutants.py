"""Each property kills the bug that it names: `pytest -m slow tests/test_mutants.py`.

A mutant is one changed place in one file. The tree is copied, changed, and the named tests run
there; they must fail. A place that the code no longer has is an error here, so the table cannot
go stale.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "qtrain", "tests", "scripts", "paper_figs", "pyproject.toml", "README.md",
    "references.bib", "Makefile",
)  # fmt: skip


class Mutant(NamedTuple):
    """`old`, found once in `file`, becomes `new`; `tests` (pytest arguments) must then fail."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS = {
    "axpy rounds twice": Mutant(
        "qtrain/optim/axpy.py",
        'add(y, p, target, "nearest")',
        "cast(y + p, target)",
        "tests/optim -k exact_addition",
    ),
    "momentum on the gradient": Mutant(
        "qtrain/optim/sgd.py",
        'axpy(momentum, v, g, target, key_of("momentum"))',
        'axpy(momentum, g, v, target, key_of("momentum"))',
        "tests/optim -k three_rounded",
    ),
    "Adam forgets the decay": Mutant(
        "qtrain/optim/adam.py",
        " + weight_decay * w",
        "",
        "tests/optim -k adam_is_three",
    ),
    "the schedule stands still": Mutant(
        "qtrain/optim/axpy.py",
        "learning_rate(count) if callable",
        "learning_rate(0 * count) if callable",
        "tests/optim -k adam_is_three",
    ),
    "a finite sum overflows": Mutant(
        "qtrain/ops/adder.py",
        "jnp.where(finite, jnp.clip(total, -most, most), total)",
        "total",
        "tests/ops/test_adder.py -k truncated_sums",
    ),
    "rounded products have any range": Mutant(
        "qtrain/ops/operands.py",
        "        ok &= top <= math.log2(held.max)\n",
        "",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "rounded products have any precision": Mutant(
        "qtrain/ops/operands.py",
        "(bits <= held.precision) & (quantum >= _smallest_exp(held))",
        "(quantum >= _smallest_exp(held))",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "rounded products are never subnormal": Mutant(
        "qtrain/ops/operands.py",
        "(bits <= held.precision) & (quantum >= _smallest_exp(held))",
        "(bits <= held.precision)",
        "tests/ops/test_adder.py -k no_exact_ones",
    ),
    "updates miss their grid": Mutant(
        "qtrain/optim/axpy.py",
        "return round_params(optax.apply_updates(params, updates), fmt)",
        "return optax.apply_updates(params, updates)",
        "tests/optim -k land_exactly",
    ),
    "loss scale left in": Mutant(
        "qtrain/optim/loss_scale.py",
        "g / state.scale",
        "g",
        "tests/optim -k taken_out",
    ),
    "a skipped step changes the state": Mutant(
        "qtrain/optim/loss_scale.py",
        "jnp.where(finite, new, old)",
        "new",
        "tests/optim -k taken_out",
    ),
    "one key for all layers": Mutant(
        "qtrain/nn/hooks.py",
        "fold(step_key, name)",
        "step_key",
        "tests/nn -k keys_differ",
    ),
    "rules match prefixes": Mutant(
        "qtrain/nn/rules.py",
        "match = next((r for r in rules if re.fullmatch(r.path, path)), None)",
        "match = next((r for r in rules if re.match(r.path, path)), None)",
        "tests/nn",
    ),
    "last match wins": Mutant(
        "qtrain/recipes/base.py",
        "in getattr(self, place) or ():\n            if at.matches",
        "in reversed(getattr(self, place) or ()):\n            if at.matches",
        "tests/recipes -k first_match",
    ),
    "data unproved": Mutant(
        "qtrain/train/data.py",
        "if digest(arrays) != EMBEDDED_PIN:",
        "if False:",
        "tests/train/test_data.py -k embedded_file",
    ),
    "order ignores the epoch": Mutant(
        "qtrain/train/data.py",
        "key=[seed, epoch]",
        "key=[seed, 0]",
        "tests/train/test_data.py -k permutation",
    ),
    "one bit too few": Mutant(
        "qtrain/quantize/cast.py",
        "magic = _f32(field + np.uint32(23 - fmt.man << 23 | 0x400000))",
        "magic = _f32(field + np.uint32(24 - fmt.man << 23 | 0x400000))",
        "tests/quantize/test_properties.py -k error_is_bounded",
    ),
    "values do not stay": Mutant(
        "qtrain/quantize/cast.py",
        "    rounded = _u32((jnp.abs(x) + magic) - magic)\n    return _finish",
        "    rounded = _u32((jnp.abs(x) + magic) - magic) + (1 << 23 - fmt.man)\n"
        "    return _finish",
        "tests/quantize/test_properties.py -k idempotent",
    ),
    "no subnormals": Mutant(
        "qtrain/quantize/cast.py",
        "bits & INFINITY, np.uint32(fmt.emin + 127 << 23)",
        "bits & INFINITY, np.uint32(fmt.emin - fmt.man + 127 << 23)",
        "tests/quantize/test_cast.py -k ml_dtypes",
    ),
    "the sign is lost": Mutant(
        "qtrain/quantize/cast.py",
        "_f32(_u32(y) | (bits & SIGN))",
        "_f32(_u32(y))",
        "tests/quantize/test_properties.py -k odd",
    ),
    "integers keep -0": Mutant(
        "qtrain/quantize/cast.py",
        "y = jnp.where(y == 0, np.float32(0), y)",
        "y = y + 0.0",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "random bits of half the width": Mutant(
        "qtrain/quantize/cast.py",
        ">> np.uint32(32 - nbits)",
        ">> np.uint32(33 - nbits)",
        "tests/quantize/test_properties.py -k unbiased",
    ),
    "stochastic keeps a bit more": Mutant(
        "qtrain/quantize/cast.py",
        "    mask = np.uint32(0xFFFFFFFF << (23 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "    mask = np.uint32(0xFFFFFFFF << (22 - fmt.man) & 0xFFFFFFFF)\n    truncated",
        "tests/quantize/test_cast.py -k gfloat",
    ),
    "ties of toward_odd": Mutant(
        "qtrain/quantize/reference.py",
        "up = inexact & ~odd",
        "up = inexact & odd",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "nearest_away breaks ties down": Mutant(
        "qtrain/quantize/reference.py",
        "up = (rest >= half) & inexact",
        "up = (rest > half) & inexact",
        "tests/quantize/test_cast.py -k rational_arithmetic",
    ),
    "variant B truncates": Mutant(
        "qtrain/quantize/reference.py",
        '    if variant == "B":',
        '    if variant == "never":',
        "tests/quantize/test_cast.py -k given_bits",
    ),
    "the hash ends early": Mutant(
        "qtrain/quantize/bits.py",
        "    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)\n",
        "",
        "tests/quantize/test_bits.py",
    ),
    "the second key word is left out": Mutant(
        "qtrain/quantize/bits.py",
        "* np.uint32(0x7FEB352D)\n    h = (h ^ (h >> np.uint32(15))) + k1",
        "* np.uint32(0x7FEB352D)\n    h = h ^ (h >> np.uint32(15))",
        "tests/quantize/test_bits.py -k shifts",
    ),
    "the second key word comes last": Mutant(
        "qtrain/quantize/bits.py",
        "(15))) + k1\n    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)",
        "(15)))\n    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B) + k1",
        "tests/quantize/test_bits.py -k shifts",
    ),
    "raw keys seed the hash": Mutant(
        "qtrain/quantize/bits.py",
        '    key = fold(key, "random bits")\n',
        "",
        "tests/quantize/test_bits.py -k small_keys",
    ),
    "the scale underflows": Mutant(
        "qtrain/quantize/scale.py",
        "        scale = jnp.clip(scale, _LEAST, _MOST)\n",
        "",
        "tests/quantize/test_scale.py -k all_sizes",
    ),
    "folding ignores the part": Mutant(
        "qtrain/quantize/bits.py",
        "key = jax.random.fold_in(key, number)",
        "key = jax.random.fold_in(key, 0 * number)",
        "tests/quantize/test_bits.py -k places",
    ),
    "the worst scale": Mutant(
        "qtrain/quantize/scale.py",
        "argmin",
        "argmax",
        "tests/quantize/test_scale.py -k mse",
    ),
    "the end of the range does not move": Mutant(
        "qtrain/quantize/estimator.py",
        "(x >= clip[0]) & (x <= clip[1])",
        "(x > clip[0]) & (x < clip[1])",
        "tests/quantize/test_quantizer.py -k clipped",
    ),
    "scaled values overflow": Mutant(
        "qtrain/quantize/scale.py",
        "return jnp.where(jnp.isfinite(y), jnp.clip(y, np.float32(low), np.float32(high)), y)",
        "return y * np.float32(1 + 2.0**-4)",
        "tests/quantize/test_quantizer.py -k fill",
    ),
    "NaN is a number": Mutant(
        "qtrain/formats/float.py",
        'return codes - (2 if self.top == "fn" else 1)',
        "return codes - 1",
        "tests/formats",
    ),
    "the residual of TwoSum is dropped": Mutant(
        "qtrain/ops/adder.py",
        "(jnp.abs(error) > 0) & (bits & np.uint32(1) == 0)",
        "(jnp.abs(error) > jnp.inf) & (bits & np.uint32(1) == 0)",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "rounding to odd without odd": Mutant(
        "qtrain/ops/adder.py",
        "(jnp.abs(error) > 0) & (bits & np.uint32(1) == 0)",
        "jnp.abs(error) > 0",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "shift added to a large addend": Mutant(
        "qtrain/ops/adder.py",
        "small = jnp.abs(a) < np.float32(2 * fmt.min_normal)",
        "small = jnp.abs(a) >= 0",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "align by one addend": Mutant(
        "qtrain/ops/adder.py",
        "larger = jnp.maximum(jnp.abs(x), jnp.abs(other))",
        "larger = jnp.abs(x)",
        "tests/ops/test_adder.py -k one_addition",
    ),
    "short sequence rounds away": Mutant(
        "qtrain/ops/adder.py",
        "np.uint32(drop << 23 | 0x400000))\n    return (total + magic) - magic",
        "np.uint32(drop << 23 | 0x400001))\n    return (total + magic) - magic",
        "tests/ops/test_accumulate.py -k agree",
    ),
    "sums start above 0": Mutant(
        "qtrain/ops/accumulate.py",
        "jnp.full((plan.side, *total.shape), -0.0, jnp.float32)",
        "jnp.full((plan.side, *total.shape), 2.0**-140, jnp.float32)",
        "tests/ops/test_accumulate.py -k equals_the_oracle",
    ),
    "the formats of the two sums swapped": Mutant(
        "qtrain/ops/accumulate.py",
        "inner = _Level(0, formats.get_float(accum.intra or accum.fmt)",
        "inner = _Level(0, formats.get_float(accum.fmt)",
        "tests/ops/test_accumulate.py -k three_formats",
    ),
    "one stream of bits for both levels": Mutant(
        "qtrain/ops/accumulate.py",
        "outer = _Level(1, ",
        "outer = _Level(0, ",
        "tests/ops/test_accumulate.py -k stochastic_bits",
    ),
    "narrow too often": Mutant(
        "qtrain/ops/operands.py",
        "ok &= (top - quantum <= 24) | _rounds_once(bits, intra, fmt)",
        "ok &= top < jnp.inf",
        "tests/ops/test_adder.py -k foreseen",
    ),
    "overflow not foreseen": Mutant(
        "qtrain/ops/operands.py",
        "    ok &= top <= min(math.log2(f.max) for f in (fmt, intra))\n",
        "",
        "tests/ops/test_accumulate.py -k equals_the_oracle",
    ),
    "the weight gradient sees another error": Mutant(
        "qtrain/ops/conv.py",
        "x, for_wgrad, w.shape, window",
        "x, for_dgrad[:, ::-1], w.shape, window",
        "tests/ops/test_conv_sums.py",
    ),
    "the date in a figure": Mutant(
        "paper_figs/style.py",
        'metadata={"CreationDate": None}',
        'metadata={"Title": str(time.time_ns())}',
        "tests/scripts/test_figures.py -k same_bytes",
    ),
    "the sweep trusts names": Mutant(
        "scripts/sweep.py",
        'before is not None and from_json(before["recipe"]) == recipe',
        "before is not None",
        "tests/scripts/test_sweep.py -k not_repeated",
    ),
}


def run_tests(tree: Path, arguments: str) -> subprocess.CompletedProcess:
    """Pytest in a copy of the tree, which comes before any installed qtrain."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    words, _, chosen = arguments.partition(" -k ")
    return subprocess.run(
        [*command, *words.split(), *(["-k", chosen] if chosen else [])],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_place_exists_once(mutant):
    """Quick, so that whoever changes the code hears of the mutant at once."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_dies(mutant, tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    file = tmp_path / mutant.file
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    run = run_tests(tmp_path, mutant.tests)
    assert run.returncode == 1, (
        f"survived, or did not run:\n{run.stdout[-2000:]}{run.stderr[-500:]}"
    )
    assert " failed" in run.stdout
