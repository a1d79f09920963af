"""Starting JAX on the device that the config names."""

from gptjax.build import Setup
from gptjax.errors import UserError


def start_backend(setup: Setup) -> str:
    """Start JAX on `config.device` and return the platform.

    Raises:
      UserError: when that device is not on this machine.
    """
    import jax

    device = setup.general.device
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    try:
        return jax.devices()[0].platform
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"config.device={device} is not usable here ({reason}); set --config.device=cpu, or "
            "install the extra that drives it (gptjax[cuda] or gptjax[tpu])"
        ) from error
