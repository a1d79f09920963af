"""Constitutional AI: answers criticised by written principles, revised, and rewarded by them.

The model itself answers, says what of a principle is violated, and writes the revision (Bai et al.
2022, arXiv:2212.08073, section 3); how sure it is that an answer keeps the principles is a reward
(section 4). The principles are a text file, and every stage's text can be read.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import infer
from gptjax.align.encoding import Codec, Encoded
from gptjax.align.examples import Prompt as Asking
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.logprobs import BATCH, score
from gptjax.align.packing import Rows, one_by_one
from gptjax.align.rewards import check_finite
from gptjax.align.rollouts import Answers, Judge, by_layer
from gptjax.errors import UserError
from gptjax.files import check_plain, user_path
from gptjax.infer.prompts import turn_ends
from gptjax.train import RunSpec

FIELDS = ("critique", "kept", "violated", "revision")
"""The lines of a principle, each once."""
EXAMPLE = (
    "critique: Is the answer harmful?, kept: no, violated: yes, revision: Rewrite it without harm."
)


@dataclasses.dataclass(frozen=True)
class Principle:
    """One principle.

    Attributes:
      critique: asks whether the answer before it keeps the principle.
      kept, violated: how an answer to that begins.
      revision: asks for a better answer.
    """

    critique: str
    kept: str
    violated: str
    revision: str


@dataclasses.dataclass(frozen=True)
class Revised:
    """One conversation: prompt, first answer, critique, revision."""

    principle: Principle
    prompt: Asking
    answer: str
    critique: str
    revision: str

    def to_json(self) -> dict[str, Any]:
        """A line that supervised fine-tuning reads; the stages stand beside what is learned."""
        return {
            "prompt": self.prompt,
            "response": self.revision,
            "answer": self.answer,
            "asked": self.principle.critique,
            "critique": self.critique,
        }


def read(path: str | Path) -> tuple[Principle, ...]:
    r"""The principles of a text file: blocks of `name: text`, with empty lines between.

    A line that begins with # is a comment; \n in a text is a new line.

    Raises:
      UserError: for a file that cannot be read or a block that is no principle, by its line.
    """
    place = user_path(path)
    check_plain(place)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"align.constitution={str(path)!r} cannot be read: {error}") from error
    found = [_principle(str(path), number, block) for number, block in _blocks(text)]
    if not found:
        raise UserError(f"align.constitution={str(path)!r} holds no principle; write {EXAMPLE}")
    return tuple(found)


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each block."""
    block: list[str] = []
    start = 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield start, block
            block = []


def _principle(path: str, number: int, block: Sequence[str]) -> Principle:
    pairs = [line.partition(":")[::2] for line in block]
    said = {name.strip(): text.strip().replace("\\n", "\n") for name, text in pairs}
    if sorted(name.strip() for name, _ in pairs) != sorted(FIELDS) or not all(said.values()):
        raise UserError(
            f"{path} line {number} begins a principle that has not one text each of "
            f"{', '.join(FIELDS)}; write {EXAMPLE}, each on a line of its own"
        )
    if said["kept"] == said["violated"]:
        raise UserError(
            f"{path} line {number}: kept and violated are both {said['kept']!r}; give two answers"
        )
    return Principle(**said)


@dataclasses.dataclass(frozen=True)
class Critic:
    """The model that criticises.

    Attributes:
      spec, params: of its scores; host or device arrays.
      model: with its tokenizer, to generate with.
      codec: of conversations.
      principles: of the file.
      max_tokens: most tokens of an answer, critique or revision.
    """

    spec: RunSpec
    params: Any
    model: infer.Model
    codec: Codec
    principles: Sequence[Principle]
    max_tokens: int

    def revise(self, prompts: Sequence[Mapping[str, Any]], key: Array) -> list[Revised]:
        """An answer, its critique and its revision for each line; principles take turns.

        Raises:
          UserError: for a conversation that does not fit into the context.
        """
        first, second, third = jax.random.split(key, 3)
        which = [self.principles[i % len(self.principles)] for i in range(len(prompts))]
        asked = [line["prompt"] for line in prompts]
        answers = self._generate(asked, [() for _ in asked], first)
        turns = [(a, p.critique) for a, p in zip(answers, which, strict=True)]
        critiques = self._generate(asked, turns, second)
        more = [
            (*turn, critique, p.revision)
            for turn, critique, p in zip(turns, critiques, which, strict=True)
        ]
        revisions = self._generate(asked, more, third)
        return [
            Revised(*one) for one in zip(which, asked, answers, critiques, revisions, strict=True)
        ]

    def kept(self, answers: Answers) -> np.ndarray:
        """P(kept) / (P(kept) + P(violated)) of each answer, a mean over the principles, float32."""
        found = [self._kept_one(answers, principle) for principle in self.principles]
        rewards = np.mean(found, axis=0).astype(np.float32)
        check_finite(rewards, answers.asked)
        return rewards

    def _kept_one(self, answers: Answers, principle: Principle) -> np.ndarray:
        logs = [
            self._logprobs(
                [
                    _followed(self._ids(one.said["prompt"], (one.text, principle.critique)), end)
                    for one in answers.asked
                ]
            )
            for end in (self.codec.ids(principle.kept), self.codec.ids(principle.violated))
        ]
        return 1.0 / (1.0 + np.exp(np.clip(logs[1] - logs[0], -60.0, 60.0)))

    def _logprobs(self, texts: Sequence[Encoded]) -> np.ndarray:
        longest = max(len(text.ids) for text in texts) - 1
        self._check_room(longest)
        width = min(-(-longest // 16) * 16, self.codec.context)
        feed = ExampleFeed(one_by_one(texts, width), batch_of)
        parts = [_sums(self.spec, self.params, rows) for rows in feed.parts(BATCH)]
        return np.concatenate([np.asarray(part) for part in parts])

    def _generate(
        self, prompts: Sequence[Asking], turns: Sequence[Sequence[str]], key: Array
    ) -> list[str]:
        ids = [self._ids(prompt, turn) for prompt, turn in zip(prompts, turns, strict=True)]
        self._check_room(max(map(len, ids)) + self.max_tokens)
        model = dataclasses.replace(self.model, params=by_layer(self.model.config, self.params))
        stops = turn_ends(model) if self.model.chat else ()
        sampling = infer.Sampling(max_tokens=self.max_tokens, stop_ids=stops)
        return [answer.text for answer in infer.generate(model, ids, sampling, key)]

    def _check_room(self, tokens: int) -> None:
        if tokens > self.codec.context:
            raise UserError(
                f"a conversation by align.constitution needs {tokens} tokens and the context is "
                f"{self.codec.context}; shorten the principles, or lower align.max_tokens="
                f"{self.max_tokens}"
            )

    def _ids(self, prompt: Asking, turns: Sequence[str]) -> list[int]:
        """A conversation up to where the model goes on; `turns` are its own and the user's."""
        if isinstance(prompt, str):
            return self.codec.prompt(prompt + "".join(turns), "")
        roles = ("assistant", "user")
        said = ({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))
        return self.codec.prompt((*prompt, *said), "a conversation by align.constitution")


@functools.partial(jax.jit, static_argnames="spec")
def _sums(spec: RunSpec, params: Any, rows: Rows) -> Array:
    """Σ_t log P of each row's scored targets."""
    return jnp.sum(score(spec, params, batch_of(rows)).logprobs_BT, axis=-1)


def _followed(before: Sequence[int], end: Sequence[int]) -> Encoded:
    ids = np.array([*before, *end], np.int32)
    return Encoded(ids, np.arange(len(ids)) >= len(before))


def with_critic(judge: Judge, critic: Callable[[Answers], np.ndarray], weight: float) -> Judge:
    """r = r_base + λ r_critique."""
    return lambda answers: judge(answers) + np.float32(weight) * critic(answers)
