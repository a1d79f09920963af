"""A tiny randomised Llama 3.2 Vision, and the same model in `transformers`.

python tests/models/tiled_reference.py prints the errors, and the numbers that test_tiled.py stores
(needs the extra `parity`).
"""

import functools
import math
import tempfile

import jax
import numpy as np
from flat_settings import changed

from gptjax import convert, models

TEXT = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=3,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=20,
    seq_len=64,
    norm="rmsnorm",
    norm_eps=1e-4,
    positions="rotary",
    rope_base=500.0,
    rope_scaling="llama3",
    rope_factor=4.0,
    rope_trained_len=5,
    rope_slow=0.5,
    rope_fast=2.0,
    mlp="swiglu",
    use_bias=False,
    tied_head=False,
)
VISION = models.TileConfig(
    image_size=6,
    patch_size=2,
    width=12,
    depth=3,
    global_depth=2,
    num_heads=3,
    mlp_width=20,
    read_layers=(0, 2),
    ratios=((1, 1), (1, 2), (2, 1)),
    max_tiles=3,
    norm_eps=1e-3,
)
IMAGE = 14
TILED = models.TiledVision(models.CrossText(TEXT, cross_layers=(1, 4)), VISION, IMAGE)
RATIOS = np.array([[2, 1, 3], [1, 0, 0], [3, 0, 0]], np.int32)
TILES = {0: 0, 1: 1, 2: 2, 3: 2}


def tokens():
    """An image and then two at once; an image first; one after words. Token 20 is an extra one."""
    words = np.random.default_rng(3).integers(0, 13, (3, 12)).astype(np.int32)
    words[1, 5] = 20
    for row, places in enumerate([(2, 6, 7), (0,), (5,)]):
        words[row, list(places)] = IMAGE
    return words


def tiles():
    """[batch, images, tiles, rows, columns, channels], with numbers in the padding too."""
    return np.random.default_rng(2).standard_normal((3, 3, 3, 6, 6, 3)).astype(np.float32)


def memory():
    """What the text part alone attends to: two images of three tiles of five vectors."""
    return np.random.default_rng(4).standard_normal((2, 30, 16)).astype(np.float32)


def shown():
    """[batch, tokens, images, tiles]: the first words see nothing."""
    shown = np.zeros((2, 12, 2, 3), bool)
    shown[0, 2:, 0, :2] = shown[0, 6:, 1] = shown[1, 5:, 0, 0] = True
    return shown


def parameters(config=TILED):
    """Matrices keep their inputs' size; biases, scales, tables and gates are of size one."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(models.init_tiled, config), jax.random.key(0))

    def draw(path, leaf):
        numbers = rng.standard_normal(leaf.shape).astype(np.float32)
        names = [entry.key for entry in path]
        stacked = set(names) & {"blocks", "cross", "local", "global"}
        inside = leaf.shape[1:] if stacked else leaf.shape
        if names[-1].endswith("scale"):
            return 1.0 + numbers
        if len(inside) < 2 or names[-1].endswith(("bias", "positions", "table", "tokens")):
            return numbers
        fan_in = math.prod(inside[:2]) if names[-1] == "out" else inside[0]
        return np.float32(1.5 / math.sqrt(fan_in)) * numbers

    return jax.tree_util.tree_map_with_path(draw, shapes)


def error(got, wanted):
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@functools.cache
def compiled(function, config):
    return jax.jit(functools.partial(function, config))


def tower(config, params):
    """Features of all images, one after another."""
    encode = compiled(models.encode_tiles, config)
    return np.asarray(encode(params, tiles().reshape(9, 3, 6, 6, 3), RATIOS.reshape(-1)))


def text(config, params):
    """Logits of the text part that attends to `memory`."""
    visible = np.repeat(shown().reshape(2, 12, 6), 5, axis=2)
    apply = compiled(models.apply_cross_text, config)
    return np.asarray(apply(params, tokens()[:2], memory(), visible))


def text_alone(config, params):
    """Its logits where there is no image at all."""
    return np.asarray(compiled(models.apply_cross_text, config)(params, tokens()))


def model(config, params):
    """Logits of the whole model."""
    return np.asarray(compiled(models.apply_tiled, config)(params, tokens(), tiles(), RATIOS))


def ours():
    """Every output that is compared, by name."""
    params = parameters()
    return {
        "tower": tower(TILED.vision, params["vision"]),
        "text": text(TILED.language, params["language"]),
        "text alone": text_alone(TILED.language, params["language"]),
        "model": model(TILED, params),
    }


PLACES = {
    "tower": lambda x: x[[0, 0, 2, 3, 6], [0, 1, 0, 0, 1], [0, 9, 4, 3, 7]][:, ::5],
    "text": lambda x: x[[0, 0, 1, 1], [0, 8, 4, 11], :5],
    "text alone": lambda x: x[[0, 1], [11, 6], :5],
    "model": lambda x: x[[0, 0, 1, 2, 2], [0, 7, 11, 3, 11], :5],
}
"""Of each output few enough numbers to store."""


def their_model(folder):
    """MllamaForConditionalGeneration of a folder, in float32, with nothing missing or left over."""
    import torch
    from transformers import MllamaForConditionalGeneration

    loaded, report = MllamaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {k: v for k, v in report.items() if v and k != "error_msgs"}
    assert not problems, problems
    return loaded.eval()


def theirs():
    """The same from `transformers`, whose processor makes the masks, from an exported folder."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        convert.to_huggingface(TILED, parameters(), folder)
        loaded = their_model(folder)
    inputs = _their_inputs()
    with torch.no_grad():
        features = loaded.model.vision_model(
            pixel_values=inputs["pixel_values"],
            aspect_ratio_ids=inputs["aspect_ratio_ids"],
            aspect_ratio_mask=inputs["aspect_ratio_mask"],
        ).last_hidden_state
        whole = loaded(**inputs, use_cache=False).logits
        alone = loaded(input_ids=inputs["input_ids"], use_cache=False).logits
        return {
            "tower": features.reshape(9, *features.shape[2:]).numpy(),
            "text": _their_text(loaded).numpy(),
            "text alone": alone.numpy(),
            "model": whole.numpy(),
        }


def _their_inputs():
    import torch
    from transformers.models.mllama import image_processing_pil_mllama as images
    from transformers.models.mllama import processing_mllama as processing

    words = tokens()
    ratios = [[VISION.ratios[r - 1] for r in row if r] for row in RATIOS]
    spans = [processing.get_cross_attention_token_mask(list(row), IMAGE) for row in words]
    counts = [[TILES[r] for r in row if r] for row in RATIOS.tolist()]
    seen = processing.convert_sparse_cross_attention_mask_to_dense(spans, counts, 3, 12)
    return {
        "input_ids": torch.tensor(words, dtype=torch.long),
        "pixel_values": torch.tensor(np.moveaxis(tiles(), -1, 3).copy()),
        "aspect_ratio_ids": torch.tensor(RATIOS, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor(images.build_aspect_ratio_mask_np(ratios, 3)),
        "cross_attention_mask": torch.tensor(seen),
    }


def _their_text(loaded):
    import torch
    from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask

    mask, rows = _prepare_cross_attention_mask(
        torch.tensor(shown(), dtype=torch.float32), num_vision_tokens=5, dtype=torch.float32
    )
    found = loaded.model.language_model(
        input_ids=torch.tensor(tokens()[:2], dtype=torch.long),
        use_cache=False,
        cross_attention_states=torch.tensor(memory()),
        cross_attention_mask=mask,
        full_text_row_masked_out_mask=rows,
    )
    return loaded.lm_head(found.last_hidden_state)


def main():
    mine, other = ours(), theirs()
    for name in mine:
        print(f"{name:12} {error(mine[name], other[name]):.1e}")
    for name, places in PLACES.items():
        print(f"    {name!r}: {places(other[name]).astype(float).round(5).tolist()},")


if __name__ == "__main__":
    main()
