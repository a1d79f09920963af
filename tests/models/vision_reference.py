"""Tiny randomised vision models, and the same models in `transformers`.

python tests/models/vision_reference.py prints the errors, and the numbers that test_vision.py
stores (needs the extra `parity`).
"""

import dataclasses
import functools
import math
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from gptjax import models, ops
from gptjax.models.vision.cross_attention import GatedBlock

sys.path.insert(0, str(Path(__file__).parent))
import reference

VISION = models.VisionConfig(
    image_size=6,
    patch_size=2,
    channels=3,
    width=12,
    depth=3,
    num_heads=3,
    mlp_width=20,
    num_classes=5,
    norm_eps=1e-4,
)
TEXT = reference.LLAMA
IMAGE = 10
PROJECTED = models.ProjectedVision(TEXT, VISION, IMAGE)
GATED = models.GatedVision(dataclasses.replace(TEXT, num_kv_heads=4), VISION, IMAGE, every=1)


def images():
    """Two sequences of two images."""
    return np.random.default_rng(2).standard_normal((2, 2, 6, 6, 3)).astype(np.float32)


def tokens():
    """Two images of nine patches in each sequence, at different places, with text around them."""
    words = np.random.default_rng(3).integers(0, IMAGE, (2, 24)).astype(np.int32)
    for row, places in enumerate([(2, 13), (0, 10)]):
        for start in places:
            words[row, start : start + 9] = IMAGE
    return words


def randomised(shapes, seed=0, stacked=("blocks", "cross")):
    """Matrices keep their inputs' size; biases, scales, positions and gates are of size one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        numbers = rng.standard_normal(leaf.shape).astype(np.float32)
        names = [entry.key for entry in path if hasattr(entry, "key")]
        inside = leaf.shape[1:] if set(names) & set(stacked) else leaf.shape
        if names[-1].endswith("scale"):
            return 1.0 + numbers
        if len(inside) < 2 or names[-1].endswith(("bias", "positions")):
            return numbers
        fan_in = math.prod(inside[:2]) if names[-1] == "out" else inside[0]
        return np.float32(1.5 / math.sqrt(fan_in)) * numbers

    return jax.tree_util.tree_map_with_path(draw, shapes)


def parameters(init, config):
    shapes = jax.eval_shape(functools.partial(init, config), jax.random.key(0))
    params = randomised(shapes)
    return params if "text" not in params else {**params, "text": reference.parameters(config.text)}


def gated_block_inputs():
    """(x, patches of two images, what each of six tokens sees): the first sees nothing."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 6, 16)).astype(np.float32)
    memory = rng.standard_normal((2, 8, 12)).astype(np.float32)
    image_of_token = np.array([[0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2]])
    image_of_patch = np.repeat([1, 2], 4)
    return x, memory, image_of_token[..., None] == image_of_patch


def gated_block():
    inputs = gated_block_inputs()
    module = GatedBlock(GATED.text, parent=None)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    params = randomised(nn.unbox(shapes["params"]))
    return params, np.asarray(jax.jit(module.apply)({"params": params}, *inputs))


def error(got, wanted):
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@functools.cache
def _encoder(config, feed_forward):
    return jax.jit(functools.partial(models.encode_images, config, layer=-2))


def features(config, images_BYXC):
    """After the last block but one, with the parameters of VISION."""
    encode = _encoder(config, ops.FEED_FORWARD["gelu"])
    return np.asarray(encode(parameters(models.init_vision, VISION), images_BYXC))


def ours():
    """Every output that is compared, by name."""
    params = parameters(models.init_vision, VISION)
    flat = images().reshape(4, 6, 6, 3)
    classes = jax.jit(functools.partial(models.classify_images, VISION))
    projected = parameters(models.init_projected, PROJECTED)
    logits = jax.jit(functools.partial(models.apply_projected, PROJECTED))
    return {
        "classes": np.asarray(classes(params, flat)),
        "features": features(VISION, flat),
        "projected": np.asarray(logits(projected, tokens(), images())),
        "gated": gated_block()[1],
    }


def theirs():
    """The same from `transformers`."""
    return {**_vit_outputs(), "projected": _llava_logits(), "gated": _idefics_output()}


def some(outputs):
    """Few enough numbers to store."""
    return {
        "classes": outputs["classes"][:2],
        "features": outputs["features"][1, [0, 1, 6], :4],
        "projected": outputs["projected"][[0, 0, 1], [1, 23, 20], :5],
        "gated": outputs["gated"][[0, 0, 1], [0, 4, 2], :4],
    }


def _tensors(state):
    import torch

    return {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}


def _load(model, state, *, unused):
    missing, unexpected = model.load_state_dict(_tensors(state), strict=False)
    assert not unexpected, unexpected
    assert all(unused in name for name in missing), missing
    return model.eval()


def _pixels(images_BYXC):
    import torch

    return torch.tensor(np.moveaxis(images_BYXC, -1, 1).copy())


def _vit_config():
    from transformers import ViTConfig

    return ViTConfig(
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=20,
        layer_norm_eps=1e-4,
        image_size=6,
        patch_size=2,
        num_channels=3,
    )


def _vit_state(params, at):
    W, p, blocks = 12, 2, params["blocks"]
    embeddings = f"{at}embeddings."
    state = {
        f"{embeddings}cls_token": params["class_token"].reshape(1, 1, W),
        f"{embeddings}position_embeddings": params["positions"][None],
        f"{embeddings}patch_embeddings.projection.weight": params["patch"]
        .reshape(p, p, 3, W)
        .transpose(3, 2, 0, 1),
        f"{embeddings}patch_embeddings.projection.bias": params["patch_bias"],
        f"{at}layernorm.weight": params["final_norm"]["scale"],
        f"{at}layernorm.bias": params["final_norm"]["bias"],
    }
    names = [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "o_proj")]
    norms = [("attention_norm", "layernorm_before"), ("mlp_norm", "layernorm_after")]
    for i in range(3):
        layer, attention = f"{at}layers.{i}.", blocks["attention"]
        for mine, other in names:
            matrix = attention[mine][i].reshape(W, W).T
            state[f"{layer}attention.{other}.weight"] = matrix
            state[f"{layer}attention.{other}.bias"] = attention[f"{mine}_bias"][i].reshape(W)
        for mine, other in (("up", "fc1"), ("down", "fc2")):
            state[f"{layer}mlp.{other}.weight"] = blocks["mlp"][mine][i].T
            state[f"{layer}mlp.{other}.bias"] = blocks["mlp"][f"{mine}_bias"][i]
        for mine, other in norms:
            state[f"{layer}{other}.weight"] = blocks[mine]["scale"][i]
            state[f"{layer}{other}.bias"] = blocks[mine]["bias"][i]
    return state


def _vit_outputs():
    import torch
    from transformers import ViTForImageClassification

    params = parameters(models.init_vision, VISION)
    config = _vit_config()
    config.num_labels = 5
    state = _vit_state(params, "vit.")
    state["classifier.weight"], state["classifier.bias"] = params["head"].T, params["head_bias"]
    model = _load(ViTForImageClassification(config), state, unused="pooler")
    with torch.no_grad():
        found = model(_pixels(images().reshape(4, 6, 6, 3)), output_hidden_states=True)
    return {"classes": found.logits.numpy(), "features": found.hidden_states[-2].numpy()}


def _llava_logits():
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    params = parameters(models.init_projected, PROJECTED)
    config = LlavaConfig(
        vision_config=_vit_config(),
        text_config=reference._llama_model(TEXT).config,
        image_token_index=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    state = _vit_state(params["vision"], "model.vision_tower.")
    for i, matrix in enumerate(params["projector"], start=1):
        at = f"model.multi_modal_projector.linear_{i}"
        state[f"{at}.weight"], state[f"{at}.bias"] = matrix["kernel"].T, matrix["bias"]
    for name, value in reference._llama_state(TEXT, params["text"]).items():
        state[name.replace("model.", "model.language_model.", 1)] = value
    model = _load(LlavaForConditionalGeneration(config), state, unused="pooler")
    pixels = _pixels(images().reshape(4, 6, 6, 3))
    with torch.no_grad():
        ids = torch.tensor(tokens(), dtype=torch.long)
        return model(input_ids=ids, pixel_values=pixels).logits.numpy()


def _idefics_output():
    import torch
    from transformers import IdeficsConfig
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    x, memory, visible = gated_block_inputs()
    params, D = gated_block()[0], 16
    config = IdeficsConfig(
        hidden_size=D,
        num_attention_heads=4,
        intermediate_size=20,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        dropout=0.0,
        alpha_type="float",
        vision_config={"embed_dim": 12},
    )
    config._attn_implementation = "eager"
    state = {
        "alpha_cross_attn": params["attention_gate"].reshape(1),
        "alpha_dense": params["mlp_gate"].reshape(1),
        "input_layernorm.weight": params["attention_norm"]["scale"],
        "post_attention_layernorm.weight": params["mlp_norm"]["scale"],
        "cross_attn.o_proj.weight": params["attention"]["out"].reshape(-1, D).T,
    }
    for mine, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        matrix = params["attention"][mine]
        state[f"cross_attn.{other}.weight"] = matrix.reshape(matrix.shape[0], -1).T
    for part in ("gate", "up", "down"):
        state[f"mlp.{part}_proj.weight"] = params["mlp"][part].T
    model = _load(IdeficsGatedCrossAttentionLayer(config, 0), state, unused="rotary")
    mask = torch.where(torch.tensor(visible), 0.0, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        found = model(
            torch.tensor(x),
            image_hidden_states=torch.tensor(memory),
            image_attention_mask=mask,
            cross_attention_gate=torch.tensor(visible.any(axis=-1)),
        )
    return found.numpy()


if __name__ == "__main__":
    mine, other = ours(), theirs()
    for name in mine:
        print(f"{name:10} {error(mine[name], other[name]):.1e}")
    for name, values in some(other).items():
        print(f"    {name!r}: {values.astype(float).round(5).tolist()},")
