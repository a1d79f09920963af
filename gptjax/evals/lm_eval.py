"""A model of ours in lm-evaluation-harness, by the name `gptjax`.

    python -m gptjax.evals.lm_eval --model gptjax --model_args folder=DIR --tasks …

is lm-eval's own command with this model registered; in Python, importing this module registers it.
Needs gptjax[eval]; without lm-eval the module is empty but for its sentence.
"""

from typing import Any

from gptjax import infer
from gptjax.errors import UserError
from gptjax.evals.score import TOKENS, Request, score
from gptjax.evals.text import windows

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError:
    TemplateLM = register_model = None  # type: ignore[assignment,misc]

CHUNK = 16
"""Answers that are generated together."""


class GptJax:
    """The methods that lm-eval asks a model for."""

    def __init__(
        self, folder: str, batch_tokens: int | str = TOKENS, max_gen_toks: int | str = 256, **_: Any
    ) -> None:
        super().__init__()
        self.model = infer.load(folder)
        self.batch_tokens, self.max_gen_toks = int(batch_tokens), int(max_gen_toks)
        if not self.model.end_ids:
            raise UserError(f"{folder} has no tokenizer; put the tokenizer's file into it")

    @property
    def eot_token_id(self) -> int:
        return self.model.end_ids[0]

    @property
    def max_length(self) -> int:
        return self.model.context or self.model.config.seq_len

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
        return self.model.encode(string)

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        """As lm-eval's own models do, a context that is too long loses its beginning."""
        asked = [
            Request(tuple(context[-(self.max_length + 1 - len(own)) :]), tuple(own))
            for _, context, own in requests
        ]
        found = score(self.model, asked, tokens=self.batch_tokens)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Σ log p of whole texts, in windows of the context."""
        asked, owner = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            pieces = list(windows(self.tok_encode(text), self.eot_token_id, self.max_length))
            asked += pieces
            owner += [number] * len(pieces)
        totals = [0.0] * len(requests)
        found = score(self.model, asked, tokens=self.batch_tokens)
        for number, one in zip(owner, found, strict=True):
            totals[number] += one.total
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Answers up to their stop strings; a prompt that is too long loses its beginning."""
        prompts, settings = [], []
        for request in requests:
            context, options = request.args
            most = int(options.get("max_gen_toks", self.max_gen_toks))
            until = options.get("until") or ()
            until = (until,) if isinstance(until, str) else tuple(until)
            sampled = bool(options.get("do_sample"))
            heat = float(options.get("temperature", 1.0 if sampled else 0.0))
            room = max(self.max_length - most, 1)
            prompts.append((self.tok_encode(context) or [self.eot_token_id])[-room:])
            settings.append(
                infer.Sampling(max_tokens=most, temperature=heat if sampled else 0.0, stop=until)
            )
        made: list[str] = []
        for first in range(0, len(prompts), CHUNK):
            some = slice(first, first + CHUNK)
            answers = infer.generate(self.model, prompts[some], settings[some])
            made += [answer.text for answer in answers]
        return made


if TemplateLM is not None:
    Registered = register_model("gptjax")(type("GptJaxLM", (GptJax, TemplateLM), {}))


def main() -> None:
    """lm-eval's command.

    Raises:
      UserError: without lm-eval.
    """
    if TemplateLM is None:
        raise UserError("lm-evaluation-harness is not installed; pip install 'gptjax[eval]'")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
