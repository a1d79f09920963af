"""A model of ours in lm-evaluation-harness, by the name `gptjax`.

    python -m gptjax.evals.lm_eval --model gptjax --model_args folder=DIR --tasks …

is lm-eval's own command with this model registered; in Python, importing this module registers it.
Needs gptjax[eval]; without lm-eval the module is empty but for its sentence.
"""

from typing import Any

from gptjax import infer
from gptjax.errors import UserError, nearest
from gptjax.evals.score import TOKENS, Request, score
from gptjax.evals.text import prefix_of, windows

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError:
    TemplateLM = register_model = None  # type: ignore[assignment,misc]

CHUNK = 16
"""Answers that are generated together."""
THEIRS = ("batch_size", "max_batch_size", "device")
"""Arguments that lm-eval's command always gives; batches are of `batch_tokens`."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of an answer's most tokens, the first that is given counts, as in lm-eval."""
ANSWERS = {*LENGTHS, "until", "do_sample", "temperature", "top_p", "top_k"}
"""Settings of a generated answer that are followed."""
PLAIN = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}
"""Settings of transformers that change nothing at these values."""


class GptJax:
    """The methods that lm-eval asks a model for."""

    def __init__(
        self,
        folder: str = "",
        batch_tokens: int | str = TOKENS,
        max_gen_toks: int | str = 256,
        **others: Any,
    ) -> None:
        super().__init__()
        known = ("folder", "batch_tokens", "max_gen_toks")
        for name in others.keys() - {*THEIRS}:
            raise UserError(f"--model_args {name} is not read; {nearest(name, known)}")
        if not folder:
            raise UserError("--model_args names no model; give folder=DIR")
        self.model = infer.load(folder)
        self.batch_tokens, self.max_gen_toks = int(batch_tokens), int(max_gen_toks)
        if not self.model.end_ids:
            raise UserError(f"{folder} has no tokenizer; put the tokenizer's file into it")

    @property
    def eot_token_id(self) -> int:
        return self.model.end_ids[0]

    @property
    def prefix_token_id(self) -> int:
        return prefix_of(self.model)

    @property
    def max_length(self) -> int:
        return self.model.context or self.model.config.seq_len

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def tok_encode(self, string: str, add_special_tokens: Any = None, **_: Any) -> list[int]:
        if add_special_tokens is False:
            return self.model.encode(string)
        return self.model.encode_prompt(string)

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
            pieces = list(windows(self.model.encode(text), self.prefix_token_id, self.max_length))
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
            settings.append(self._sampling(options))
            room = max(self.max_length - settings[-1].max_tokens, 1)
            prompts.append((self.tok_encode(context) or [self.prefix_token_id])[-room:])
        made: list[str] = []
        for first in range(0, len(prompts), CHUNK):
            some = slice(first, first + CHUNK)
            answers = infer.generate(self.model, prompts[some], settings[some])
            made += [answer.text for answer in answers]
        return made

    def _sampling(self, options: dict[str, Any]) -> infer.Sampling:
        """What a task's generation_kwargs ask for; null is as if a setting were not there.

        Raises:
          UserError: for a setting that would change the answers and is not followed.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for name, value in options.items():
            if name not in ANSWERS and PLAIN.get(name, ...) != value:
                raise UserError(
                    f"generation_kwargs has {name}={value!r}, which is not followed; remove it, or "
                    "generate by lm-eval's own model"
                )
        until = options.get("until") or ()
        sampled = options.get("do_sample", bool(options.get("temperature")))
        drawn: dict[str, Any] = {
            "temperature": float(options.get("temperature", 1.0)),
            "top_p": float(options.get("top_p", 1.0)),
            "top_k": int(options.get("top_k", 0)),
        }
        most = next((options[name] for name in LENGTHS if name in options), self.max_gen_toks)
        return infer.Sampling(
            max_tokens=int(most),
            stop=(until,) if isinstance(until, str) else tuple(until),
            **(drawn if sampled else {"temperature": 0.0}),
        )


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
