"""Losses of preference learning: a preferred answer against another one, per pair and in nats.

Direct preference optimisation compares the log-ratios log π(y|x) − log π_ref(y|x) of both answers;
a reward model compares scores.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pairs = Float[Array, " P"]


def dpo_sigmoid(difference_P: Pairs, beta: float, smoothing: float = 0.0) -> Pairs:
    """−(1 − ε)·log σ(β·Δ) − ε·log σ(−β·Δ) (Rafailov et al. 2023, equation 7).

    ε > 0 is conservative DPO, for labels of which a share ε is wrong (Mitchell 2023).

    Args:
      difference_P: Δ, the preferred answer's log-ratio less the other's, summed over tokens.

    >>> round(float(dpo_sigmoid(jnp.zeros(1), 0.1)[0]), 4)  # log 2
    0.6931
    """
    right, wrong = (jax.nn.log_sigmoid(sign * beta * difference_P) for sign in (1.0, -1.0))
    return -(1.0 - smoothing) * right - smoothing * wrong


def dpo_robust(difference_P: Pairs, beta: float, smoothing: float = 0.0) -> Pairs:
    """The same without bias under flipped labels (Chowdhury et al. 2024, equation 13).

    (−(1 − ε)·log σ(β·Δ) + ε·log σ(−β·Δ)) / (1 − 2ε).
    """
    right, wrong = (jax.nn.log_sigmoid(sign * beta * difference_P) for sign in (1.0, -1.0))
    return (-(1.0 - smoothing) * right + smoothing * wrong) / (1.0 - 2.0 * smoothing)


def dpo_hinge(difference_P: Pairs, beta: float) -> Pairs:
    """max(0, 1 − β·Δ) (SLiC, Zhao et al. 2023, as RSO normalises it, Liu et al. 2023).

    >>> dpo_hinge(jnp.array([5.0, -5.0]), 0.1).tolist()
    [0.5, 1.5]
    """
    return jax.nn.relu(1.0 - beta * difference_P)


def ipo(difference_P: Pairs, beta: float) -> Pairs:
    """(Δ − 1/(2β))² (Azar et al. 2023, equation 17).

    Args:
      difference_P: of log-ratios that are means over an answer's tokens, as the authors advise.

    >>> ipo(jnp.array([5.0]), 0.1).tolist()
    [0.0]
    """
    return jnp.square(difference_P - 1.0 / (2.0 * beta))


def ranking(better_P: Pairs, worse_P: Pairs, margin_P: Pairs | float = 0.0) -> Pairs:
    """−log σ(r(x, y_w) − r(x, y_l) − m) (Ouyang et al. 2022, equation 1; m: Llama 2, equation 2).

    >>> round(float(ranking(jnp.array([1.0]), jnp.array([1.0]))[0]), 4)
    0.6931
    """
    return -jax.nn.log_sigmoid(better_P - worse_P - margin_P)
