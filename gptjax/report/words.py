"""The sentences of the report, each computed from the laws; `**` marks what is printed bold."""

import math

import numpy as np

from gptjax.report.numbers import (
    count_text,
    duration_text,
    exact_text,
    fixed_text,
    interval_text,
    percent_text,
    power_text,
)
from gptjax.report.view import (
    Json,
    Number,
    Scene,
    bounded,
    exponents,
    headline,
    holdout_error,
    law_label,
    number,
    part,
    real,
    series,
    unit_of_loss,
)
from gptjax.scaling.config import FLOPS_CONVENTIONS, LOSS_KINDS, PARAMS_CONVENTIONS
from gptjax.scaling.laws.saved import Laws

WITHIN = 0.02  # what the held-out check has to reach


def with_interval(value: Number, text=fixed_text) -> str:
    """'0.523 [0.48, 0.56]', or the value alone where no interval is known."""
    return f"{text(value.value)} {interval_text(value.low, value.high, text)}".strip()


def three(value: float) -> str:
    return fixed_text(value, 3)


def used_valleys(laws: Laws) -> list[Json]:
    valleys = laws.law("isoflop").get("valleys") or []
    return [v for v in valleys if v.get("used") and v.get("minimum")]


def lead(laws: Laws) -> str:
    """The answer in one breath."""
    entry = headline(laws)
    flops = real(entry.get("flops"))
    if not flops > 0:
        names = [f"**{law_label(name)}**" for name in laws.laws]
        if names:
            return f"Fitted: {', '.join(names)}. None of them says how to spend a budget."
        return "No law could be fitted from these runs; the notes below say why."
    factor = real(entry.get("factor"))
    scale = f", {exact_text(factor, 3)} times the largest budget trained" if factor > 0 else ""
    params, tokens, loss = (bounded(entry, key) for key in ("params", "tokens", "loss"))
    text = (
        f"With **{power_text(flops)} FLOPs**{scale}, train **{count_text(params.value)} "
        f"parameters** on **{count_text(tokens.value)} tokens**"
    )
    if math.isfinite(loss.value):
        text += f" and expect a held-out loss of **{with_interval(loss)} {unit_of_loss(laws)}**"
    return text + "."


def judged(laws: Laws) -> tuple[str, str]:
    """(sentence, kind) of the verdict; the kind is '', 'good' or 'bad'."""
    found = laws.verdict or {}
    trusted = found.get("trusted")
    kind = "" if trusted is None else " good" if trusted else " bad"
    return str(found.get("sentence") or ""), kind


def verdict(laws: Laws) -> tuple[str, bool | None]:
    """The held-out check as a sentence, and whether it passed (None: not checked)."""
    error, holdout = holdout_error(laws), (laws.holdout or {})
    if not math.isfinite(error):
        return "Held-out check: not made, because no budget could be set aside.", None
    best = part(holdout, "best")
    budgets = ", ".join(power_text(real(b)) for b in holdout.get("budgets") or [])
    passed = abs(error) <= WITHIN
    count = real(holdout.get("n_heldout"))
    held, which = ("run", "it") if count == 1 else (f"{exact_text(count)} runs", "the best of them")
    held += f" of the budget {budgets} FLOPs" if budgets else " of most compute"
    text = (
        f"Held-out check: fitted without the {held}, the law predicts "
        f"**{fixed_text(real(best.get('predicted')))}** for {which}; measured "
        f"**{fixed_text(real(best.get('loss')))}**. Off by **{percent_text(abs(error))}**, "
        f"{'within' if passed else 'outside'} 2\xa0%."
    )
    return text, passed


def threshold(laws: Laws) -> str:
    """Whether a sigmoid is a threshold, beside its smooth rival; '' where none was fitted."""
    return str((laws.emergence or {}).get("sentence") or "")


def settings(laws: Laws) -> list[str]:
    """One sentence a setting whose best value was asked for."""
    found = [str(entry.get("sentence") or "") for entry in laws.settings_laws]
    return [sentence for sentence in found if sentence]


def joint(laws: Laws) -> list[str]:
    """One sentence a score that is predicted through the loss, and one of outputs together."""
    entries = [*laws.chains, *([laws.outputs] if laws.outputs else [])]
    found = [str(entry.get("sentence") or "") for entry in entries]
    return [sentence for sentence in found if sentence]


def drawn(count: int, most: int) -> str:
    """What a figure says that shows a part of its runs or curves."""
    if count <= most:
        return ""
    return f" {most:,} of {count:,} are drawn, at even distances in the plan."


def curves_claim(laws: Laws, curves: int) -> str:
    edge = part(laws.law("envelope"), "curve_points")
    loss, flops = series(edge, "loss"), series(edge, "flops")
    if not curves:
        return "No training curves were recorded."
    runs = f"{curves} training curves" if curves > 1 else "one training curve"
    if len(loss) < 2:
        return f"{_capital(runs)}; no envelope could be drawn under them."
    ends = [real(run.get("flops")) for run in laws.runs]
    first = min(int(np.searchsorted(flops, min(ends, default=0.0))), len(flops) - 2)
    return (
        f"Under {runs}, the least loss falls from {three(loss[first])} at "
        f"{power_text(flops[first])} FLOPs to {three(loss[-1])} at {power_text(flops[-1])}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def isoflop_claim(laws: Laws) -> str:
    valleys = laws.law("isoflop").get("valleys") or []
    used = used_valleys(laws)
    if not valleys:
        return "These runs form no IsoFLOP valleys."
    if not used:
        return f"None of the {len(valleys)} IsoFLOP valleys has a minimum that can be trusted."
    ends = sorted(
        (real(v["budget"]), number(v["minimum"], "params").value, v) for v in (used[0], used[-1])
    )
    count = f"All {len(used)}" if len(used) == len(valleys) else f"{len(used)} of {len(valleys)}"
    if len(used) == 1:
        return f"{count} valleys has its minimum inside, at {count_text(ends[0][1])} parameters."
    return (
        f"{count} valleys have their minimum inside; the best size grows from "
        f"{count_text(ends[0][1])} to {count_text(ends[-1][1])} parameters."
    )


def optimum_claim(laws: Laws) -> str:
    found = exponents(laws)
    if not found:
        return "No exponents of the optimum could be fitted."
    a, b = next(iter(found.values()))
    return (
        f"The best size grows as C^{with_interval(a, three)}, "
        f"its tokens as C^{with_interval(b, three)}."
    )


def optimum_others(laws: Laws) -> str:
    """The results of the other approaches, where there are any."""
    found = list(exponents(laws).items())
    others = [f"a = {three(a.value)} by {law_label(name)}" for name, (a, _) in found[1:]]
    return f"For comparison, {' and '.join(others)}. " if others else ""


def contours_claim(laws: Laws) -> str:
    law = laws.law("chinchilla_parametric")
    params = part(law, "params")
    if not params:
        return "The parametric law was not fitted."
    names = ("E", "A", "alpha", "B", "beta")
    values = {name: three(number(params, name).value) for name in names}
    runs = real(law.get("n_runs"))
    text = "L(N, D) = {E} + {A}/N^{alpha} + {B}/D^{beta}".format(**values)
    return text + (f" describes {exact_text(runs)} runs." if math.isfinite(runs) else ".")


def residuals_claim(laws: Laws) -> str:
    rows = laws.law("chinchilla_parametric").get("residuals") or []
    sizes = {str(row.get("cell")): abs(real(row.get("log_residual"))) for row in rows}
    sizes = {cell: size for cell, size in sizes.items() if math.isfinite(size)}
    if not sizes:
        return "No residuals were recorded."
    spread = math.sqrt(sum(size * size for size in sizes.values()) / len(sizes))
    worst = max(sizes, key=lambda cell: sizes[cell])
    return (
        f"Runs lie {percent_text(spread)} off the law (root mean square), "
        f"at most {percent_text(sizes[worst])}."
    )


def holdout_claim(laws: Laws) -> str:
    error = holdout_error(laws)
    if not math.isfinite(error):
        return "No budget was held out."
    holdout = laws.holdout or {}
    if real(holdout.get("n_heldout")) == 1:
        return f"The law fitted without it predicts the held-out run to {percent_text(abs(error))}."
    coverage = real(holdout.get("coverage"))
    text = f"The law fitted without them predicts the held-out runs: {percent_text(abs(error))} "
    text += "off at the best one"
    if math.isfinite(coverage):
        text += f", {exact_text(100 * coverage, 3)}\xa0% of them inside the interval"
    return text + "."


def certificate(laws: Laws) -> list[str]:
    """The optimiser's evidence for its own result, in words."""
    law = laws.law("chinchilla_parametric")
    facts = part(law, "certificate")
    if not facts:
        return []
    starts, share = real(facts.get("starts")), real(facts.get("share_at_best"))
    gradient = power_text(real(facts.get("gradient_norm")))
    lines = []
    if math.isfinite(share):
        lines.append(
            f"**{exact_text(100 * share, 4)}\xa0%** of {exact_text(starts)} starting points "
            f"reached the same lowest objective, {power_text(real(facts.get('objective')), 3)}"
            f"{_objective_kind(law)}. {_share_words(share)}"
        )
    lines.append(
        f"The gradient there is {gradient}; the optimiser "
        f"{'**converged**' if facts.get('converged') else '**did not converge**'}."
    )
    bounds = facts.get("bounds_hit") or []
    lines.append(
        f"At a bound, so not determined by these runs: **{', '.join(map(str, bounds))}**."
        if bounds
        else "No parameter sits at a bound."
    )
    condition = real(facts.get("condition_number"))
    if math.isfinite(condition):
        lines.append(f"The condition number is {power_text(condition)}. {_condition(condition)}")
    lines += [_resample_words(law)] if law.get("resamples") else []
    return lines


def _objective_kind(law: Json) -> str:
    kind, delta = str(law.get("loss_kind") or ""), real(law.get("delta"))
    if not kind:
        return ""
    width = f", δ = {power_text(delta)}" if "huber" in kind and math.isfinite(delta) else ""
    return f" ({LOSS_KINDS.get(kind, kind.replace('_', ' '))}{width})"


def _share_words(share: float) -> str:
    if share >= 0.9:
        return "There is one optimum, and it was found."
    if share >= 0.3:
        return "Several starts stopped elsewhere, but the best was found again and again."
    return "Few starts agree: another, better optimum may exist."


def _condition(value: float) -> str:
    if value < 1e6:
        return "The runs tell the parameters apart."
    if value < 1e10:
        return "Some parameters trade off against each other; their intervals show how much."
    return "The runs hardly tell the parameters apart: trust predictions more than parameters."


def _resample_words(law: Json) -> str:
    facts = part(law, "resamples")
    failed = real(facts.get("failed"))
    text = f"Intervals come from {exact_text(real(facts.get('count')))} resamples"
    text += f" of {facts['group_by']}s" if facts.get("group_by") else ""
    if failed > 0:
        return f"{text}, of which {exact_text(failed)} gave no fit and are left out."
    return f"{text}; none failed."


def counting(laws: Laws) -> list[str]:
    """How parameters, FLOPs and loss were counted."""
    conventions = laws.conventions
    params = PARAMS_CONVENTIONS.get(str(conventions.get("params")))
    flops = FLOPS_CONVENTIONS.get(str(conventions.get("flops")))
    lines = []
    if params:
        lines.append(f"N counts {params.words}.")
    if flops:
        lines.append(f"C counts {flops}.")
    if conventions.get("params") == "stated":
        lines.append(
            "The table does not say what N, C and the loss count: they are taken as given."
        )
    unit = unit_of_loss(laws)
    lines.append(f"Loss is {unit}{' on held-out text' if unit == 'nats per token' else ''}.")
    confidence = real(laws.settings.get("confidence"))
    if math.isfinite(confidence):
        lines.append(f"Brackets are {exact_text(100 * confidence, 4)}\xa0% intervals.")
    return lines


def facts_line(laws: Laws, scene: Scene, facts: Json) -> list[str]:
    """The line under the title: the number of runs, their range, and the caller's facts."""
    data = laws.data
    count = real(data.get("n_runs"))
    used = real(data.get("n_used"))
    items = [f"{exact_text(count)} runs" if math.isfinite(count) else f"{len(scene.runs)} runs"]
    if math.isfinite(used) and used != count:
        items[0] += f", {exact_text(used)} of them in the fit"
    if scene.runs:
        flops = [run.flops for run in scene.runs]
        items.append(f"{power_text(min(flops))} to {power_text(max(flops))} FLOPs each")
    for key, value in facts.items():
        if isinstance(value, str) and value:
            items.append(value)
        elif key == "seconds" and math.isfinite(real(value)):
            items.append(f"took {duration_text(real(value))}")
    return items
