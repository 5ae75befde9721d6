"""Counts of what a scheduled program moves and exchanges."""

import jax
import jax.numpy as jnp
import pytest

from mav import hlo

HLO = """
ENTRY %main (p: bf16[8,320]) -> f32[4] {
  %ag = bf16[64,320]{1,0} all-gather(bf16[8,320] %p), dimensions={0}
  %ar.1 = (f32[10]{0}, f32[5,2]{1,0}) all-reduce(f32[10] %a, f32[5,2] %b), to_apply=%add
  %s = (bf16[8,4], bf16[64,4]) all-gather-start(bf16[8,4] %q), dimensions={0}
  %d = bf16[64,4] all-gather-done((bf16[8,4], bf16[64,4]) %s)
  %f = f32[4] add(f32[4] %x, f32[4] %y), metadata={op_name="all-reduce"}
  %w = f32[2] while(%i), condition=%c, body=%b, backend_config={"known_trip_count":{"n":"5"}}
}

%b (p: (f32[2])) -> (f32[2]) {
  %cp = (f32[3,2], f32[3,2], u32[], u32[]) collective-permute-start(f32[3,2] %x)
}
"""


def test_collectives_are_counted_by_the_bytes_that_they_leave():
    found = hlo.Program(HLO).collectives()
    assert found == {
        "all-gather": dict(count=2, bytes=2 * (64 * 320 + 64 * 4)),
        "all-reduce": dict(count=1, bytes=4 * 20),
        "collective-permute": dict(count=5, bytes=5 * 4 * 6),
    }


def compiled(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*shapes).compile()


N = 4096


@pytest.mark.parametrize(
    ("function", "shapes", "arrays"),
    [
        (lambda x: jnp.sin(x) * 2 + 1, [(N,)], 2),
        (lambda x, y: (x + y, x - y), [(N,), (N,)], 6),
        (lambda x: jax.lax.dynamic_slice(x, (3,), (N,)) * 2, [(9 * N,)], 2),
        (lambda x: jax.lax.scan(lambda c, row: (c, jnp.sin(row)), 0, x)[1], [(7, N)], 21),
    ],
    ids=["one", "two results, each by itself", "a slice", "a loop over slices, cleared before"],
)
def test_arrays_are_moved_once_and_slices_alone(function, shapes, arrays):
    moved = hlo.Program(compiled(function, *shapes).as_text()).bytes_moved()
    assert moved == pytest.approx(4 * N * arrays, rel=0.01)


def test_what_lies_in_faster_memory_is_free():
    text = """
ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0:T(128)} parameter(0)
  %s = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}, u32[]{:S(2)}) copy-start(%p)
  %d = f32[64]{0:T(128)S(1)} copy-done(%s)
  %e = f32[64]{0:T(128)S(1)} exponential(%d)
  ROOT %f = f32[64]{0:T(128)} negate(%e)
}
"""
    assert hlo.Program(text).bytes_moved() == 2 * 4 * 64  # in and out


def test_the_length_of_a_loop_of_a_tpu_is_read_from_its_condition():
    text = """
%condition (c: (s32[], f32[64])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  %c = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (b: (s32[], f32[64])) -> (s32[], f32[64]) {
  %b = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  %x = f32[64]{0:T(128)} get-tuple-element(%b), index=1
  %y = f32[64]{0:T(128)} all-reduce(%x), to_apply=%add
}

ENTRY %main (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p = (s32[]{:T(128)}, f32[64]{0:T(128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[64]{0:T(128)}) while(%p), condition=%condition, body=%body
}
"""
    program = hlo.Program(text)
    assert program.collectives() == {"all-reduce": dict(count=5, bytes=5 * 4 * 64)}
    assert program.bytes_moved() == pytest.approx(5 * 2 * 4 * 64, rel=0.01)
