"""Weights of a Hugging Face folder in, or those of a run out.

In:  python -m gptjax.main --config=experiments/convert_weights.py --workdir=runs/llama \\
         --config.convert.direction=from_huggingface --config.convert.folder=DOWNLOADED
Out: python -m gptjax.main --config=experiments/convert_weights.py --workdir=runs/RUN \\
         --config.convert.folder=EXPORTED --config.convert.dtype=bfloat16

The workdir of a run of job=train, or one that the first command made, can be written out. Takes
as long as the disk does; a folder that holds anything unknown is refused with its name. Folders
of a ViT, of CLIP's image encoder or of a Llava go both ways too; runs train texts alone.
"""

from gptjax.config import default_config


def get_config():
    config = default_config()
    config.job = "convert"
    config.experiment = "converted"
    return config
