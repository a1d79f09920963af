"""Laws from any CSV or Parquet of training runs.

    python -m gptjax.main --config=experiments/fit_table.py --config.fit_table.table=runs.csv \
        --config.fit.column_params=N --config.fit.column_tokens=D --config.fit.column_loss=loss

Columns named params, tokens, loss and flops need no mapping. Writes laws.json, figures and
report.html under --workdir (default runs/fit_table).
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A fit of somebody's table: no corpus, no training."""
    config = default_config()
    config.experiment = "fit_table"
    config.job = "fit_table"
    return config
