"""An adapter of PEFT and the logits that it gives: `python render_peft.py > peft_golden.json`.

Needs peft, transformers and gptjax in one environment; the base is written by gptjax.
"""

import json
import tempfile
import warnings
from pathlib import Path

import aligned
import jax
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from gptjax import models
from gptjax.convert import peft, to_huggingface

IDS = torch.arange(3, 11)[None]


def based(config, folder):
    """A base that gptjax wrote, read by transformers."""
    to_huggingface(config, models.init(config, jax.random.key(0)), folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(IDS).logits[0, :, :40].numpy()


def rendered(config, settings):
    """An adapter of PEFT: its two files and its logits, which PEFT has from what we write too."""
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(1)
    model = get_peft_model(based(config, folder / "base"), settings)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    logits = logits_of(model)
    model.save_pretrained(folder / "adapter")
    peft.write_adapter(folder / "ours", config, peft.read_adapter(folder / "adapter", config))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        ours = PeftModel.from_pretrained(based(config, folder / "base"), folder / "ours")
    assert np.abs(logits_of(ours) - logits).max() < 1e-4
    said = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {
        "config": said | {"base_model_name_or_path": ""},
        "tensors": {name: np.round(x, 6).tolist() for name, x in tensors.items()},
        "logits": np.round(logits, 5).tolist(),
    }


def main():
    plain = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "o_proj", "down_proj"])
    patterns = {"rank_pattern": {"c_attn": 4}, "alpha_pattern": {"h.0.attn.c_attn": 3}}
    gpt2 = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=r"transformer\.h\.(\d+\.attn\.c_attn|1\.attn\.c_proj)",
        fan_in_fan_out=True,
        **patterns,
    )
    neox = LoraConfig(r=2, lora_alpha=6, target_modules=["query_key_value"], use_rslora=True)
    joined = {"gpt2": rendered(aligned.GPT2, gpt2), "neox": rendered(aligned.NEOX, neox)}
    print(json.dumps(rendered(aligned.LLAMA, plain) | {"joined": joined}))


if __name__ == "__main__":
    main()
