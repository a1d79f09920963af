"""Hooks for the whole suite."""

import jaxtyping

# Shapes and types of the public functions in `ops` are checked at every call under test. The
# hook must be in place before anything imports them.
jaxtyping.install_import_hook("gptjax.ops", "beartype.beartype")
