"""An adapter of PEFT and the logits that it gives: `python render_peft.py > peft_golden.json`.

Needs peft, transformers and gptjax in one environment; the base is written by gptjax.
"""

import json
import tempfile
from pathlib import Path

import aligned
import jax
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from gptjax import models
from gptjax.convert import to_huggingface


def main():
    folder = Path(tempfile.mkdtemp())
    to_huggingface(aligned.LLAMA, models.init(aligned.LLAMA, jax.random.key(0)), folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "o_proj", "down_proj"])
    torch.manual_seed(1)
    model = get_peft_model(base, config).eval()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.3)
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        logits = model(ids).logits[0, :, :40]
    model.save_pretrained(folder / "adapter")
    said = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    found = {
        "config": said | {"base_model_name_or_path": ""},
        "tensors": {name: np.round(x, 6).tolist() for name, x in tensors.items()},
        "logits": np.round(logits.numpy(), 5).tolist(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
