"""Chat format of a Hugging Face folder, told by the marks in its chat template."""

from pathlib import Path

from gptjax.data.chat import FORMATS, ChatFormat
from gptjax.files import check_plain, read_json

SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
FROM_VARIABLES = ("bos_token", "eos_token")
"""Templates name these tokens by variables."""


def format_of(folder: Path) -> str:
    """The format whose marks the folder's template writes; "" where none or several fit.

    Where the marks of one are among those of another that fits as well, the other counts.
    """
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    template = settings.get("chat_template") or ""
    if (folder / TEMPLATE).exists():
        check_plain(folder / TEMPLATE)
        template = (folder / TEMPLATE).read_text(encoding="utf-8-sig")
    if isinstance(template, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in template}
        template = named.get("default") or ""
    hidden = {_text(settings.get(name)) for name in FROM_VARIABLES}
    marks = {name: _marks(form, hidden) for name, form in FORMATS.items()}
    fit = [name for name, own in marks.items() if own and all(mark in template for mark in own)]
    best = [name for name in fit if not any(marks[name] < marks[other] for other in fit)]
    return best[0] if len(best) == 1 else ""


def _text(token: object) -> str:
    """A token's text; some files have it in a dictionary."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _marks(form: ChatFormat, hidden: set[str]) -> set[str]:
    return {mark for mark in (*form.special, *form.marks) if mark not in hidden}
