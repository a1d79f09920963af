"""A model behind an address, for OpenAI's clients and for a browser.

    python -m gptjax.main --config=experiments/serve.py --config.serve.model=DIR \\
        --config.serve.port=8000

Then open http://127.0.0.1:8000/, or point a client at http://127.0.0.1:8000/v1. DIR is a run of
job=train, or a converted or downloaded folder with its tokenizer. Needs the extra gptjax[serve].
Programs are compiled before the port opens, and kept for the next start. Ctrl-C or SIGTERM ends it,
after the answers that are under way.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Eight slots of the model's context on 127.0.0.1:8000."""
    config = default_config()
    config.experiment = "serve"
    config.job = "serve"
    return config
