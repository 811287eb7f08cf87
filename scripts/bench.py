"""Times the emulated operations against their plain float32 counterparts.

    python scripts/bench.py                 # all cases, a table and results/bench.jsonl
    python scripts/bench.py --only cast dot # cases whose name contains a word
    python scripts/bench.py --list
    python scripts/bench.py --table         # the README's table, from the rows measured so far

Each case runs the plain and the emulated version in turn, in one process, and reports the
median of the ratio of neighbours, so that a machine whose speed drifts does not matter.
Compile time is listed by itself. Nothing here decides whether a test passes.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from qtrain.train.host import keep_freed_pages

keep_freed_pages()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import tyro  # noqa: E402
from jax import lax  # noqa: E402

import qtrain as qt  # noqa: E402
from qtrain.train.metrics import provenance  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "paper_figs" / "results" / "bench.jsonl"
ROWS = (  # of the README's table: title, pattern of the cases' names, highest ratio aimed at
    ("cast of 16M values in place, nearest", "cast nearest .*", 1.5),
    ("the same, stochastic", "cast stochastic .*", 2.5),
    ("dot 512 and 1024, (1,6,9), FP8 operands, nearest", r"dot \d+ nearest chunk \d+", 6.0),
    ("the same, stochastic", r"dot \d+ stochastic chunk \d+", 10.0),
    ("dot 512, float32 operands, nearest", "dot .*float32 operands", 6.0),
    ("conv 3x3, forward and both gradients", "conv .*", 8.0),
    ("training step of the small CNN, whole FP8 recipe", "training step.*, wang2018fp8", 5.0),
    ("the same with batch norm, 8-bit operands", "training step.*, 8-bit operands", 1.6),
    ("of these, one role alone", "training step.*, 8-bit (weights|activations|errors)", 1.6),
    ("8-bit operands and range norm", "training step.*, banner2018scalable", 1.6),
    ("of these, range norm alone", "training step.*, range norm in float32", 1.6),
    ("int8 operands, against qwix's step", "training step.*, int8 against qwix", 1.0),
    ("training step by a method of the zoo, median of all", "training step.*, zoo .*", 1.5),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A pair of functions of the same arguments; donated ones are called as x = f(x)."""

    name: str
    plain: Callable
    emulated: Callable
    args: tuple | Callable[[], tuple]  # or what makes them, when they are needed
    operations: float  # multiply-adds, or elements, per call
    donate: bool = False

    @property
    def goal(self) -> float:
        """The highest ratio aimed at."""
        return next(goal for _, pattern, goal in ROWS if re.fullmatch(pattern, self.name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Times emulated operations against plain float32 ones."""

    only: tuple[str, ...] = ()  # run the cases whose name contains one of these words
    list: bool = False  # print the names of the cases and stop
    table: bool = False  # print the README's table from --out and stop
    rounds: int = 15  # timed pairs per case, at least 2
    out: pathlib.Path = RESULTS  # rows are appended


def fp8(seed: int, shape, scale: float = 1.0) -> jax.Array:
    """Normal values on the grid of e5m2."""
    x = jax.random.normal(jax.random.key(seed), shape) * scale
    return x.astype(jnp.float8_e5m2).astype(jnp.float32)


def cast_cases() -> Iterator[Case]:
    """Rounding of 16 Mi float32 in place, against x + 1 in place."""
    x = jax.random.normal(jax.random.key(0), (1 << 24,))
    key = jax.random.key(1)
    for name in ("e5m2", "e4m3fn", "e6m9", "bf16"):
        fmt = qt.formats.get(name)
        yield Case(
            f"cast nearest {name}", lambda x: x + 1, lambda x, f=fmt: qt.cast(x, f),
            (x,), x.size, donate=True,
        )  # fmt: skip
        yield Case(
            f"cast stochastic {name}", lambda x: x + 1, lambda x, f=fmt: qt.cast(x, f, key),
            (x,), x.size, donate=True,
        )  # fmt: skip


def dot_cases() -> Iterator[Case]:
    """Square products, every addition rounded to (1,6,9), against a plain product."""
    for n in (512, 1024):
        a, b = fp8(0, (n, n)), fp8(1, (n, n))
        for rounding in ("nearest", "stochastic"):
            for chunk in (None, 64):
                accum = qt.Accumulator("e6m9", chunk, rounding)
                key = jax.random.key(2)
                yield Case(
                    f"dot {n} {rounding} chunk {chunk or n}", jnp.matmul,
                    lambda a, b, s=accum, k=key: qt.dot(a, b, accum=s, key=k), (a, b), n**3,
                )  # fmt: skip
    wide = jax.random.normal(jax.random.key(3), (512, 512))
    accum = qt.Accumulator("e6m9", 64)
    yield Case(
        "dot 512 nearest chunk 64, float32 operands", jnp.matmul,
        lambda a, b: qt.dot(a, b, accum=accum), (wide, wide), 512**3,
    )  # fmt: skip


def conv_cases() -> Iterator[Case]:
    """A 3x3 convolution with both gradients, against lax."""
    x, w = fp8(0, (16, 32, 32, 64)), fp8(1, (3, 3, 64, 64), 0.1)
    error = fp8(2, (16, 32, 32, 64))
    accum = qt.Accumulator("e6m9", 64)
    config = qt.DotConfig(forward=accum, input_grad=accum, weight_grad=accum)
    layout = ("NHWC", "HWIO", "NHWC")

    def with_gradients(conv):
        def run(x, w, error):
            y, pull = jax.vjp(conv, x, w)
            return y, *pull(error)

        return run

    yield Case(
        "conv 3x3 64ch 32x32 batch 16, forward and gradients, chunk 64",
        with_gradients(
            lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        ),
        with_gradients(lambda x, w: qt.conv(x, w, config=config)), (x, w, error),
        3 * x.size * 9 * 64,
    )  # fmt: skip


def step_cases() -> Iterator[Case]:
    """Training steps of the small CNNs, same batch: see `bench_steps`."""
    from scripts.bench_steps import pairs, zoo_pairs

    yield from (Case(*pair) for pair in (*pairs(), *zoo_pairs()))


def measure(case: Case, rounds: int) -> dict:
    """Compiles both versions, then times them in turn; times in seconds."""
    if callable(case.args):
        case = dataclasses.replace(case, args=case.args())
    compiled, compile_s = [], []
    for f in (case.plain, case.emulated):
        start = time.perf_counter()
        jitted = jax.jit(f, donate_argnums=(0,) if case.donate else ())
        compiled.append(jitted.lower(*case.args).compile())
        compile_s.append(time.perf_counter() - start)
    state = [jnp.array(x, copy=True) for x in case.args[:1]] if case.donate else None
    times, work = ([], []), ([], [])
    for r in range(rounds + 2):
        for f, log, cpu in zip(compiled, times, work, strict=True):
            start, busy = time.perf_counter(), time.process_time()
            if case.donate:
                state = [jax.block_until_ready(f(*state))]
            else:
                jax.block_until_ready(f(*case.args))
            if r >= 2:  # the first rounds warm caches and the allocator
                log.append(time.perf_counter() - start)
                cpu.append(time.process_time() - busy)
    ratios, cpu_ratios = ([e / p for p, e in zip(*x, strict=True)] for x in (times, work))
    quartiles = statistics.quantiles(times[1], n=4)
    return {
        "case": case.name,
        "goal": case.goal,
        "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(cpu_ratios),  # of all cores' work; other programs' left out
        "plain_s": statistics.median(times[0]),
        "emulated_s": statistics.median(times[1]),
        "emulated_iqr_s": quartiles[2] - quartiles[0],
        "operations_per_s": case.operations / statistics.median(times[1]),
        "share_of_plain_speed": 1 / statistics.median(ratios),
        "plain_compile_s": compile_s[0],
        "emulated_compile_s": compile_s[1],
        "rounds": rounds,
    }


def table(path: pathlib.Path) -> str:
    """The README's table: per version of JAX and number of cores the latest ratios; above the
    goal in bold.
    """
    found: dict[str, dict[str, float]] = {}
    version = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        version = _column(row) if "versions" in row else version
        if "case" in row:
            found.setdefault(version, {})[row["case"]] = row["ratio"]
    head = ["what is emulated", "goal", *found]
    lines = [head, ["---"] * len(head)]
    for title, pattern, goal in ROWS:
        cells = [
            _cell([r for c, r in cases.items() if re.fullmatch(pattern, c)], goal, title)
            for cases in found.values()
        ]
        lines.append([title, f"{goal:g}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(row: dict) -> str:
    """The head of a run's column; two cores, the README's machine, go without saying."""
    cores = row.get("device", {}).get("cores", 2)
    suffix = {1: ", one core", 2: ""}.get(cores, f", {cores} cores")
    return f"jax {row['versions']['jax']}{suffix}"


def _cell(ratios: list[float], goal: float, title: str) -> str:
    """The range of the ratios to one decimal, or their median, if the title says so."""
    if not ratios:
        return ""
    if "median" in title:
        ratios = [statistics.median(ratios)]
    text = " to ".join(dict.fromkeys(f"{r:.1f}" for r in (min(ratios), max(ratios))))
    return text if max(ratios) <= goal else f"**{text}**"


def choose(options: Options) -> list[Case]:
    """The cases to run.

    Raises:
      ValueError: too few rounds, or a word that no case contains.
    """
    if options.rounds < 2:
        raise ValueError(f"rounds must be at least 2, not {options.rounds}: quartiles need two")
    cases = [c for make in (cast_cases, dot_cases, conv_cases, step_cases) for c in make()]
    if unknown := [word for word in options.only if not any(word in c.name for c in cases)]:
        raise ValueError(f"no case contains {', '.join(unknown)}: --list shows their names")
    return [c for c in cases if not options.only or any(w in c.name for w in options.only)]


def main(options: Options) -> None:
    """Runs the chosen cases, prints a row for each and appends it to the result file."""
    if options.table:
        print(table(options.out))
        return
    cases = choose(options)
    if options.list:
        print("\n".join(c.name for c in cases))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{'case':<66}{'ratio':>8}{'of CPU':>8}{'goal':>6}"
        f"{'ms':>9}{'plain ms':>10}{'compile s':>11}"
    )
    with options.out.open("a") as out:
        out.write(json.dumps(provenance({"rounds": options.rounds, "only": options.only})) + "\n")
        for case in cases:
            row = measure(case, options.rounds)
            out.write(json.dumps(row) + "\n")
            print(
                f"{case.name:<66}{row['ratio']:>8.2f}{row['cpu_ratio']:>8.2f}{case.goal:>6.1f}"
                f"{row['emulated_s'] * 1e3:>9.2f}{row['plain_s'] * 1e3:>10.2f}"
                f"{row['emulated_compile_s']:>11.2f}",
                flush=True,
            )
    print(f"rows appended to {options.out}")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
