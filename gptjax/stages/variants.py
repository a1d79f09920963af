"""The sweeps of a comparison: one config, and what each variant changes in it."""

import dataclasses
import re
from collections.abc import Mapping

from gptjax import experiment
from gptjax.config import Config, make_config, to_mapping
from gptjax.errors import UserError

SECTIONS = ("model", "optim", "train", "sweep", "data")
OF_DATA = ("data.weights", "data.phases")
"""Settings of the data that may differ: the tokens stay those of all."""
SHARED = ("sweep.plan", "sweep.budgets", "sweep.seeds", "model.seq_len", "model.vocab_size")
"""Settings that make laws comparable: the same for all variants."""


def variants(config: Config) -> dict[str, Config]:
    """The sweep of every variant of `compare.sweeps` by its label; the first is the reference.

    Raises:
      UserError: for a variant that is not LABEL: SECTION.KEY=VALUE, one that changes what all must
        share, and labels that are the same.
    """
    if len(config.compare.sweeps) < 2:
        raise UserError(
            f"compare.sweeps={config.compare.sweeps} compares nothing; give two or more, for "
            "example 'llama: model.norm=rmsnorm' and 'mamba: model.layer_pattern=ssm'"
        )
    if config.sweep.plan != "isoflop":
        raise UserError(
            f"sweep.plan={config.sweep.plan} has no budgets at which laws could be compared; set "
            "sweep.plan=isoflop"
        )
    base = {**to_mapping(config), "compare": {}}
    found: dict[str, Config] = {}
    for text in config.compare.sweeps:
        label, changes = _parse(text)
        if folder_name(label) in map(folder_name, found):
            raise UserError(f"compare.sweeps has the label {label!r} twice; name each apart")
        values = experiment.override({**base, "job": "sweep", "experiment": label}, changes.items())
        made = make_config(values)
        found[label] = dataclasses.replace(made, experiment_file=config.experiment_file)
    return found


def folder_name(label: str) -> str:
    """The folder of a variant: its label in small letters, digits and underscores.

    >>> folder_name("Mamba + attention")
    'mamba_attention'
    """
    return re.sub(r"\W+", "_", label.lower()).strip("_")


def _parse(text: str) -> tuple[str, Mapping[str, str]]:
    """The label, and the changed settings by their dotted names."""
    label, colon, rest = text.partition(":")
    label = label.strip()
    if not colon or not folder_name(label):
        raise UserError(
            f"compare.sweeps has {text!r}; write it as LABEL: SECTION.KEY=VALUE SECTION.KEY=VALUE"
        )
    changes = {}
    for change in rest.split():
        name, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"compare.sweeps has {change!r} without a value; write {name}=VALUE")
        if name.partition(".")[0] not in SECTIONS:
            raise UserError(
                f"compare.sweeps has {name}; a variant changes settings of {', '.join(SECTIONS)}"
            )
        if name.startswith("data.") and name not in OF_DATA:
            raise UserError(
                f"compare.sweeps has {name}, and all variants are scored on one corpus; give each "
                "text as one of data.sources, and a variant its data.weights"
            )
        if name in SHARED:
            raise UserError(f"compare.sweeps has {name}; set it for all variants instead")
        changes[name] = value
    return label, changes
