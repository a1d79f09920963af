"""Navigation of the documentation site: pages of a folder, in the order of their names.

MkDocs loads this file for `mkdocs build --strict`; a recipe or an API page needs no other entry.
"""

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
FOLDERS = {"Recipes": "recipes", "API": "api"}


def on_config(config: Any) -> Any:
    """Add a section for each folder to the navigation of mkdocs.yml."""
    config.nav += [{title: pages(folder)} for title, folder in FOLDERS.items() if pages(folder)]
    return config


def pages(folder: str) -> list[str]:
    """Paths of the Markdown files of a folder of docs/, as the navigation names them."""
    return sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
