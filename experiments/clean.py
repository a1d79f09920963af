"""Clean text for training, from a crawl, an export of a hub, or any files with documents.

    python -m gptjax.main --config=experiments/clean.py \
        --config.clean.input='crawl/*.warc.gz' --config.clean.output=clean/

Reads JSON lines, Parquet, WARC and plain text, compressed or not. Writes zstd JSON lines with ids
that name the source, and report.html: what each stage dropped, why, and examples. Killed and
started again it goes on; the output is the same bytes for any number of processes. Then train with
--config.data.source=jsonl --config.data.path='clean/*.jsonl.zst'.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """The stages of the literature with their published thresholds."""
    config = default_config()
    config.experiment = "clean"
    config.job = "clean"
    return config
