"""Options that a shell gives to JAX: none of them changes a number of a run."""

import jax
import pytest

from gptjax import config as configs
from gptjax.engines.devices import NUMBERS, start_backend

OTHERS = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_default_matmul_precision": "bfloat16",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_softmax_custom_jvp": True,
    "jax_disable_jit": True,
}
CPU = configs.make_config({"device": "cpu"})


def draw():
    return jax.random.normal(jax.random.key(3), (4,)).tolist()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_shell_changes_no_number(name):
    before, drawn = getattr(jax.config, name), draw()
    try:
        jax.config.update(name, OTHERS[name])
        assert start_backend(CPU) == "cpu"
        assert getattr(jax.config, name) == before and draw() == drawn
    finally:
        jax.config.update(name, NUMBERS[name])
