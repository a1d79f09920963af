"""Collectives read from texts of the three forms in which compilers write groups."""

from gptjax.parallel import collectives

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
TEXT = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%cond (arg: (s32[], f32[4,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(12)
  %i = s32[] get-tuple-element(%arg), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0} get-tuple-element(%arg), index=1
  %ar = f32[4,8]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %t = (s32[], f32[4,8]) tuple(%i, %ar)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]) while(%init), condition=%cond, body=%body, metadata={op_name="loop"}
  %g = bf16[8,8]{1,0} all-gather(%y), replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}
  %s = f32[2,8]{1,0} reduce-scatter(%z), replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, to_apply=%add
  %p = f32[4,8]{1,0} collective-permute(%x), source_target_pairs={{0,4},{4,0}}
  %whole = f32[4,8]{1,0} all-reduce(%x), replica_groups=mesh['a'=8] {'a'}, to_apply=%add
  ROOT %r = f32[4,8] add(%p, %whole)
}
"""


def test_kinds_axes_bytes_and_loops():
    found = {(one.kind, one.axes): one for one in collectives(TEXT, MESH)}
    assert {key: (one.group, one.size, one.times) for key, one in found.items()} == {
        ("all-reduce", ("tensor",)): (2, 128, 12),
        ("all-gather", ("fsdp",)): (2, 128, 1),
        ("reduce-scatter", ("fsdp",)): (2, 64, 1),
        ("collective-permute", ("data",)): (2, 128, 1),
        ("all-reduce", ("data", "fsdp", "tensor")): (8, 128, 1),
    }
    assert found["all-reduce", ("tensor",)].sent == 12 * 128  # 2·(n−1)/n of it, each time
    assert found["all-gather", ("fsdp",)].sent == 64
    assert found["reduce-scatter", ("fsdp",)].sent == 64
