"""Bytes on the wire: of programs compiled here, and of texts as other platforms print them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from qtrain.wire import Transfer, traffic


@functools.cache
def compiled(workers: int) -> tuple[Transfer, ...]:
    """Of a program with one collective of each kind, on arrays of several dtypes."""
    mesh = Mesh(jax.devices()[:workers], ("data",))

    def worker(x):
        codes = (x * 100).astype(jnp.uint8)
        half = jax.lax.all_gather(x.astype(jnp.int16)[:3], "data")
        gathered = jax.lax.all_gather(codes[:5], "data")
        scattered = jax.lax.psum_scatter(jnp.sin(x), "data", tiled=True)
        swapped = jax.lax.all_to_all(jnp.cos(x), "data", 0, 0, tiled=True)
        ring = [(i, (i + 1) % workers) for i in range(workers)]
        shifted = jax.lax.ppermute(jnp.exp(x)[:2], "data", ring)
        total, count = jax.lax.psum((x[:7], jnp.int32(x[0])), "data")
        return half, gathered, scattered, swapped, shifted, total, count

    across = jax.shard_map(
        worker, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(),
        check_vma=False,
    )  # fmt: skip
    return traffic(jax.jit(across).lower(jnp.ones(16 * workers)).compile().as_text())


@pytest.mark.parametrize("workers", [2, 8])
def test_compiled_here(workers):
    """The bytes of each kind are those of the arguments, whatever XLA joins or renames.

    No bfloat16 among them: XLA's CPU backend gathers that as float32, and counting says so.
    """
    payload = {}
    for transfer in compiled(workers):
        payload[transfer.kind] = payload.get(transfer.kind, 0) + transfer.payload
    assert payload == {
        "all-gather": 3 * 2 + 5, "reduce-scatter": 64, "all-to-all": 64, "collective-permute": 8,
        "all-reduce": 7 * 4 + 4,
    }  # fmt: skip


TEXTS = {
    "types with the operands": (
        "  %all-gather.1 = u32[4,100]{1,0} all-gather(u32[1,100]{1,0} %codes), channel_id=1",
        Transfer("all-gather", ("u32",), 400),
    ),
    "names alone": (
        "  %codes.2 = u32[1,100]{1,0} fusion(%x), kind=kLoop\n"
        "  ROOT %all-gather.1 = u32[4,100]{1,0} all-gather(%codes.2), channel_id=1",
        Transfer("all-gather", ("u32",), 400),
    ),
    "names without a sign": (
        "  codes = s4[9]{0} fusion(x)\n  gathered = s4[4,9]{1,0} all-gather(codes), channel_id=1",
        Transfer("all-gather", ("s4",), 4.5),
    ),
    "a tuple": (
        "  %r = (f32[], /*index=1*/s32[7]{0}) all-reduce(f32[] %a, s32[7]{0} %b), to_apply=%s",
        Transfer("all-reduce", ("f32", "s32"), 32),
    ),
    "a tuple by names": (
        "  %a = f32[] constant(1)\n  %b = pred[7]{0} copy(%p)\n"
        "  %all-reduce = (f32[], pred[7]{0}) all-reduce(%a, %b), to_apply=%s",
        Transfer("all-reduce", ("f32", "pred"), 11),
    ),
    "started and done": (
        "  %s = (bf16[3]{0}, bf16[4,3]{1,0}) all-gather-start(bf16[3]{0} %x), dimensions={0}\n"
        "  %d = bf16[4,3]{1,0} all-gather-done((bf16[3]{0}, bf16[4,3]{1,0}) %s)",
        Transfer("all-gather", ("bf16",), 6),
    ),
    "started by name": (
        "  %x.1 = f8e4m3fn[3]{0} copy(%p)\n"
        "  %s = f8e4m3fn[3]{0} all-reduce-start(%x.1), to_apply=%add\n"
        "  %d = f8e4m3fn[3]{0} all-reduce-done(%s)",
        Transfer("all-reduce", ("f8e4m3fn",), 3),
    ),
    "layouts with tiles": (
        "  %g = f32[8,256]{1,0:T(8,128)}"
        " all-gather(f32[2,256]{1,0:T(8,128)(2,1)S(1)} %x, c64[3]{0} %y), dimensions={0}",
        Transfer("all-gather", ("f32", "c64"), 2 * 256 * 4 + 24),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "want"), TEXTS.values(), ids=TEXTS)
def test_printed_elsewhere(text, want):
    """Kills: wire/traffic.py: `(?:-start)?` removed; `_to_closing(...)` -> up to the first ")";
    the search by name removed; `bits / 8` -> `bits // 8`.
    """
    assert traffic(text) == (want,)


def test_nothing_else_counts():
    """Results that are taken out of a collective, and names like one."""
    text = (
        "  %all-gather.1 = f32[3]{0} fusion(f32[3]{0} %x), calls=%all-reduce\n"
        "  %gte = f32[] get-tuple-element((f32[], f32[]) %all-reduce), index=0\n"
        '  %add = f32[] add(%a, %b), metadata={op_name="jit(f)/all_gather"}'
    )
    assert traffic(text) == ()
