"""Ensembles: the predictions of several models as those of one, with weights fitted on text.

A combination is one value: how its weights are fitted on held-out text, and how it combines
log-probabilities. Parameter averages (soups) are in `gptjax.infer.soups`: they are one model again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError

EM_STEPS, NEWTON_STEPS = 200, 50
PSEUDO_COUNT = 8.0
"""Tokens' worth of the overall weights that each input token starts with, in `by_token`."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """Predictions on held-out text.

    Attributes:
      inputs_n, targets_n: the token before, and the one that came.
      log_p_MnV: each member's log-probabilities.
    """

    inputs_n: np.ndarray
    targets_n: np.ndarray
    log_p_MnV: np.ndarray

    @property
    def log_p_nM(self) -> np.ndarray:
        """Each member's log-probability of the token that came."""
        return np.take_along_axis(self.log_p_MnV, self.targets_n[None, :, None], -1)[..., 0].T


@dataclasses.dataclass(frozen=True)
class Combination:
    """A way to make one prediction of several.

    Attributes:
      fit: Seen → weights.
      combine: (log_p_MBTV, inputs_BT, weights) → log_p_BTV.
    """

    fit: Callable[[Seen], np.ndarray]
    combine: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def uniform(seen: Seen) -> np.ndarray:
    """1/M each."""
    count = len(seen.log_p_MnV)
    return np.full(count, 1.0 / count)


def em(seen: Seen) -> np.ndarray:
    """Weights of the largest Σ log Σ_m w_m P_m, by expectation maximisation, which never lowers it.

    Dempster, Laird, Rubin (1977): w_m becomes the mean of member m's responsibilities.
    """
    weights = uniform(seen)
    for _ in range(EM_STEPS):
        weights = np.mean(_responsibilities(seen.log_p_nM, weights), axis=0)
    return weights


def em_by_token(seen: Seen) -> np.ndarray:
    """P(m | the token before), [V, M], by the same steps, smoothed towards the overall weights."""
    overall, vocab = em(seen), seen.log_p_MnV.shape[-1]
    weights_VM = np.tile(overall, (vocab, 1))
    for _ in range(EM_STEPS):
        sums_VM = PSEUDO_COUNT * np.tile(overall, (vocab, 1))
        np.add.at(
            sums_VM, seen.inputs_n, _responsibilities(seen.log_p_nM, weights_VM[seen.inputs_n])
        )
        weights_VM = sums_VM / sums_VM.sum(axis=1, keepdims=True)
    return weights_VM


def _responsibilities(log_p_nM: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """P(m | the token that came): rows sum to one."""
    joint_nM = weights * np.exp(log_p_nM - log_p_nM.max(axis=1, keepdims=True))
    return joint_nM / joint_nM.sum(axis=1, keepdims=True)


def newton(seen: Seen) -> np.ndarray:
    """λ of softmax(Σ_m λ_m log P_m) by Newton's method: the loss is convex in λ.

    Its gradient is E[log P_m] − log P_m(target) and its Hessian the covariance of the log P_m, both
    under the combination.
    """
    log_p_MnV = np.asarray(seen.log_p_MnV, np.float64)
    weights = uniform(seen)
    loss, gradient, hessian = _log_linear_loss(weights, log_p_MnV, seen)
    for _ in range(NEWTON_STEPS):
        step = np.linalg.solve(hessian + 1e-9 * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-6:
            tried = _log_linear_loss(weights - size * step, log_p_MnV, seen)
            if tried[0] <= loss:
                break
            size /= 2
        weights, (loss, gradient, hessian) = weights - size * step, tried
        if size * np.abs(step).max() < 1e-9:
            break
    return weights


def _log_linear_loss(
    weights: np.ndarray, log_p_MnV: np.ndarray, seen: Seen
) -> tuple[float, np.ndarray, np.ndarray]:
    """(mean loss, gradient, Hessian) in λ."""
    scores_nV = np.einsum("m,mnv->nv", weights, log_p_MnV)
    top_n1 = scores_nV.max(axis=1, keepdims=True)
    log_z_n1 = top_n1 + np.log(np.exp(scores_nV - top_n1).sum(axis=1, keepdims=True))
    p_nV = np.exp(scores_nV - log_z_n1)
    mean_nM = np.einsum("nv,mnv->nm", p_nV, log_p_MnV)
    picked_nM = seen.log_p_nM
    loss = float(np.mean(log_z_n1[:, 0] - picked_nM @ weights))
    second = np.einsum("nv,mnv,knv->mk", p_nV, log_p_MnV, log_p_MnV) / len(p_nV)
    return loss, np.mean(mean_nM - picked_nM, axis=0), second - mean_nM.T @ mean_nM / len(p_nV)


def linear(log_p_MBTV: jax.Array, inputs_BT: jax.Array, weights_M: jax.Array) -> jax.Array:
    """log Σ_m w_m P_m."""
    return jax.nn.logsumexp(log_p_MBTV + jnp.log(weights_M)[:, None, None, None], axis=0)


def linear_by_token(
    log_p_MBTV: jax.Array, inputs_BT: jax.Array, weights_VM: jax.Array
) -> jax.Array:
    """log Σ_m P(m | x) P_m, with x the token before."""
    log_w_MBT = jnp.moveaxis(jnp.log(weights_VM)[inputs_BT], -1, 0)
    return jax.nn.logsumexp(log_p_MBTV + log_w_MBT[..., None], axis=0)


def log_linear(log_p_MBTV: jax.Array, inputs_BT: jax.Array, weights_M: jax.Array) -> jax.Array:
    """log softmax(Σ_m λ_m log P_m)."""
    return jax.nn.log_softmax(jnp.tensordot(weights_M, log_p_MBTV, axes=1), axis=-1)


COMBINATIONS: dict[str, Combination] = {
    "uniform": Combination(uniform, linear),
    "em": Combination(em, linear),
    "by_token": Combination(em_by_token, linear_by_token),
    "log_linear": Combination(newton, log_linear),
}
"""The choices of `ensemble.combination` that keep all members."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several models as one.

    Attributes:
      members: (config, parameters) of each.
      combination: a name of COMBINATIONS.
      weights: as its `fit` gives them.
    """

    members: tuple[tuple[models.ModelConfig, Any], ...]
    combination: str
    weights: np.ndarray

    def log_probs(self, tokens_BT: jax.Array) -> jax.Array:
        """[B, T, V]: of the token after each position."""
        log_p_MBTV = members_log_probs(self.members, tokens_BT)
        combine = COMBINATIONS[self.combination].combine
        return combine(log_p_MBTV, tokens_BT, jnp.asarray(self.weights, jnp.float32))


def members_log_probs(
    members: Sequence[tuple[models.ModelConfig, Any]], tokens_BT: jax.Array
) -> jax.Array:
    """[M, B, T, V]."""
    return jnp.stack([_log_probs(config, params, tokens_BT) for config, params in members])


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(config: models.ModelConfig, params: Any, tokens_BT: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(models.apply(config, params, tokens_BT), axis=-1)


def observe(members: Sequence[tuple[models.ModelConfig, Any]], windows_NT: np.ndarray) -> Seen:
    """What the members say of windows of text, [N, T + 1] ids."""
    inputs, targets = windows_NT[:, :-1], windows_NT[:, 1:]
    log_p = np.asarray(members_log_probs(members, jnp.asarray(inputs)))
    return Seen(
        inputs.reshape(-1), targets.reshape(-1), log_p.reshape(len(members), -1, log_p.shape[-1])
    )


def check_members(members: Sequence[tuple[models.ModelConfig, Any]], names: Sequence[str]) -> None:
    """Refuse a lone member, and members that do not predict the same tokens.

    Raises:
      UserError: naming the one that differs.
    """
    if len(members) < 2:
        raise UserError(f"an ensemble of {len(members)} model is none; name two or more")
    sizes = [config.vocab_size for config, _ in members]
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise UserError(
                f"{name} has {size} tokens and {names[0]} {sizes[0]}, so their predictions cannot "
                "be combined; give models of one tokenizer"
            )
