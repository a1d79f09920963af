"""The documentation against the code: settings, flags, files and links that it names."""

import importlib.util
import re
from pathlib import Path

import pytest

from gptjax import setting_names
from gptjax.experiment import setting_types

REPO = Path(__file__).parents[1]
DOCS = REPO / "docs"
PAGES = [page for page in (REPO / "README.md", *sorted(DOCS.glob("*.md"))) if page.exists()]
EXPERIMENTS = sorted((REPO / "experiments").glob("*.py"))
each = pytest.mark.parametrize("page", [*PAGES, *EXPERIMENTS], ids=lambda page: page.name)


def reference():
    path = DOCS / "make_config_reference.py"
    spec = importlib.util.spec_from_file_location("make_config_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_config_reference_is_fresh():
    found = (DOCS / "config.md").read_text(encoding="utf-8")
    assert found == reference().render(), "run: python docs/make_config_reference.py"


def test_the_names_of_settings_are_fresh():
    found = setting_names.FILE.read_text(encoding="utf-8")
    assert found == reference().names(), "run: python docs/make_config_reference.py"


def test_config_reference_has_every_setting():
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    assert [name for name in setting_types() if f"| `{name}` |" not in text] == []


@each
def test_flags_are_settings(page):
    text = page.read_text(encoding="utf-8")
    flags = re.findall(r"--config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", text)
    assert [name for name in flags if name not in setting_types()] == []


def _parts(name):
    return name.split(".")


@each
def test_named_settings_exist(page):
    """`section.key` in backticks, and in the sentences of the reference."""
    text = page.read_text(encoding="utf-8")
    sections = {name.partition(".")[0] for name in setting_types() if "." in name}
    key = rf"((?:{'|'.join(sections)})(?:\.[a-z_0-9]+)+)"
    pattern = rf"\b{key}" if page.name == "config.md" else rf"`{key}[`=]"
    files = {f"{section}.{end}" for section in sections for end in ("py", "html", "json")}
    named = set(re.findall(pattern, text)) - files
    inside = {".".join(parts[:i]) for parts in map(_parts, setting_types()) for i in range(1, 4)}
    assert sorted(named - setting_types().keys() - inside) == []


@each
def test_experiments_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"experiments/[a-z_0-9]+\.py", text))
    assert [name for name in named if not (REPO / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_files_that_the_architecture_names_exist():
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_0-9/]+\.py)`", text))
    roots = (REPO / "gptjax", REPO)
    assert {"train/step.py", "sweeps/records.py"} <= named
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


def test_flags_in_sentences_are_settings():
    """A repair that names a flag names one that there is."""
    sources = "\n".join(path.read_text() for path in (REPO / "gptjax").rglob("*.py"))
    named = set(re.findall(r"--([a-z]+\.[a-z0-9_.]*[a-z0-9_])=", sources))
    known = {f"config.{name}" for name in setting_types()}
    assert sorted(named - known) == []
