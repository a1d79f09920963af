"""Collectives read from texts of the three forms in which compilers write groups."""

from gptjax.parallel import collectives
from gptjax.parallel.hlo import product_flops

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


PRODUCTS = """
%fused (a: f32[3,5], b: f32[5,7]) -> f32[3,7] {
  %a = f32[3,5]{1,0} parameter(0)
  %b = f32[5,7]{1,0} parameter(1)
  ROOT %d = f32[3,7]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (arg: (s32[])) -> (s32[]) {
  %f = f32[3,7]{1,0} fusion(%x, %y), kind=kOutput, calls=%fused
}

%cond (arg: (s32[])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[2,4,3]) -> f32[2,3,3] {
  %x = f32[2,4,3]{2,1,0} parameter(0)
  %w = (s32[]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  ROOT %e = f32[2,3,3]{2,1,0} dot(%x, %x), lhs_batch_dims={0}, lhs_contracting_dims={1}, rhs_b={0}
}
"""


def test_products_by_hand():
    assert product_flops(PRODUCTS) == 4 * 2 * 3 * 5 * 7 + 2 * 2 * 3 * 4 * 3


FUSED = """
%all-reduce-scatter.8.clone.1 (x: f32[4,8]) -> f32[4,2] {
  %ar = f32[4,8]{1,0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[4,2]{1,0} dynamic-slice(%ar, %zero, %i), dynamic_slice_sizes={4,2}
}

ENTRY %main (x: f32[4,8]) -> f32[4,2] {
  ROOT %f = f32[4,2] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.8.clone.1
}
"""


def test_a_reduce_scatter_as_a_tpu_writes_it():
    (one,) = collectives(FUSED, {"fsdp": 2, "tensor": 4})
    assert (one.kind, one.axes, one.size) == ("reduce-scatter", ("tensor",), 32)
    assert one.sent == 3 * 32


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


ASYNC = """
%start (x: bf16[2,8]) -> bf16[4,8] {
  ROOT %g.1 = bf16[4,8]{1,0} all-gather(%x), channel_id=7, replica_groups={{0,2},{1,3}}
}

%end (x: bf16[2,8]) -> bf16[4,8] {
  ROOT %g.3 = bf16[4,8]{1,0} all-gather(%x), channel_id=7, replica_groups={{0,2},{1,3}}
}

%beside (x: bf16[2,8]) -> bf16[4,8] {
  ROOT %g.2 = bf16[4,8]{1,0} all-gather(%x), channel_id=7, replica_groups={{0,2},{1,3}}
}

%cond (arg: s32[]) -> pred[] {
  %n = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (arg: s32[]) -> s32[] {
  ROOT %f = bf16[4,8]{1,0} fusion(%x), kind=kOutput, calls=%beside
}

ENTRY %main (x: bf16[2,8]) -> bf16[4,8] {
  %f = bf16[4,8]{1,0} fusion(%x), kind=kCustom, calls=%start
  %w = s32[] while(%init), condition=%cond, body=%body
  ROOT %done = bf16[4,8]{1,0} fusion(%x), kind=kCustom, calls=%end
}
"""


def test_a_collective_that_runs_beside_a_loop_counts_once():
    """TPU programs name it in every fusion beside which it runs."""
    (one,) = collectives(ASYNC, {"data": 1, "fsdp": 2, "tensor": 2})
    assert (one.kind, one.axes, one.size) == ("all-gather", ("fsdp",), 64)
    assert one.times == 1


STARTED = """
ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %a = ((bf16[2,8]{1,0}, f32[4]{0}), (bf16[4,8]{1,0}, f32[8]{0})) all-gather-start(%x, %y), replica_groups={{0,1}}
  %b = (bf16[2,8]{1,0}, bf16[4,8]{1,0}) all-gather-start(%x), replica_groups={{0,1}}
  %c = (f32[4]{0}, f32[2]{0}) all-reduce-start(%x, %y), replica_groups={{0,1}}, to_apply=%add
}
"""  # noqa: E501


def test_results_of_started_operations():
    """As GPU programs have them: inputs and results, several of each in tuples of their own."""
    sizes = [one.size for one in collectives(STARTED, {"data": 2})]
    assert sizes == [64 + 32, 64, 16 + 8]
