"""Peak memory of reading and writing sharded bfloat16 folders, by family; Linux.

python tests/convert/memory.py [FAMILY ...] prints bytes beyond what the process held before.
"""

import gc
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from gptjax import convert, models
from gptjax.convert import registry
from gptjax.convert.tensor_map import shapes_of

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import vision_tiny
from flat_settings import changed
from tiny import MODELS as TINY

SHARD_BYTES = 32_000_000
WIDE = {"vocab_size": 1000, "num_heads": 8, "num_kv_heads": 8, "mlp_width": 1024}


def wide(name, **changes):
    """The tiny model of a family with more and larger layers."""
    return changed(TINY[name][1], **changes)


LLAMA = wide("llama", width=512, depth=6, **{**WIDE, "mlp_width": 2048})
CLIP = changed(vision_tiny.CLIP, width=512, num_heads=8, depth=6, mlp_width=2048)
CONFIGS = {  # some forty million parameters each, single matrices small beside a shard
    "mixtral": wide("mixtral", width=256, depth=6, num_experts=8, **WIDE),
    "deepseek2": wide("deepseek2", width=256, depth=7, num_experts=16, expert_width=512, **WIDE),
    "mamba": wide("mamba", width=512, depth=24, ssm_rank=32, vocab_size=1000),
    "llava": models.ProjectedVision(LLAMA, CLIP, image_token=10),
}


def status(field):
    """A line of /proc/self/status in bytes: VmRSS, what is held now; VmHWM, the most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def peak_of(function):
    """(the most bytes beyond those held before, the result)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    result = function()
    return status("VmHWM") - before, result


def measure(name, folder):
    """Bytes of the parameters and of the largest shard, and the peaks of both directions."""
    config = CONFIGS[name]
    shapes = shapes_of(registry.kind_of(config).init, config)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    options = {"dtype": "bfloat16", "max_shard_bytes": SHARD_BYTES}
    wrote, _ = peak_of(lambda: convert.to_huggingface(config, params, folder, **options))
    read, _ = peak_of(lambda: convert.from_huggingface(folder))
    shards = [path.stat().st_size for path in Path(folder).glob("*.safetensors")]
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    found = {"params": total, "shards": len(shards), "shard": max(shards)}
    return {**found, "written": wrote, "read": read}


def main():
    found = {}
    for name in sys.argv[1:] or CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
