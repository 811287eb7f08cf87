"""The sixteen papers and where each one's contribution lives; the README's table is made from this.

python -m qtrain.papers        # prints the table in Markdown
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper: `key` as in references.bib, `places` of the training step, `code` if built."""

    key: str
    title: str
    places: str
    code: tuple[str, ...] = ()  # files from the root of the repository, most telling first

    @property
    def command(self) -> str | None:
        """What to type first; None if nothing is built yet."""
        return f"python scripts/train.py {self.key}" if self.code else None


PAPERS = (
    Paper(
        "wang2018fp8",
        "Training deep neural networks with 8-bit floating point numbers",
        "weight, activation, error, accumulator, update",
        ("qtrain/recipes/wang2018fp8.py", "qtrain/ops/accumulate.py", "qtrain/optim/sgd.py"),
    ),
    Paper(
        "sakr2019accumulation",
        "Accumulation bit-width scaling",
        "accumulator; theory",
        ("qtrain/recipes/sakr2019accumulation.py", "theory/vrr.py", "theory/scaling.py",
         "scripts/advise.py"),
    ),
    Paper(
        "banner2018scalable",
        "Scalable methods for 8-bit training",
        "weight, activation, error; norm; theory",
        ("qtrain/recipes/banner2018scalable.py", "qtrain/quantize/affine.py", "qtrain/nn/norm.py",
         "theory/expected_range.py", "theory/angle.py"),
    ),
    Paper(
        "hou2019analysis",
        "Analysis of quantized models",
        "weight, gradient, wire; theory",
        ("qtrain/recipes/hou2019analysis.py", "qtrain/optim/loss_aware.py",
         "qtrain/wire/stochastic.py", "theory/regret.py", "theory/convex_lab.py"),
    ),
    Paper(
        "guo2018survey",
        "Survey on methods and theories of quantized neural networks",
        "weight, activation, error, gradient: the zoo",
        ("qtrain/recipes/guo2018survey.py", "qtrain/zoo/registry.py", "qtrain/zoo/README.md"),
    ),
    Paper(
        "jung2019qil",
        "Learning quantization intervals (QIL)",
        "weight, activation",
        ("qtrain/recipes/jung2019qil.py", "qtrain/zoo/qil.py", "qtrain/zoo/interval.py"),
    ),
    Paper(
        "lee2018iterative",
        "Retraining-based iterative weight quantization",
        "weight, over time",
        ("qtrain/recipes/lee2018iterative.py", "qtrain/zoo/iterative.py",
         "qtrain/quantize/binary_codes.py"),
    ),
    Paper("jain2018gist", "Gist: encoded activations", "stash"),
    Paper("rhu2018cdma", "Compressing DMA engine", "stash; hardware"),
    Paper("li2018inceptionn", "INCEPTIONN: compressed gradient exchange without aggregators",
          "wire"),
    Paper("cai2018lowbit", "Training low bit-width CNNs on RRAM",
          "weight, activation, gradient; hardware"),
    Paper("cai2018time", "Long Live TIME: structured gradient sparsification",
          "gradient; hardware"),
    Paper("lee2019lnpu", "LNPU: fine-grained mixed precision of FP8 and FP16",
          "activation, error; hardware"),
    Paper("geng2018fpdeep", "FPDeep: training on pipelined FPGA clusters", "hardware"),
    Paper("liu2018pim", "Heterogeneous processing in memory", "hardware"),
    Paper("isakov2018closnets", "ClosNets: topologies sparse a priori", "topology"),
)  # fmt: skip


def table() -> str:
    """The papers as a Markdown table; rows that are not built say so."""
    lines = ["| paper | places | code | command |", "|---|---|---|---|"]
    for paper in PAPERS:
        code = ", ".join(f"[{file.rsplit('/', 1)[-1]}]({file})" for file in paper.code)
        command = f"`{paper.command}`" if paper.command else ""
        title = f"{paper.title} ({paper.key})"
        lines.append(f"| {title} | {paper.places} | {code or 'not yet built'} | {command} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
