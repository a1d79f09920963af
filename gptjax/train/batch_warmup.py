"""Batch-size warm-up: the batch doubles from small to full while training begins.

At first a small batch learns more from each token.

GPT-3 (Brown et al. 2020, arXiv:2005.14165, section 2.3) raises the batch linearly over the first 4
to 12 billion tokens. Here it doubles from batch_size / 2^k, k = `train.batch_doublings`, and each
size begins where that line reaches it: after (2^j − 1)/(2^k − 1) of `train.batch_warmup_tokens`. So
every size has the same number of updates, up to rounding to whole steps.

A step remains one full batch of tokens; before the last stage it is cut into 2^k, 2^(k−1), … parts,
each with an update of its own. Step, tokens, FLOPs, the position in the data and the learning rate
keep their relation, and a checkpoint needs nothing more than the step.
"""

import dataclasses

from gptjax.errors import UserError
from gptjax.train.config import RunSpec


def ends(spec: RunSpec) -> tuple[int, ...]:
    """The steps at which the batch doubles."""
    k = spec.batch_doublings
    steps = spec.batch_warmup_tokens / (spec.batch_size * spec.model.seq_len)
    return tuple(round(steps * (2**j - 1) / (2**k - 1)) for j in range(1, k + 1))


def stages(spec: RunSpec) -> tuple[RunSpec, ...]:
    """The spec with the batch size and the micro-batches of one update, stage by stage.

    Raises:
      UserError: as `check`.
    """
    check(spec)
    found = []
    for j in range(spec.batch_doublings, -1, -1):
        parts = 2**j
        micro = max(1, spec.micro_batches // parts)
        found.append(
            dataclasses.replace(
                spec,
                batch_size=spec.batch_size // parts,
                micro_batches=micro,
                batch_doublings=0,
                batch_warmup_tokens=0,
            )
        )
    return tuple(found)


def updates(spec: RunSpec) -> int:
    """Updates of the whole run."""
    k, starts = spec.batch_doublings, (0, *ends(spec))
    total = 0
    for j, start in enumerate(starts):
        end = starts[j + 1] if j < k else spec.steps
        total += 2 ** (k - j) * max(0, min(end, spec.steps) - start)
    return total


def check(spec: RunSpec) -> None:
    """Whether the batch can be halved as often as the spec says.

    Raises:
      UserError: with the field, the value and the repair.
    """
    k, parts = spec.batch_doublings, 2**spec.batch_doublings
    if k == 0 and spec.batch_warmup_tokens == 0:
        return
    if k == 0 or spec.batch_warmup_tokens == 0:
        raise UserError(
            f"train.batch_doublings={k} and train.batch_warmup_tokens={spec.batch_warmup_tokens} "
            "need each other; set both, for example 3 and a tenth of the run's tokens, or neither"
        )
    if spec.batch_size % parts:
        up = -(-spec.batch_size // parts) * parts
        raise UserError(
            f"train.batch_size={spec.batch_size} cannot be halved train.batch_doublings={k} times; "
            f"set train.batch_size={up}, or fewer doublings"
        )
    if spec.micro_batches > 1 and spec.micro_batches % parts and parts % spec.micro_batches:
        raise UserError(
            f"train.micro_batches={spec.micro_batches} and the {parts} parts of a first batch "
            f"(train.batch_doublings={k}) do not divide each other; set train.micro_batches={parts}"
        )
    if spec.noise_scale and spec.micro_batches < 2 * parts:
        raise UserError(
            f"train.noise_scale=True needs two micro-batches in the smallest batch, and "
            f"train.micro_batches={spec.micro_batches} are cut {parts} times "
            f"(train.batch_doublings={k}); set train.micro_batches={2 * parts}"
        )
