"""The project's files against each other: versions, hooks, workflows and the site's navigation."""

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

REPO = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
CONSTRAINTS = sorted((REPO / "constraints").glob("python*.txt"))
SITE = yaml.safe_load((REPO / "mkdocs.yml").read_text())


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path):
    """{name: version} of a constraints file."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {canonical(name): version for name, _, version in (x.partition("==") for x in lines)}


def hooks():
    path = REPO / "docs" / "site_hooks.py"
    spec = importlib.util.spec_from_file_location("site_hooks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_constraints_pin_what_the_suite_needs(path):
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    found = pins(path)
    for requirement in map(Requirement, wanted):
        version = found.get(canonical(requirement.name))
        assert version and requirement.specifier.contains(version), requirement


def test_constraints_are_those_of_a_named_python():
    named = set(re.findall(r"constraints/(python3\.\d+)\.txt", (REPO / "README.md").read_text()))
    assert named and named <= {path.stem for path in CONSTRAINTS}


def test_the_command_is_main():
    module, _, function = PROJECT["scripts"]["gptjax"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_workflow_runs_ci_on_every_python_of_the_classifiers():
    flow = yaml.safe_load((REPO / ".github" / "workflows" / "ci.yml").read_text())
    tests = flow["jobs"]["tests"]
    assert any(step.get("run") == ".ci/run" for step in tests["steps"])
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert tests["strategy"]["matrix"]["python"] == versions


def test_hooks_before_a_commit_are_those_of_ci():
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    ran = (REPO / ".ci" / "run").read_text().splitlines()
    assert set(entries) == {"ruff format", "ruff check", "mypy"}
    assert all(any(line.startswith(entry) for line in ran) for entry in entries)


def test_every_page_is_in_the_navigation_once():
    docs = REPO / "docs"
    sections = hooks().complete(SITE["nav"])
    nav = [page for section in sections for pages in section.values() for page in pages]
    assert sorted(nav) == sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))


@pytest.mark.parametrize("page", hooks().pages("api"))
def test_api_pages_name_packages(page):
    named = re.findall(r"^::: (\S+)$", (REPO / "docs" / page).read_text(), re.M)
    assert named and all(importlib.import_module(name).__doc__ for name in named)


RECIPES = [f"docs/{page}" for page in hooks().pages("recipes")]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", *RECIPES])
def test_links_lead_somewhere(page):
    path = REPO / page
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_files_of_tests_have_names_of_their_own():
    """Python imports them and their helpers by these alone, and takes the first of a name."""
    names = [path.name for path in (REPO / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert not {name for name in names if names.count(name) > 1}
