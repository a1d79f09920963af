"""Vision models in and out: parity with `transformers`, round trips, old names, refusals."""

import dataclasses
import functools
import json
import math
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gptjax import convert, models
from gptjax.convert import registry, tensor_files
from gptjax.convert.tensor_map import shapes_of
from gptjax.errors import UserError
from gptjax.models.vision import image_text

sys.path.insert(0, str(Path(__file__).parent))
import vision_tiny as tiny
from test_huggingface import same

# By transformers 5.23.0 and torch 2.13.0: tests/convert/vision_tiny.py rewrites them.
GOLDEN = json.loads(tiny.GOLDEN.read_text())
TOLERANCE = 1e-5  # relative; the two agree to 1e-6
LLAVA = tiny.MODELS["llava"]
EVERY = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("llava-tied", "llava-mixtral")))
    for name in tiny.MODELS
]


@functools.cache
def right(name):
    config = tiny.MODELS[name]
    return tiny.outputs(config, tiny.parameters(config))


def off_the_stored(name, outputs):
    return max(tiny.errors(tiny.some(outputs), GOLDEN[name]).values())


@pytest.mark.parametrize("name", EVERY)
def test_outputs_equal_the_stored_ones(name):
    assert off_the_stored(name, right(name)) < TOLERANCE


@pytest.mark.parametrize("name", tiny.MODELS)
def test_outputs_equal_transformers(name):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    found = tiny.errors(right(name), tiny.reference(tiny.MODELS[name]))
    assert max(found.values()) < TOLERANCE, found


WRONG_FIELDS = [
    ("clip", {"mlp": "gelu_tanh"}),
    pytest.param("clip", {"mlp": "gelu"}, marks=pytest.mark.slow),
    pytest.param("clip", {"first_norm": False}, marks=pytest.mark.slow),
    pytest.param("clip", {"norm_eps": 1e-3}, marks=pytest.mark.slow),
    pytest.param("clip-gelu", {"mlp": "quick_gelu"}, marks=pytest.mark.slow),
    pytest.param("vit", {"mlp": "gelu"}, marks=pytest.mark.slow),
    pytest.param("vit", {"pooler": False}, marks=pytest.mark.slow),
    ("llava", {"feature_layer": -1}),
    pytest.param("llava", {"feature_layer": None}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_FIELDS)
def test_a_wrong_field_is_seen(name, wrong):
    """The stored outputs would be missed, several times over, for each of these mistakes."""
    config = tiny.MODELS[name]
    found = tiny.outputs(dataclasses.replace(config, **wrong), tiny.parameters(config))
    assert off_the_stored(name, found) > 4 * TOLERANCE


def _without(params, *path):
    """A copy with zeros in place of one leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda at, leaf: (
            0 * leaf
            if [str(e.key if hasattr(e, "key") else e.idx) for e in at] == list(path)
            else leaf
        ),
        params,
    )


def _transposed(params):
    """Columns of patches before rows: their positions in that order."""
    table = params["vision"]["positions"]
    turned = table[1:].reshape(3, 3, -1).swapaxes(0, 1).reshape(9, -1)
    vision = {**params["vision"], "positions": np.concatenate([table[:1], turned])}
    return {**params, "vision": vision}


def _channels_first(params):
    """Pixels of a patch channel by channel, as in the stored convolution."""
    patch = params["vision"]["patch"]
    turned = patch.reshape(2, 2, 3, -1).transpose(2, 0, 1, 3).reshape(patch.shape)
    return {**params, "vision": {**params["vision"], "patch": turned}}


WRONG_PARAMETERS = {
    "no bias of the projection": lambda params: _without(params, "projector", "0", "bias"),
    "no class token": lambda params: _without(params, "vision", "class_token"),
    "columns of patches before rows": _transposed,
    "channels before pixels": _channels_first,
    "the last norm for the first": lambda params: {
        **params,
        "vision": {**params["vision"], "first_norm": params["vision"]["final_norm"]},
    },
    "projections in the other order": lambda params: {
        **params,
        "projector": [
            {**a, "bias": b["bias"]}
            for a, b in zip(params["projector"], params["projector"][::-1], strict=True)
        ],
    },
}


@pytest.mark.parametrize("wrong", WRONG_PARAMETERS)
def test_a_wrong_parameter_is_seen(wrong):
    params = WRONG_PARAMETERS[wrong](tiny.parameters(LLAVA))
    assert off_the_stored("llava", tiny.outputs(LLAVA, params)) > 4 * TOLERANCE


def test_a_kept_class_token_is_seen(monkeypatch):
    def kept(config, params, images_BIYXC, layer):
        B, I, *pixels = images_BIYXC.shape
        x = models.encode_images(config, params, images_BIYXC.reshape(-1, *pixels), layer=layer)
        return x[:, :-1].reshape(B, I * config.patches, config.width)

    monkeypatch.setattr(image_text, "_features", kept)
    apply = functools.partial(models.apply_projected, LLAVA)
    logits = jax.jit(apply, compiler_options=tiny.QUICKLY)
    found = logits(tiny.parameters(LLAVA), tiny.vision.tokens(), tiny.images(LLAVA))
    assert off_the_stored("llava", {"logits": np.asarray(found)}) > 4 * TOLERANCE


@pytest.mark.parametrize("name", tiny.MODELS)
def test_round_trip_is_bit_exact(name, tmp_path):
    config, params = tiny.MODELS[name], tiny.parameters(tiny.MODELS[name])
    convert.to_huggingface(config, params, tmp_path / "a")
    read, weights = convert.from_huggingface(tmp_path / "a")
    same(params, weights)
    assert convert.read_config(tmp_path / "a") == read
    convert.to_huggingface(read, weights, tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    shapes = shapes_of(registry.kind_of(config).init, config)
    assert shapes == shapes_of(registry.kind_of(read).init, read)


@pytest.mark.parametrize("name", ["vit-classes", "vit", "clip"])
def test_what_is_read_computes_the_same(name, tmp_path):
    convert.to_huggingface(tiny.MODELS[name], tiny.parameters(tiny.MODELS[name]), tmp_path)
    config, params = convert.from_huggingface(tmp_path)
    for output, array in tiny.outputs(config, params).items():
        np.testing.assert_array_equal(array, right(name)[output])


@pytest.mark.parametrize("name", ["vit-classes", "vit", "clip", "llava", "llava-mixtral"])
def test_the_names_are_those_of_save_pretrained(name, tmp_path):
    """What `transformers` writes has our names and shapes, and is read back to the same bits."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, params = tiny.MODELS[name], tiny.parameters(tiny.MODELS[name])
    convert.to_huggingface(config, params, tmp_path / "ours")
    attributes = json.loads((tmp_path / "ours" / "config.json").read_text())
    cls = getattr(transformers, attributes["architectures"][0])
    model = cls.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=4000)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours, theirs = (tensor_files.open_folder(tmp_path / each) for each in ("ours", "theirs"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    read, weights = convert.from_huggingface(tmp_path / "theirs")
    same(params, weights)
    assert read == convert.read_config(tmp_path / "ours")


OLDER_NAMES = {
    "a module's state": [
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model", "model.language_model"),
        (r"^(vision_tower|multi_modal_projector)", r"model.\1"),
    ],
    "the released files": [(r"^vision_tower\.", "vision_tower.vision_model.")],
    "a state of 2025": [
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model", "model.language_model"),
        (r"^vision_tower\.", "model.vision_tower.vision_model."),
        (r"^multi_modal_projector", "model.multi_modal_projector"),
    ],
}


def stored(folder):
    return {name: tensor.read().copy() for name, tensor in tensor_files.open_folder(folder).items()}


def written(name, folder, change=lambda tensors: tensors, **attributes):
    """A folder of a tiny model whose tensors and attributes were changed."""
    convert.to_huggingface(tiny.MODELS[name], tiny.parameters(tiny.MODELS[name]), folder)
    tensors = change(stored(folder))
    tensor_files.write_folder(folder, tensors.items(), max_shard_bytes=1 << 30)
    path = folder / "config.json"
    merged = json.loads(path.read_text())
    for key, value in attributes.items():
        part, _, inner = key.rpartition("__")
        (merged[part] if part else merged)[inner] = value
    path.write_text(json.dumps(merged))
    return folder


@pytest.mark.parametrize("age", OLDER_NAMES)
def test_older_names_are_read(age, tmp_path):
    def older(name):
        for pattern, replacement in OLDER_NAMES[age]:
            name = re.sub(pattern, replacement, name)
        return name

    def change(tensors):
        renamed = {older(name): array for name, array in tensors.items()}
        assert len(renamed.keys() - tensors.keys()) > 5
        return {**renamed, "vision_tower.vision_model.embeddings.position_ids": np.arange(10)}

    same(tiny.parameters(LLAVA), convert.from_huggingface(written("llava", tmp_path, change))[1])


def test_clips_folder_with_both_encoders_is_read(tmp_path):
    """The released CLIP has a text encoder beside, and says much of how texts are generated."""

    def change(tensors):
        both = {f"vision_model.{name}": array for name, array in tensors.items()}
        text = (
            "text_model.embeddings.token_embedding.weight",
            "text_projection.weight",
            "visual_projection.weight",
            "logit_scale",
        )
        return {**both, **dict.fromkeys(text, np.zeros(3, np.float32))}

    written("clip", tmp_path, change)
    path = tmp_path / "config.json"
    vision = {
        **json.loads(path.read_text()),
        "dropout": 0.0,
        "projection_dim": 768,
        "top_p": 1.0,
        "num_beams": 1,
        "use_bfloat16": False,
        "id2label": {"0": "LABEL_0"},
    }
    both = {
        "model_type": "clip",
        "vision_config": {},
        "text_config": {},
        "projection_dim": 768,
        "logit_scale_init_value": 2.6592,
        "vision_config_dict": vision,
        "text_config_dict": None,
    }
    path.write_text(json.dumps(both))
    config, params = convert.from_huggingface(tmp_path)
    assert config == tiny.MODELS["clip"]
    same(tiny.parameters(tiny.MODELS["clip"]), params)


def test_a_class_token_without_the_prefix_of_a_head(tmp_path):
    """A ViT whose head was left out by num_labels=0 keeps the prefix."""
    bare = dataclasses.replace(tiny.MODELS["vit"], pooler=False)
    params = {k: v for k, v in tiny.parameters(tiny.MODELS["vit"]).items() if "pooler" not in k}
    convert.to_huggingface(bare, params, tmp_path)
    prefixed = {f"vit.{name}": array for name, array in stored(tmp_path).items()}
    tensor_files.write_folder(tmp_path, prefixed.items(), max_shard_bytes=1 << 30)
    config, weights = convert.from_huggingface(tmp_path)
    assert config == bare
    same(params, weights)


@pytest.mark.parametrize("name", ["vit-classes", "clip", "llava-mixtral"])
def test_shards_and_bfloat16(name, tmp_path):
    """Weights that are bf16 numbers come back from a bf16 folder unchanged, in many files."""
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(convert.huggingface.DTYPES["bfloat16"]).astype(np.float32),
        tiny.parameters(tiny.MODELS[name]),
    )
    options = {"dtype": "bfloat16", "max_shard_bytes": 2000}
    convert.to_huggingface(tiny.MODELS[name], narrow, tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    index = json.loads((tmp_path / tensor_files.INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * sum(x.size for x in jax.tree.leaves(narrow))
    same(narrow, convert.from_huggingface(tmp_path)[1])


def test_straight_onto_devices(tmp_path):
    params = tiny.parameters(LLAVA)
    convert.to_huggingface(LLAVA, params, tmp_path)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, weights = convert.from_huggingface(tmp_path, shardings=jax.tree.map(lambda _: place, params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(weights))
    same(params, weights)


def added(name):
    return lambda tensors: {**tensors, name: np.zeros(3, np.float32)}


def removed(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


NOT_READ = [
    ("vit", {"qkv_bias": False}, None, "qkv_bias=False, and gptjax builds a vit with True only"),
    ("vit", {"hidden_act": "mish"}, None, "hidden_act='mish', which is not built for vit"),
    ("vit", {"image_size": [6, 8]}, None, "only squares are built"),
    ("vit", {"patch_size": 3}, None, r"projection.weight has the shape \(12, 3, 2, 2\)"),
    ("vit-classes", {"id2label": {"0": "a"}}, None, r"classifier.*asks for \(1, 12\)"),
    ("vit", {}, added("decoder.0.bias"), "tensor decoder.0.bias is not part of a vit"),
    ("clip", {}, added("visual_projection.weight"), "visual_projection.weight is not part of"),
    ("clip", {}, removed("pre_layrnorm.bias"), "has no tensor pre_layrnorm.bias"),
    ("clip", {"num_hidden_layers": 2}, None, r"encoder.layers.2\S+ is not part of a clip_vision"),
    ("llava", {"vision_feature_layer": [-2, -5]}, None, r"vision_feature_layer=\[-2, -5\]"),
    ("llava", {"vision_feature_select_strategy": "full"}, None, "select_strategy='full', and"),
    ("llava", {"multimodal_projector_bias": False}, None, "projector_bias=False, and gptjax"),
    ("llava", {"projector_hidden_act": "relu"}, None, "projector_hidden_act='relu', and gptjax"),
    ("llava", {"vision_config__model_type": "siglip_vision_model"}, None, "for its vision"),
    ("llava", {"text_config__model_type": "lama"}, None, "model_type='lama', which gptjax does"),
    ("llava", {"image_token_index": 13}, None, "image_token=13 is no token of text.vocab_size=13"),
    ("llava", {}, added("image_newline"), "tensor image_newline is not part of a llava"),
    ("llava", {"model_type": "lava"}, None, "model_type='lava', .* it reads .*llava"),
]


@pytest.mark.parametrize(("name", "attributes", "change", "sentence"), NOT_READ)
def test_what_is_not_understood_is_refused(name, attributes, change, sentence, tmp_path):
    folder = written(name, tmp_path, change or dict, **attributes)
    with pytest.raises(UserError, match=sentence):
        convert.from_huggingface(folder)


def vit(**changes):
    return dataclasses.replace(tiny.MODELS["vit-classes"], **changes)


def llava(**changes):
    return dataclasses.replace(LLAVA, **changes)


NOT_WRITTEN = [
    (vit(first_norm=True), "", "vision.first_norm=True cannot be written as model_type=vit"),
    (vit(), "clip_vision_model", "vision.first_norm=False cannot be written as model_type=clip"),
    (vit(mlp="swiglu"), "", "vision.mlp=swiglu cannot be written as model_type=vit; it can say"),
    (vit(pooler=True), "", "pooler=True and num_classes=5 cannot be written together"),
    (vit(), "llama", "model_type='llama' is not known for a vision transformer"),
    (llava(projector_layers=1), "", "projector_layers=1 cannot be written as model_type=llava"),
    (llava(feature_layer=None), "", "feature_layer=None, the normed output, cannot be written"),
    (llava(vision=vit()), "", "vision.num_classes=5 cannot be written as model_type=llava"),
    (llava(text=tiny.tiny.GPT2), "", "a gpt2 cannot be the text model of a llava in"),
    (LLAVA, "vit", "model_type='vit' is no decoder that sees projected patches"),
    (tiny.vision.GATED, "", "a GatedVision is in no family of `transformers`"),
]


@pytest.mark.parametrize(("config", "model_type", "sentence"), NOT_WRITTEN)
def test_what_a_family_lacks_is_refused(config, model_type, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        convert.to_huggingface(config, {}, tmp_path, model_type=model_type)


# As published, without what is not the network's: google/vit-huge-patch14-224-in21k,
# openai/clip-vit-large-patch14-336 (its image encoder), llava-hf/llava-1.5-7b-hf and -13b-hf.
CLIP_L14_336 = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
VICUNA = {
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "torch_dtype": "float16",
    "vocab_size": 32064,
}
LLAVA_7B = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": VICUNA,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": {**CLIP_L14_336, "vocab_size": 32000},
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
VICUNA_13B = {
    **VICUNA,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}
PUBLISHED = {
    "vit-h14": {
        "architectures": ["ViTModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 1280,
        "image_size": 224,
        "initializer_range": 0.02,
        "intermediate_size": 5120,
        "layer_norm_eps": 1e-6,
        "model_type": "vit",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "qkv_bias": True,
    },
    "clip-vit-l14-336": CLIP_L14_336,
    "llava-1.5-7b": LLAVA_7B,
    "llava-1.5-13b": {**LLAVA_7B, "text_config": VICUNA_13B},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_attributes_are_the_preset(name):
    def resolved(config):
        if isinstance(config, models.VisionConfig):
            return dataclasses.replace(config, mlp_width=config.blocks.hidden_width)
        text = convert.config_json.canonical(config.text)
        return dataclasses.replace(config, text=text, vision=resolved(config.vision))

    read = registry.read_map(PUBLISHED[name], lambda: ()).config
    assert resolved(read) == resolved(models.vision_preset(name))


# ViT: with a head of 1,000 classes as torchvision's weights count them (vit_b_16, vit_l_16 and
# vit_h_14 at 224 pixels). CLIP's and Llava's: elements of the released files. Llama 3.2: of
# `transformers`' model with the released shapes; 11B's is the published one, of 90B only 88.6 and
# 88.8 billion are stated.
COUNTS = {
    "vit-b16": (1000, 86_567_656),
    "vit-l16": (1000, 304_326_632),
    "vit-h14": (1000, 632_045_800),
    "clip-vit-l14-336": (0, 303_507_456),
    "llava-1.5-7b": (0, 7_063_427_072),
    "llava-1.5-13b": (0, 13_351_494_656),
    "llama3.2-11b-vision": (0, 10_642_941_475),
    "llama3.2-11b-vision-instruct": (0, 10_670_220_835),
    "llama3.2-90b-vision": (0, 88_593_355_323),
}


def preset_with_head(name):
    config, (classes, _) = models.vision_preset(name), COUNTS[name]
    return dataclasses.replace(config, num_classes=classes) if classes else config


@pytest.mark.parametrize("name", models.VISION_PRESETS)
def test_presets_have_their_published_size(name):
    config = preset_with_head(name)
    leaves = jax.tree.leaves(shapes_of(registry.kind_of(config).init, config))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == COUNTS[name][1]


@pytest.mark.parametrize("name", models.VISION_PRESETS)
def test_presets_are_the_models_of_transformers(name):
    """The preset's config.json makes a model of as many parameters there."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    attributes, _ = registry.write_map(preset_with_head(name), "")
    config = transformers.AutoConfig.for_model(**attributes)
    with torch.device("meta"):
        model = getattr(transformers, attributes["architectures"][0])(config)
    sizes = {id(leaf): leaf.numel() for leaf in model.parameters()}
    assert sum(sizes.values()) == COUNTS[name][1]


def test_an_unknown_preset_is_told():
    with pytest.raises(UserError, match="vision preset 'vit-b32' is not known; did you mean vit-b"):
        models.vision_preset("vit-b32")


@pytest.mark.parametrize("name", ["vit", "llava"])
def test_a_saved_model_is_loaded(name, tmp_path):
    config, params = tiny.MODELS[name], tiny.parameters(tiny.MODELS[name])
    convert.save_model(tmp_path / "model", config, params)
    model = convert.load(tmp_path / "model")
    assert model.config == config
    same(params, model.params)
