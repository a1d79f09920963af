"""The verdict on a fit: one sentence and every doubt, for terminal, report and laws.json.

All of them print what is written here, so that no doubt is lost on the way to the reader.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax.scaling.laws.saved import Laws

WITHIN = 0.02  # relative error of a hold-out that counts as held
VARIED = "the laws take them for equal"
FAR = 2.0  # a prediction this many times farther, in log FLOPs, than a hold-out is a doubt
EASY = 3.2  # the factor in FLOPs that is believed without a hold-out
SPREAD = 30.0  # times the largest run from which on each form's own forecast is told
SEEN = 0.005  # of the loss: an undetected bend of less is not worth a note
SHOWN = 4  # names in a list

LABELS = {
    "mixture": "the mixture of forms",
    "chinchilla_parametric": "the form chinchilla",
    "isoflop": "IsoFLOP valleys",
    "envelope": "the envelope",
}


def completed(laws: Laws) -> Laws:
    """With verdict and notes, where the file is older than they are."""
    if laws.verdict is None:
        laws = dataclasses.replace(laws, verdict=judge(laws))
        laws = dataclasses.replace(laws, notes=notes(laws))
    return laws


def judge(laws: Laws) -> dict[str, Any]:
    """The `verdict` block of laws.json.

    Returns:
      trusted: whether nothing speaks against the headline; None where no law says how to spend
        a budget.
      sentence: the verdict.
      doubts: what speaks against it, a sentence each.
    """
    if not laws.prediction:
        return {"trusted": None, "sentence": _without_optimum(laws), "doubts": []}
    doubts = [
        *_misfit(laws),
        *_held_out(laws),
        *_distance(laws),
        *_disagreement(laws),
        *_unbounded(laws),
        *_swept(laws),
    ]
    if doubts:
        count = f"{len(doubts)} doubts" if len(doubts) > 1 else "one doubt"
        sentence = f"Read with care ({count}): {doubts[0]}"
    else:
        rest = "".join(f". But {line}" for line in _undetected(laws))
        sentence = f"Nothing speaks against this answer: {', '.join(_support(laws))}{rest}."
    return {"trusted": not doubts, "sentence": sentence, "doubts": doubts}


def notes(laws: Laws) -> list[str]:
    """Every other sentence: doubts beyond the first, valleys, mixtures, left-out runs, warnings."""
    doubts = list((laws.verdict or {}).get("doubts") or [])
    far = [beyond(laws, _real(row.get("flops"))) for row in laws.prediction[:1]]
    found = [
        *doubts[1:],
        *far,
        *(_undetected(laws) if doubts or not laws.prediction else []),
        *_valleys(laws),
        *_mixed(laws),
        *_each_form(laws),
        *_left_out(laws),
    ]
    found = [line for line in dict.fromkeys(found) if line and line not in doubts[:1]]
    return found + [line for line in laws.warnings if line not in found]


def beyond(laws: Laws, flops: float) -> str:
    """How far a budget lies beyond the runs, and what the hold-out was worth there; '' inside."""
    largest = _largest(laws)
    if not (largest > 0 and flops > largest * 1.001):
        return ""
    text = f"{flops:.3g} FLOPs are {flops / largest:.3g} times the largest run"
    rows = _rollout(laws)
    if not rows:
        return text + "; no hold-out says what a prediction so far is worth."
    row = max(rows, key=lambda row: row["factor"])
    text += f"; over a factor of {row['factor']:.3g} the best held-out run was missed by "
    text += f"{abs(row['error']):.2%}"
    if flops / largest > row["factor"] * 1.5:
        text += f", which says little about a factor of {flops / largest:.3g}"
    return text + "."


def _without_optimum(laws: Laws) -> str:
    if laws.laws:
        return "No fitted law says how to spend a budget; its parameters are below."
    return "No law could be fitted from these runs."


def _misfit(laws: Laws) -> list[str]:
    found = (laws.law("chinchilla_parametric").get("lack_of_fit")) or {}
    p = _real(found.get("p"))
    if not found.get("found"):
        return []
    forms = (laws.mixture or {}).get("forms") or []
    better = [row for row in forms if not row.get("misfit")]
    share = sum(_real(row.get("weight")) for row in better)
    names = _listed([str(row["form"]) for row in better]) if better else ""
    if not better:
        rest = "no form that was tried is without it"
    elif share > 0.99:
        rest = f"the headline rests on {names}, whose residuals have none"
    else:
        rest = (
            f"of the headline's forms the residuals of {names} alone have none, with {share:.0%} "
            "of the weight"
        )
    return [
        f"the form chinchilla does not describe these runs: its residuals have structure that "
        f"noise has not (p = {p:.1g}); {rest}."
    ]


def _undetected(laws: Laws) -> list[str]:
    """How wrong a form may be that the tests pass: said in a verdict without doubts or a note."""
    found = laws.law("chinchilla_parametric").get("lack_of_fit") or {}
    missed = found.get("undetected") or {}
    share = _real(missed.get("relative"))
    if found.get("found") or not share > SEEN:
        return []
    return [
        f"a form that is wrong by what these runs cannot show, a bend in ln N and ln D, would move "
        f"the loss at {_real(missed.get('flops')):.3g} FLOPs by up to {share:.1%}"
    ]


def _held_out(laws: Laws) -> list[str]:
    error = _real((laws.holdout or {}).get("relative_error"))
    rows = [row for row in _rollout(laws) if abs(row["error"]) > WITHIN]
    if rows:
        row = max(rows, key=lambda row: abs(row["error"]))
        return [
            f"fitted without the largest budgets, the law misses the best run by "
            f"{abs(row['error']):.1%} over a factor of {row['factor']:.3g} in FLOPs."
        ]
    if abs(error) > WITHIN:
        return [f"the largest budget, held out, is missed by {abs(error):.1%}."]
    return []


def _distance(laws: Laws) -> list[str]:
    flops, largest = _real(laws.prediction[0].get("flops")), _largest(laws)
    tried = max((row["factor"] for row in _rollout(laws)), default=EASY)
    too_far = largest > 0 and math.log(flops / largest) > FAR * math.log(tried)
    return [beyond(laws, flops)] if too_far else []


def _disagreement(laws: Laws) -> list[str]:
    """Approaches whose intervals of N* or D* do not meet at the first budget that is predicted.

    Each beside the headline, and those that meet it beside each other.
    """
    first = laws.prediction[0]
    same = [row for row in laws.prediction if row.get("flops") == first.get("flops")]
    beside = {row["law"]: _apart(row, first) for row in same[1:]}
    rest = [row for row in same[1:] if not beside[row["law"]]]
    among = [_apart(row, other) for row, other in itertools.combinations(rest, 2)]
    return [line for line in (*beside.values(), *among) if line]


def _apart(row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """A sentence where the intervals of two predictions do not meet; '' where they do."""
    for name, unit in (("params", "parameters"), ("tokens", "tokens")):
        ends = [_real(r.get(f"{name}{end}")) for r in (first, row) for end in ("_low", "_high")]
        if all(map(math.isfinite, ends)) and (ends[0] > ends[3] or ends[2] > ends[1]):
            return (
                f"{_label(row['law'])} and {_label(first['law'])} disagree at "
                f"{_real(first.get('flops')):.3g} FLOPs: {_real(row[name]):.3g} "
                f"[{ends[2]:.3g}, {ends[3]:.3g}] against {_real(first[name]):.3g} "
                f"[{ends[0]:.3g}, {ends[1]:.3g}] {unit}."
            )
    return ""


def _unbounded(laws: Laws) -> list[str]:
    """Parameters of the parametric law that the runs do not bound."""
    return [line for line in laws.warnings if "do not bound" in line or "ran to its limit" in line][
        :1
    ]


def _swept(laws: Laws) -> list[str]:
    """Settings that vary among runs which the laws take for equal."""
    return [line for line in laws.warnings if VARIED in line]


def _support(laws: Laws) -> list[str]:
    lines = []
    found = laws.law("chinchilla_parametric").get("lack_of_fit") or {}
    if math.isfinite(_real(found.get("p"))):
        lines.append(f"residuals look like noise (p = {_real(found['p']):.2g})")
    rows = _rollout(laws)
    if rows:
        row = max(rows, key=lambda row: row["factor"])
        lines.append(
            f"the best run over a factor of {row['factor']:.3g} in FLOPs is predicted to "
            f"{abs(row['error']):.2%}"
        )
    if len({row["law"] for row in laws.prediction} - {"mixture"}) > 1:
        lines.append("approaches agree")
    return lines or ["but nothing was tested either"]


def _valleys(laws: Laws) -> list[str]:
    found = laws.law("isoflop").get("valleys") or []
    bad = [valley for valley in found if not valley.get("used")]
    lines = _method_bias(laws.law("isoflop").get("method") or {})
    if not bad:
        return lines
    reasons = collections.Counter(f"{valley.get('reason')}" for valley in bad)
    listed = "; ".join(f"{count} because {why}" for why, count in reasons.most_common(SHOWN))
    return [
        f"IsoFLOP: {len(bad)} of {len(found)} budgets have no usable valley: {listed}",
        *lines,
    ]


def _method_bias(method: Mapping[str, Any]) -> list[str]:
    """What the valleys of the fitted law itself give on the same grid."""
    bias = _real(method.get("bias"))
    if not math.isfinite(bias):
        return []
    return [
        f"IsoFLOP: on this grid the method itself moves a by {bias:+.3f}: in losses of the form "
        f"chinchilla without noise it finds {_real(method['found']):.3f} where that law has "
        f"{_real(method['true']):.3f}"
    ]


def _mixed(laws: Laws) -> list[str]:
    forms = (laws.mixture or {}).get("forms") or []
    if len(forms) == 1 and forms[0]["form"] != "chinchilla":
        return [f"the headline is that of the form {forms[0]['form']} alone"]
    if len(forms) < 2:
        return []
    listed = ", ".join(f"{row['form']} {row['weight']:.0%}" for row in forms)
    return [f"the headline mixes forms by how well each describes the runs: {listed}"]


def _each_form(laws: Laws) -> list[str]:
    """What each form forecasts far beyond the runs, which cannot tell the forms apart."""
    first = laws.prediction[0] if laws.prediction else {}
    flops, rows = _real(first.get("flops")), first.get("forms") or []
    if len(rows) < 2 or not flops >= SPREAD * _largest(laws):
        return []
    each = [
        f"{row['form']} ({row['weight']:.0%}) N = {_real(row['params']):.3g} and a loss of "
        f"{_real(row['loss']):.4g}"
        for row in rows
    ]
    apart = [str(row["form"]) for row in rows if row.get("apart")]
    rest = f"; {_listed(apart)} lies beyond what noise allows {rows[0]['form']}" if apart else ""
    return [
        f"forms between which these runs cannot decide forecast at {flops:.3g} FLOPs: "
        f"{', '.join(each)}{rest}; the headline's interval is made of all of them"
    ]


def _left_out(laws: Laws) -> list[str]:
    if not laws.left_out:
        return []
    reasons = collections.Counter(str(row.get("reason")).partition(":")[0] for row in laws.left_out)
    listed = "; ".join(f"{count} {why}" for why, count in reasons.most_common(SHOWN))
    more = "; and others" if len(reasons) > SHOWN else ""
    total = len(laws.left_out) + len(laws.runs)
    return [f"{len(laws.left_out)} of {total} rows are left out: {listed}{more}"]


def _rollout(laws: Laws) -> Sequence[Mapping[str, Any]]:
    """The rollouts of the headline's form that could be made."""
    forms = (laws.mixture or {}).get("forms") or [{"form": "chinchilla"}]
    rows = [row for row in laws.rollout if row.get("error") is not None]
    mine = [row for row in rows if row.get("form") == forms[0]["form"]]
    return mine or [row for row in rows if row.get("form") == "chinchilla"]


def _largest(laws: Laws) -> float:
    ends = laws.data.get("flops_range") or [math.nan]
    return _real(ends[-1])


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _real(value: Any) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    )
