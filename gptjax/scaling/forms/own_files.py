"""Law forms of one's own from Python files, so that a config and a saved law can name them."""

import importlib.util
from pathlib import Path
from types import ModuleType

from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.scaling.forms.form import Form

_READ: dict[Path, tuple[Form, ...]] = {}


def forms_of(path: str | Path) -> tuple[Form, ...]:
    """The forms of a Python file: its `FORMS`, or its `FORM`. A file is run once.

    Raises:
      UserError: where there is no such file, it cannot be run, or it has no form.
    """
    place = user_path(path).resolve()
    if place not in _READ:
        if place.suffix != ".py" or not place.is_file():
            raise UserError(f"fit.form_files has {path}, which is no Python file; give its path")
        module = _run(place)
        found = getattr(module, "FORMS", None) or [getattr(module, "FORM", None)]
        if not isinstance(found, list | tuple) or not all(isinstance(one, Form) for one in found):
            raise UserError(
                f"fit.form_files={path} has no form; end it with FORMS = (MY_LAW,), each a "
                "gptjax.scaling.Form"
            )
        _READ[place] = tuple(found)
    return _READ[place]


def _run(place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"own_forms_{place.stem}", place)
    if spec is None or spec.loader is None:
        raise UserError(f"fit.form_files has {place}, which is no Python file; give its path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"fit.form_files={place} cannot be run ({type(error).__name__}: {error}); correct it"
        ) from error
    return module
