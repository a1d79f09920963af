"""Start of JAX on the device that the config names."""

import os

from gptjax.config import Config
from gptjax.errors import UserError

NUMBERS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_softmax_custom_jvp": False,
    "jax_disable_jit": False,
}
"""Options of JAX that change numbers, each with its default: a result is a function of its cell,
and a shell's JAX_DEFAULT_PRNG_IMPL would draw other weights under the same name."""


def start_backend(config: Config) -> str:
    """Start JAX on `config.device` and return the platform.

    Raises:
      UserError: when that device is not on this machine.
    """
    import jax

    _choose(config)
    device = config.general.device
    try:
        return jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # the latter for a plugin that is not there
        reason = (str(error).strip().splitlines() or ["its JAX plugin is not installed"])[0]
        asked = os.environ.get("JAX_PLATFORMS", "")
        if device == "auto" and asked:
            raise UserError(
                f"JAX_PLATFORMS={asked} is not usable here ({reason}); unset it, or set "
                "--config.device=cpu"
            ) from error
        raise UserError(
            f"config.device={device} is not usable here ({reason}); set --config.device=cpu, or "
            "install the extra that drives it (gptjax[cuda] or gptjax[tpu])"
        ) from error


def compute_on_cpu() -> None:
    """Let what starts JAX next compute on the CPU, as fits do, whatever else is there."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def join_processes(config: Config) -> None:
    """Connect to the other processes of the run, where `config.distributed` asks for it.

    Must come before anything computes.

    Raises:
      UserError: when the other processes cannot be found or reached.
    """
    import jax

    if not config.general.distributed or jax.distributed.is_initialized():
        return
    _choose(config)
    given = {name: os.environ.get(f"GPTJAX_{name}", "") for name in VARIABLES}
    missing = [f"GPTJAX_{name}" for name, value in given.items() if not value]
    if 0 < len(missing) < len(VARIABLES):
        raise UserError(f"config.distributed=True also needs {' and '.join(missing)}; set them")
    try:
        # The runtime ends the processes of a run whose process does not answer for that long, with
        # a status of its own; the watchdog of train.hang_seconds speaks first.
        patience = max(100, round(2 * config.train.hang_seconds))
        if missing:
            jax.distributed.initialize(heartbeat_timeout_seconds=patience)
        else:
            place = given["COORDINATOR"], int(given["PROCESSES"]), int(given["PROCESS"])
            jax.distributed.initialize(*place, heartbeat_timeout_seconds=patience)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"config.distributed=True found no other processes ({reason}); set GPTJAX_COORDINATOR="
            "HOST:PORT, GPTJAX_PROCESSES=COUNT and GPTJAX_PROCESS=NUMBER in each"
        ) from error


def process_index() -> int:
    """This process's number among those of the run; 0 writes. Does not start JAX."""
    import jax

    return jax.process_index() if jax.distributed.is_initialized() else 0


VARIABLES = ("COORDINATOR", "PROCESSES", "PROCESS")


def _choose(config: Config) -> None:
    import jax

    for name, default in NUMBERS.items():
        if hasattr(jax.config, name):  # versions of JAX drop options
            jax.config.update(name, default)
    device = config.general.device
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
