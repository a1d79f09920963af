"""Losses of a cell's weights in few bits, measured when it has been trained.

The weights are replaced by the numbers that their codes stand for, so that the program which scored
the cell scores them too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from gptjax import data, quant
from gptjax.config import Config
from gptjax.train import RunSpec, Session

Scores = dict[str, float]


def scorer(config: Config) -> Callable[[Session, RunSpec, Any], Scores] | None:
    """(session, run, parameters) → held-out loss by bits, or None where nobody asks for it."""
    wanted, settings = config.sweep.quantize_bits, config.own["quantize"]
    if not wanted:
        return None

    def score(session: Session, spec: RunSpec, params: Any) -> Scores:
        return {
            str(bits): _loss(session, spec, params, dataclasses.replace(settings, bits=bits))
            for bits in wanted
        }

    return score


def _loss(session: Session, spec: RunSpec, params: Any, settings: quant.QuantizeConfig) -> float:
    windows = None
    if quant.METHODS[settings.method].calibrated:
        windows = data.calibration_windows(
            session.corpus.train,
            spec.model.seq_len,
            settings.calibration_tokens,
            settings.calibration_seed,
        )
    bits = quant.uniform_bits(spec.model, settings)
    small = quant.quantize(spec.model, params, settings, bits, windows)
    score = session.evaluate(spec, quant.dequantized(small.params))
    return score.loss
