"""Navigation of the documentation site: pages of a folder, in the order of their names.

MkDocs loads this file for `mkdocs build --strict`; a recipe or an API page needs no other entry.
"""

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
FOLDERS = {"Recipes": "recipes", "API": "api"}


def on_config(config: Any) -> Any:
    """Complete the navigation of mkdocs.yml."""
    config.nav = complete(config.nav)
    return config


def complete(nav: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """The navigation with the pages that it does not place, and a section for each folder."""
    placed = {page for section in nav for pages in section.values() for page in pages}
    others = [page for page in pages(".") if page not in placed]
    folders = [{title: pages(folder)} for title, folder in FOLDERS.items() if pages(folder)]
    return [*nav, *([{"More": others}] if others else []), *folders]


def pages(folder: str) -> list[str]:
    """Paths of the Markdown files of a folder of docs/, as the navigation names them."""
    return sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
