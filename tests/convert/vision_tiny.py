"""Tiny vision models, every parameter of size one, and what `transformers` makes of their folders.

python tests/convert/vision_tiny.py prints the errors and rewrites golden_vision.json beside it
(needs the extra `parity`).
"""

import dataclasses
import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from gptjax import convert, models

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny
import vision_reference as vision

GOLDEN = Path(__file__).with_name("golden_vision.json")
IMAGE = 10
QUICKLY = {"xla_backend_optimization_level": 0}  # compiles in half the time
VIT = vision.VISION
CLIP = models.VisionConfig(
    image_size=6,
    patch_size=2,
    width=12,
    depth=3,
    num_heads=3,
    mlp_width=20,
    norm_eps=1e-4,
    mlp="quick_gelu",
    patch_bias=False,
    first_norm=True,
)
LLAMA = tiny.llama(seq_len=24)
MIXTRAL = dataclasses.replace(tiny.MODELS["mixtral"][1], seq_len=24)
PLAIN_VIT = dataclasses.replace(VIT, num_classes=0, pooler=True, mlp="gelu_tanh")
MODELS = {
    "vit-classes": VIT,
    "vit": PLAIN_VIT,
    "clip": CLIP,
    "clip-gelu": dataclasses.replace(CLIP, mlp="gelu", channels=1),
    "llava": models.ProjectedVision(LLAMA, CLIP, IMAGE),
    "llava-vit-qwen2": models.ProjectedVision(tiny.MODELS["qwen2"][1], PLAIN_VIT, IMAGE, -1),
    "llava-tied": models.ProjectedVision(
        dataclasses.replace(LLAMA, tied_head=True), CLIP, IMAGE, feature_layer=1
    ),
    "llava-mixtral": models.ProjectedVision(MIXTRAL, CLIP, IMAGE),
}


def images(config):
    """[sequences, images, rows, columns, channels], or [images, …] for a model without text."""
    if isinstance(config, models.ProjectedVision):
        return vision.images()
    return vision.images().reshape(4, 6, 6, 3)[..., : config.channels]


def parameters(config):
    """Every leaf random; the text model's as in `tiny`."""
    shapes = convert.tensor_map.shapes_of(convert.registry.kind_of(config).init, config)
    params = vision.randomised(shapes)
    return params if "text" not in params else {**params, "text": tiny.parameters(config.text)}


@functools.cache
def _compiled(config):
    """All outputs at once; CLIP's last vectors are those before the last norm."""
    if isinstance(config, models.ProjectedVision):
        tokens = vision.tokens()

        def run(params, images_BIYXC):
            return {"logits": models.apply_projected(config, params, tokens, images_BIYXC)}
    elif config.num_classes:

        def run(params, images_BYXC):
            return {"classes": models.classify_images(config, params, images_BYXC)}
    else:
        layer = None if config.patch_bias else -1

        def run(params, images_BYXC):
            last = models.encode_images(config, params, images_BYXC, layer=layer)
            return {"last": last, "pooled": models.pool_images(config, params, images_BYXC)}

    return jax.jit(run, compiler_options=QUICKLY)


def outputs(config, params):
    """Every output that `transformers` has of such a model, by name."""
    return jax.tree.map(np.asarray, _compiled(config)(params, images(config)))


def their_outputs(config, folder):
    """The same of a folder in `transformers`, in float32."""
    import torch
    import transformers

    name = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {k: v for k, v in report.items() if v and k != "error_msgs"}
    assert not problems, problems
    pixels = images(config)
    pixels = torch.tensor(np.moveaxis(pixels.reshape(-1, *pixels.shape[-3:]), -1, 1).copy())
    model = model.eval()
    with torch.no_grad():
        if isinstance(config, models.ProjectedVision):
            ids = torch.tensor(vision.tokens(), dtype=torch.long)
            found = model(input_ids=ids, pixel_values=pixels, use_cache=False)
            return {"logits": found.logits.numpy()}
        found = model(pixels)
    if config.num_classes:
        return {"classes": found.logits.numpy()}
    return {"last": found.last_hidden_state.numpy(), "pooled": found.pooler_output.numpy()}


def reference(config):
    """What `transformers` makes of our export, in several files."""
    with tempfile.TemporaryDirectory() as folder:
        convert.to_huggingface(config, parameters(config), folder, max_shard_bytes=4000)
        assert len(list(Path(folder).glob("*.safetensors"))) > 2
        return their_outputs(config, folder)


def some(outputs):
    """Few enough numbers to store."""
    places = {"logits": ([0, 0, 1], [1, 23, 20]), "classes": ([0, 3],), "pooled": ([0, 3],)}
    return {
        name: array[*places.get(name, ([0, 1, 3], [0, 1, 8])), :5]
        for name, array in outputs.items()
    }


def errors(got, wanted):
    assert got.keys() == wanted.keys()
    return {name: vision.error(got[name], np.array(wanted[name])) for name in got}


def main():
    golden = {}
    for name, config in MODELS.items():
        wanted = reference(config)
        off = errors(outputs(config, parameters(config)), wanted)
        print(f"{name:16}", *(f"{key} {value:.1e}" for key, value in off.items()), flush=True)
        golden[name] = {
            key: array.astype(float).round(5).tolist() for key, array in some(wanted).items()
        }
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    GOLDEN.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
