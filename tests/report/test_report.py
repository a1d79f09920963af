"""The page and its figures, built from a sweep whose law is known."""

import copy
import json
import math
import re
from html.parser import HTMLParser

import known_sweep
import pytest
from matplotlib.figure import Figure

from gptjax import report
from gptjax.errors import UserError
from gptjax.report import figures, html, numbers, style, svg, tables, view
from gptjax.scaling.laws.saved import Laws


class Page(HTMLParser):
    """What a browser would find: tags with attributes, ids, text, and unclosed elements."""

    VOID = frozenset(("meta", "link", "br", "img", "input", "hr"))

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


INLINE = report.ReportConfig(formats=())
BOTH = report.ReportConfig(formats=("png", "pdf"), dpi=60)
SAID = {
    "title": "A & B",
    "facts": {
        "corpus": "stdlib",
        "seconds": 75.0,
        "timing": [
            {
                "name": "width 16",
                "cells": 2,
                "seconds": {"compile": 10.0, "train": 60.0},
                "products": 45.0,
            },
            {"name": "no cell at hand", "cells": 0, "seconds": {"idle": 30.0}},
        ],
    },
}


def make(tmp_path, laws, runs=None, curves=None, config=INLINE, **options):
    path = report.build(tmp_path, runs, curves, laws, config, **options)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    return page, source


@pytest.fixture
def text_only(monkeypatch):
    """Pages without their drawings, for tests that read words."""
    monkeypatch.setattr(html, "_draw", lambda plot, *rest: f"<p>{html.markup(plot.claim)}</p>")


@pytest.fixture
def unsettled(monkeypatch):
    """Figures whose parts are drawn where they first lie: finding their places takes as long as
    drawing."""
    monkeypatch.setattr(html.style, "settle", lambda figure: figure.set_layout_engine(None))


@pytest.fixture
def unsaved(monkeypatch, unsettled):
    """Figures with all their parts that are not written as SVG."""

    def block(figure, name, claim, colours, *, caption, **rest):
        return f"<svg></svg><p>{claim} {caption}</p>"

    monkeypatch.setattr(html, "figure_block", block)


@pytest.fixture(scope="module")
def sweep():
    return known_sweep.make_laws()


@pytest.fixture(scope="module")
def built(sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page, source = make(folder, *sweep, BOTH, **SAID)
    return folder, page, source


def test_time_is_summed_by_bundle_and_phase():
    found = tables.timing_table(SAID["facts"])
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in found.split("<tr>")]
    cells = {row[0]: row[1:] for row in rows if row}
    assert cells["bundle"][-2:] == ["share", "products of train"]
    assert cells["width 16"][-2].startswith("70")  # 70 of 100 seconds
    assert cells["all"][-2].startswith("100")
    assert cells["share"][1:4] == [tables.percent_text(x) for x in (0.1, 0.6, 0.3)]
    products = [cells[name][-1] for name in ("width 16", "no cell at hand", "all")]
    assert products == [tables.percent_text(0.75), "", tables.percent_text(0.75)]


def test_products_of_unknown_rate_have_no_column():
    bundle, idle = SAID["facts"]["timing"]
    old = {name: bundle[name] for name in ("name", "cells", "seconds")}
    assert "products" not in tables.timing_table({"timing": [bundle, old, idle]})


def test_answer_comes_first_with_the_numbers_of_laws(built, sweep):
    laws, _, _ = sweep
    words = built[1].words()
    entry = laws["prediction"][0]
    loss = [numbers.fixed_text(entry[key]) for key in ("loss", "loss_low", "loss_high")]
    sentence = f"expect a held-out loss of {loss[0]} [{loss[1]}, {loss[2]}] nats per token"
    assert sentence in words
    assert f"Loss, nats per token{loss[0]}[{loss[1]}, {loss[2]}]" in words
    assert words.index(sentence) < words.index("Figures")
    for name in ("E", "A", "B", "alpha", "beta"):
        found = laws["laws"]["chinchilla_parametric"]["params"][name]
        shown = [numbers.fixed_text(found[key]) for key in ("value", "low", "high")]
        assert f"{shown[0]}[{shown[1]}, {shown[2]}]" in words, name
    for law in ("chinchilla_parametric", "isoflop", "envelope"):
        found = laws["laws"][law]["params"]["a"]
        shown = [numbers.fixed_text(found[key], 3) for key in ("value", "low", "high")]
        assert f"{shown[0]}[{shown[1]}, {shown[2]}]" in words, law


def test_held_out_check_says_itself_whether_it_passed(sweep, built, tmp_path, text_only):
    laws = copy.deepcopy(sweep[0])
    error = laws["holdout"]["relative_error"]
    assert f"Off by {numbers.percent_text(error)}".replace("\xa0", " ") in built[1].words()
    assert "within 2 %" in built[1].words()
    laws["holdout"]["relative_error"] = 0.031
    words = make(tmp_path, laws)[0].words()
    assert "Off by 3.1 %, outside 2 %" in words
    assert "not within 2 %" in words
    laws["holdout"].update(n_heldout=1, budgets=[])
    words = make(tmp_path, laws)[0].words()
    assert "without the run of most compute, the law predicts 1.3" in words


def test_nothing_is_loaded_from_elsewhere(built):
    folder, page, source = built
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed"), tag
        for key in ("src", "href", "xlink:href", "data", "srcset"):
            target = attrs.get(key)
            if target is None:
                continue
            assert target.startswith(("#", "figures/")), (tag, target)
            if target.startswith("figures/"):
                assert (folder / target).is_file()
    assert not re.search(r"url\((?!#)|@import|https?://", source)


def test_ids_are_unique_and_every_reference_is_met(built):
    _, page, source = built
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 200
    assert len(page.named("svg")) == 6
    wanted = set(re.findall(r"url\(#([^)]+)\)", source))
    wanted |= {a["href"][1:] for a in page.named("use")}
    assert wanted and wanted <= set(ids)


def test_every_run_answers_in_every_figure_that_shows_it(built, sweep):
    laws, _, _ = sweep
    _, page, source = built
    for run in laws["runs"]:
        pointed = [a for tag, a in page.tags if tag == "g" and a.get("data-cell") == run["cell"]]
        held_out = run["budget"] == known_sweep.BUDGETS[-1]
        assert len(pointed) == (5 if held_out else 4), run["cell"]
        assert f"<title>run {run['cell']}\n" in source
    assert "batch size 16" in source


def test_figures_follow_the_colour_scheme(built):
    _, _, source = built
    svg = source[source.index("<svg") : source.rindex("</svg>")]
    colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert not colours, f"colours without a role: {colours}"
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", svg)) - {"font"}
    light, dark = source.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"--{name}:#" in light and f"--{name}:#" in dark, name


def test_figure_files_lie_beside_the_page(built):
    folder = built[0]
    found = {path.name for path in (folder / "figures").iterdir()}
    names = ("curves", "isoflop", "optimum", "contours", "residuals", "holdout")
    assert found == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert (folder / "figures/curves.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "figures/curves.pdf").read_bytes()[:4] == b"%PDF"


def test_same_input_same_bytes(built, sweep, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    make(again, *sweep, BOTH, **SAID)
    files = sorted(path.relative_to(again) for path in again.rglob("*.*"))
    assert len(files) == 13
    for file in files:
        assert (again / file).read_bytes() == (built[0] / file).read_bytes(), file


def test_page_survives_json_and_needs_no_tables(sweep, tmp_path, unsaved):
    laws = json.loads(json.dumps(sweep[0], allow_nan=False))
    page, _ = make(tmp_path, laws)
    assert len(page.named("svg")) == 5  # all but the curves
    assert laws["runs"][0]["cell"] in page.words()


def test_failed_and_left_out_runs_keep_their_reasons(built, sweep):
    _, page, _ = built
    words = page.words()
    assert "deadbeef" in words and "failed: loss was NaN twice" in words
    rows = [a for tag, a in page.tags if tag == "tr" and "data-cell" in a]
    assert len(rows) == len(sweep[1]["cell"])
    assert "batch 16, learning rate" not in words and "All runs: batch 16, seed 0." in words
    assert [a["data-cell"] for a in rows if a.get("class") == "failed"] == ["deadbeef"]


def test_certificate_in_words(built, sweep, tmp_path, text_only):
    words = built[1].words()
    assert "99.4 % of 500 starting points" in words and "converged" in words
    assert "(Huber on log residuals, δ = 0.001)" in words
    assert "4000 resamples of runs, of which 3 gave no fit" in words
    laws = copy.deepcopy(sweep[0])
    laws["laws"]["chinchilla_parametric"]["certificate"].update(
        bounds_hit=["E"], share_at_best=0.07, converged=False
    )
    laws["warnings"] = ["E <runs> to zero"]
    words = make(tmp_path, laws)[0].words()
    assert "did not converge" in words
    assert "not determined by these runs: E." in words
    assert "another, better optimum may exist" in words
    assert "E <runs> to zero" in words


def drop(laws, *path):
    for key in path[:-1]:
        laws = laws[key]
    del laws[path[-1]]


DAMAGE = {
    "no parametric": (lambda laws: drop(laws, "laws", "chinchilla_parametric"), 4),
    "no isoflop": (lambda laws: drop(laws, "laws", "isoflop"), 5),
    "no envelope": (lambda laws: drop(laws, "laws", "envelope"), 6),
    "only isoflop": (
        lambda laws: laws.update(
            laws={"isoflop": laws["laws"]["isoflop"]}, holdout=None, prediction=[]
        ),
        3,
    ),
    "no laws": (lambda laws: laws.update(laws={}, holdout=None, prediction=[]), 1),
    "nothing": (lambda laws: laws.clear(), 1),
    "no holdout": (lambda laws: laws.update(holdout=None), 5),
    "no runs": (lambda laws: laws.update(runs=[]), 3),
    "no surface": (lambda laws: drop(laws, "laws", "chinchilla_parametric", "surface"), 6),
    "no optimum": (lambda laws: drop(laws, "laws", "chinchilla_parametric", "optimum"), 6),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_missing_part_costs_only_its_figure(name, sweep, tmp_path, unsaved):
    laws, runs, curves = copy.deepcopy(sweep[0]), sweep[1], sweep[2]
    damage, figures = DAMAGE[name]
    damage(laws)
    page, _ = make(tmp_path, laws, runs, curves)
    assert len(page.named("svg")) == figures
    assert not re.search(r"\bnan\b", page.words())
    assert report.answer(laws)


def test_missing_and_infinite_bounds(sweep, tmp_path, unsettled):
    laws = copy.deepcopy(sweep[0])
    law = laws["laws"]["chinchilla_parametric"]
    law["params"]["E"] = {"value": 0.72, "low": None, "high": None}
    law["params"]["A"] = {"value": 30.0, "low": 3.0, "high": math.inf}
    law["params"]["a"] = 0.5
    for name in ("params", "tokens", "loss"):
        law["optimum"][f"{name}_low"] = [None] * len(law["optimum"]["flops"])
        laws["prediction"][0][f"{name}_high"] = None
        laws["prediction"][0][f"{name}_low"] = None
    for valley in laws["laws"]["isoflop"]["valleys"]:
        valley["minimum"]["params"]["high"] = None
    words = make(tmp_path, laws)[0].words()
    assert "30.00[3.000, ∞]" in words
    assert "E0.7200A" in words
    assert "no interval" in words


def test_rejected_valley_is_named_and_drawn_hollow(sweep, tmp_path, unsettled):
    laws = copy.deepcopy(sweep[0])
    valley = laws["laws"]["isoflop"]["valleys"][0]
    valley.update(used=False, reason="the minimum lies outside the sizes", minimum=None, curve=None)
    page, source = make(tmp_path, laws)
    assert "5 of 6 valleys" in page.words()
    assert "the minimum lies outside the sizes" in page.words()
    start = source.index('id="isoflop-r0"')
    assert "fill: var(--paper)" in source[start : source.index("</g>", start)]


def test_held_out_runs_that_form_no_valley(sweep, tmp_path, unsettled):
    laws = copy.deepcopy(sweep[0])
    for i, row in enumerate(laws["holdout"]["rows"]):
        row["budget"] = None
        row["loss"] *= 1 + 0.02 * i
    page, _ = make(tmp_path, laws)
    assert "predicted = measured" in page.words()


def test_table_without_budgets_still_has_colours(sweep, tmp_path, unsaved):
    laws = copy.deepcopy(sweep[0])
    for run in laws["runs"]:
        run["budget"] = None
    laws["laws"].pop("isoflop")
    shown = view.scene(Laws.of(laws), None)
    assert 2 <= len(shown.budgets) <= 6
    shades = [run.shade for run in sorted(shown.runs, key=lambda run: run.flops)]
    assert shades == sorted(shades) and len(set(shades)) == len(shown.budgets)
    make(tmp_path, laws)


def test_later_tables_appear_when_they_are_there(sweep, tmp_path, text_only):
    laws = copy.deepcopy(sweep[0])
    laws["scores"] = [
        {
            "split": "third_decade",
            "form": "farseer",
            "n_train": 30,
            "n_heldout": 12,
            "mean_relative_error": 0.011,
            "max_relative_error": 0.02,
            "log_likelihood": 41.5,
            "coverage": 0.92,
        }
    ]
    laws["drift"] = [{"left_out": "budget 2e11", "a": 0.49, "b": 0.51, "loss_at_prediction": 1.13}]
    laws["run_next"] = {
        "target_flops": 1e15,
        "quantity": "loss",
        "allowance_flops": 5e13,
        "before": known_sweep.interval(1.1, 0.05),
        "after": known_sweep.interval(1.1, 0.02),
        "cells": [{"params": 2e6, "tokens": 3e7, "flops": 3.6e14, "repeats": 2}],
    }
    laws["laws"]["kaplan"] = {
        "equation": "L = (C0/C)^g",
        "params": {"g": known_sweep.interval(0.05)},
    }
    words = make(tmp_path, laws)[0].words()
    for text in ("farseer", "1.1 %", "budget 2e11", "Suggested next runs", "3.6×10¹⁴", "0.05000"):
        assert text in words, text


def test_a_sigmoid_is_shown_with_what_its_smooth_rival_says(sweep, tmp_path, text_only):
    laws = copy.deepcopy(sweep[0])
    laws["emergence"] = {"sentence": "No threshold is shown: a smooth curve does as well."}
    assert "No threshold is shown" in make(tmp_path, laws)[0].words()
    assert "No threshold is shown" in report.answer(laws)


def test_a_table_of_ones_own_names_its_runs_by_their_rows(sweep, tmp_path, text_only):
    laws = copy.deepcopy(sweep[0])
    laws["runs"] = [{**row, "cell": f"row {i + 1}"} for i, row in enumerate(laws["runs"][:3])]
    columns = {"N": [1e6, 2e6, 3e6, 4e6], "nats": [3.0, 2.9, 2.8, 2.7]}
    words = report.build(
        tmp_path, columns, None, laws, report.ReportConfig(formats=("png",), dpi=40), title="x"
    ).read_text()
    rows = words[words.index("The runs</h2>") :]
    assert rows.count("in the fit") == 3 and rows.count(">left out<") == 1
    assert "<code>row 4</code>" in rows and "None" not in rows


def test_laws_without_an_optimum_are_named_and_their_numbers_given(sweep, tmp_path, text_only):
    laws = copy.deepcopy(sweep[0])
    laws["laws"] = {"smooth": {"equation": "s", "params": {"top": known_sweep.interval(0.9)}}}
    laws |= {"prediction": [], "holdout": None}
    page, _ = make(tmp_path, laws)
    assert "None of them says how to spend a budget" in page.words()
    assert "smooth" in report.answer(laws) and "top = 0.9000" in report.answer(laws)


def test_markup_is_escaped(built, sweep, tmp_path, text_only):
    assert "<title>A &amp; B</title>" in built[2]
    laws = copy.deepcopy(sweep[0])
    laws["left_out"] = [{"cell": "<b>x", "reason": "<script>alert(1)</script>"}]
    _, source = make(tmp_path, laws, facts={"corpus": "<i>"})
    assert "<script>alert" not in source and "<b>x" not in source and "<i>" not in source


def test_answer_for_the_terminal(sweep):
    laws = sweep[0]
    text = report.answer(laws)
    assert "a = 0.478 [0.459, 0.497]" in text.replace("\xa0", " ")
    assert "within 2" in text and "E = 0.7200" in text
    assert "No law could be fitted" in report.answer({})


def test_a_figure_that_cannot_be_written_is_said(sweep, tmp_path, monkeypatch):
    def full(*rest):
        raise UserError("no space left")

    monkeypatch.setattr(html, "_draw", full)
    laws, runs, curves = sweep
    with pytest.raises(UserError, match="no space left"):
        make(tmp_path, laws, runs, curves)
    assert not (tmp_path / "report.html").exists()


def test_page_is_written_whole_or_not_at_all(sweep, tmp_path, monkeypatch, text_only):
    page = tmp_path / "report.html"
    page.write_text("old")
    monkeypatch.setattr(html, "_page", lambda *args: "new" * 1000)
    monkeypatch.setattr("gptjax.files.os.replace", _refuse)
    with pytest.raises(UserError, match="no space left"):
        make(tmp_path, {}, config=report.ReportConfig(formats=()))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert page.read_text() == "old"


def _refuse(self, target):
    raise OSError("no space left on device")


def test_long_curves_are_thinned(sweep):
    curves = known_sweep.curves_table(sweep[0]["runs"][:2], points=5000)
    found = view.curves_by_cell(curves, 160)
    for flops, _ in found.values():
        assert len(flops) <= 160
        assert flops[-1] == pytest.approx(
            max(curves["flops"][curves["cell"] == next(iter(found))]), rel=0.2
        )


@pytest.mark.parametrize("count", (1, 2, 6, 12))
def test_palette_is_sequential_and_has_no_role_colour(count):
    colours = style.palette(count)
    roles = {light for light, _ in style.ROLES.values()}
    assert len(set(colours.light)) == len(set(colours.dark)) == count
    assert not roles & set(colours.light)
    for shades in (colours.light, colours.dark):
        lights = [_luminance(c) for c in shades]
        assert lights == sorted(lights)


def test_colours_can_be_seen_on_their_page():
    paper = {0: style.ROLES["paper"][0], 1: style.ROLES["paper"][1]}
    for role in ("ink", "muted", "accent", "second"):
        for scheme in (0, 1):
            assert _contrast(style.ROLES[role][scheme], paper[scheme]) > 4.5, role
    colours = style.palette(7)
    assert min(_contrast(c, paper[0]) for c in colours.light) > 2
    assert min(_contrast(c, paper[1]) for c in colours.dark) > 3


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _contrast(one, other):
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
def test_what_scaling_writes_is_what_the_report_reads(sweep, tmp_path):
    from gptjax.scaling.config import FitConfig
    from gptjax.scaling.laws.fit_laws import fit_laws

    laws = fit_laws(sweep[1], sweep[2], FitConfig(starts=16, resamples=50))
    page, _ = make(tmp_path, json.loads(json.dumps(laws, allow_nan=False)), sweep[1], sweep[2])
    words = page.words()
    assert len(page.named("svg")) == 6
    assert "All 6 valleys" in words and "no interval" not in words
    found = laws["laws"]["chinchilla_parametric"]["params"]
    for name in ("E", "alpha", "beta", "a", "b"):
        shown = numbers.fixed_text(found[name]["value"], 3 if name in "ab" else 4)
        assert shown in words, name


def test_each_point_of_an_artist_answers_and_those_off_the_figure_do_not():
    runs = tuple(view.Run(str(i), *[1.0] * 6, True, 0, f"run {i}") for i in range(4))
    scene = view.Scene(runs, (1.0,))
    figure = Figure()
    ax = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    places = [(0.2, 0.2), (0.5, 5.0), (0.8, 0.8), (0.5, 0.5)]
    figures._points(ax, scene, [(run, *at, True) for run, at in zip(runs, places, strict=True)])
    hover = {gid: (cell, scene.by_cell[cell].text) for cell, gid in scene.gids.items()}
    found = svg.inline_svg(figure, "f", "a label", style.palette(1), hover)
    answers = re.findall(r'data-cell="(\d)"><title>run \d</title><use [^>]*x="([\d.]+)"', found)
    assert [cell for cell, _ in answers] == ["0", "2", "3"]
    first, last, middle = (float(x) for _, x in answers)
    assert middle == pytest.approx((first + last) / 2, abs=0.1)
