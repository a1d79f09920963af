"""Published models: parameter counts equal to the published ones, without allocation."""

import dataclasses

import pytest

from gptjax import models
from gptjax.errors import UserError

# Counts of the released weights (Hugging Face model cards and checkpoints).
EXACT = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-11b-text": 8_030_261_248,
    "llama3.2-90b-text": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "gpt1": 116_534_784,
    "mistral-7b": 7_241_732_096,
    "mistral-large-2": 122_610_069_504,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "phi3-mini": 3_821_079_552,
    "phi3-small": 7_392_272_384,
    "phi3-medium": 13_960_238_080,
    "command-r-plus": 103_810_674_688,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "deepseek-v2.5": 235_741_434_880,
    "mamba-130m": 129_135_360,
    "mamba-370m": 371_516_416,
    "mamba-790m": 793_204_224,
    "mamba-1.4b": 1_372_178_432,
    "mamba-2.8b": 2_768_345_600,
}
# Brown et al. (2020), table 2.1, column n_params, in millions, as the paper rounds them.
GPT3 = {
    "gpt3-small": 125,
    "gpt3-medium": 350,
    "gpt3-large": 760,
    "gpt3-xl": 1_300,
    "gpt3-2.7b": 2_700,
    "gpt3-6.7b": 6_700,
    "gpt3-13b": 13_000,
    "gpt3-175b": 175_000,
}


@pytest.mark.parametrize("name", EXACT)
def test_counts_equal_the_released_weights(name):
    assert models.count_params(models.preset(name)).total == EXACT[name]


@pytest.mark.parametrize("name", GPT3)
def test_counts_round_to_the_papers(name):
    total = models.count_params(models.preset(name)).total
    assert total / 1e6 == pytest.approx(GPT3[name], rel=0.02)


# Parameters that a token passes, in billions, as the papers round them.
ACTIVE = {"mixtral-8x7b": 12.9, "mixtral-8x22b": 39, "deepseek-v2.5": 21}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_counts_round_to_the_papers(name):
    active = models.count_active_params(models.preset(name)).total
    assert active / 1e9 == pytest.approx(ACTIVE[name], rel=0.03)


def test_every_preset_is_checked_here():
    assert set(models.PRESETS) == set(EXACT) | set(GPT3)


def test_gpt2_counts_the_three_ways():
    # 12 blocks of 12·768² + 13·768, and a last norm; the tied head is 50257·768.
    blocks = 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    counts = models.count_params(models.preset("gpt2"))
    assert counts == models.ParamCount(124_439_808, blocks, blocks + 50257 * 768)


def test_resolve_fills_in_the_preset_around_the_users_values():
    resolved = models.resolve(models.ModelConfig(preset="llama3-8b", depth=2, vocab_size=257))
    expected = dataclasses.replace(models.preset("llama3-8b"), depth=2, vocab_size=257)
    assert resolved == expected
    plain = models.ModelConfig(depth=3)
    assert models.resolve(plain) is plain


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean gpt2-medium"):
        models.preset("gpt2-medum")
