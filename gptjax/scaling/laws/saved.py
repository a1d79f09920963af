"""Saved laws: the content of laws.json as one typed value, read and checked once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from gptjax.errors import UserError, nearest

SCHEMA = 1
Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Laws:
    """Everything that a fit found, in the order of laws.json.

    Attributes:
      schema: version of the layout.
      verdict: whether the answer can be trusted, in a sentence, and every doubt.
      notes: all other sentences, as terminal and report show them.
      settings: the fit's settings by name.
      conventions: what params, FLOPs and loss count, the cost model, the fit under other counts.
      data: ranges, budgets and seed noise of the runs.
      runs: one entry a usable run.
      left_out: cell and reason of every other run.
      warnings: sentences about what the runs cannot tell.
      laws: one entry a fitted law, by name.
      prediction: N*, D* and the loss by law and budget, the headline first.
      mixture: the forms that the headline rests on, with their weights.
      rollout: the best run of the largest budget predicted from ever smaller ones.
      holdout: the largest budgets predicted from the smaller ones.
      scores: every compared form on held-out runs, best first.
      drift: how the law moves when runs are left out.
      run_next: the plan of further runs.
      emergence: a sigmoid beside its smooth rival.
      settings_laws: laws of the best learning rate, batch and so on.
      chains: scores predicted through the loss.
      outputs: one law of several columns with shared parameters.
    """

    schema: int = SCHEMA
    verdict: Json | None = None
    notes: Sequence[str] = ()
    settings: Json = dataclasses.field(default_factory=dict)
    conventions: Json = dataclasses.field(default_factory=dict)
    data: Json = dataclasses.field(default_factory=dict)
    runs: Sequence[Json] = ()
    left_out: Sequence[Json] = ()
    warnings: Sequence[str] = ()
    laws: Json = dataclasses.field(default_factory=dict)
    prediction: Sequence[Json] = ()
    mixture: Json | None = None
    rollout: Sequence[Json] = ()
    holdout: Json | None = None
    scores: Sequence[Json] = ()
    drift: Sequence[Json] = ()
    run_next: Json | None = None
    emergence: Json | None = None
    settings_laws: Sequence[Json] = ()
    chains: Sequence[Json] = ()
    outputs: Json | None = None

    @classmethod
    def from_json(cls, content: Any, place: str = "laws") -> Self:
        """From the content of laws.json; sections may be missing, others are ignored.

        Raises:
          UserError: when `content` is no mapping, or a section has another type.

        >>> Laws.from_json({"warnings": ["E is not bounded"]}).warnings
        ['E is not bounded']
        """
        if not isinstance(content, Mapping):
            raise UserError(f"{place} holds no laws; give the laws.json that a fit wrote")
        names = {field.name for field in dataclasses.fields(cls)}
        found = cls(**{name: value for name, value in content.items() if name in names})
        for name in ("settings", "conventions", "data", "laws"):
            if not isinstance(getattr(found, name), Mapping):
                raise UserError(
                    f"{place} has no readable section {name}; write it again with a fit"
                )
        return found

    @classmethod
    def of(cls, laws: Any, place: str = "laws") -> Self:
        """`laws` itself, or read from JSON content."""
        return laws if isinstance(laws, cls) else cls.from_json(laws, place)

    def to_json(self) -> dict[str, Any]:
        """The content of laws.json."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def law(self, name: str) -> Json:
        """The entry of one law; empty where it was not fitted."""
        found = self.laws.get(name)
        return found if isinstance(found, Mapping) else {}

    def chosen(self, name: str = "") -> list[str]:
        """One law's name, checked, or all of them.

        Raises:
          UserError: when there is no law, or none of that name.
        """
        if not self.laws:
            raise UserError("laws holds no laws; give the laws.json that a fit wrote")
        if name and name not in self.laws:
            raise UserError(f"law={name!r} is not in the file; {nearest(name, self.laws)}")
        return [name] if name else list(self.laws)
