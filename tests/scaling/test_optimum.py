"""The closed form of the optimum against a plain search, by 6 N D and by the exact FLOP count."""

import numpy as np
import pytest
from known_runs import TRUTH, chinchilla_loss

from gptjax import scaling
from gptjax.cost import flop_formulas
from gptjax.errors import UserError
from gptjax.scaling.fit import optimum

WIDTHS = np.arange(256, 12_288, 64)


def shape(width):
    return {
        "depth": max(2, int(width) // 96),
        "width": int(width),
        "num_heads": int(width) // 64,
        "mlp_width": 4 * int(width),
        "seq_len": 2048,
        "vocab_size": 32_000,
    }


def size(width):
    """Parameters of the matrices, head included: depth 12 width^2 + width vocabulary."""
    of = shape(width)
    return 12 * of["depth"] * of["width"] ** 2 + of["width"] * of["vocab_size"]


SIZES = np.array([size(width) for width in WIDTHS], float)
PER_TOKEN = np.array([flop_formulas.training_flops_per_token(**shape(width)) for width in WIDTHS])


def exact_tokens(budget, params):
    """Tokens that a budget pays for under the exact count, interpolated between real shapes."""
    return budget / np.exp(np.interp(np.log(params), np.log(SIZES), np.log(PER_TOKEN)))


@pytest.mark.parametrize("budget", [1e18, 1e21, 1e24])
def test_the_closed_form_is_the_minimum_under_six_n_d(budget):
    best = optimum.two_power_params(TRUTH, budget, optimum.Cost())
    sizes = best * np.exp(np.linspace(-0.5, 0.5, 20_001))
    losses = chinchilla_loss(sizes, budget / 6 / sizes)
    assert sizes[np.argmin(losses)] == pytest.approx(best, rel=1e-3)
    numeric = optimum.best_params(
        scaling.form_named("chinchilla"),
        TRUTH,
        budget,
        optimum.Cost(),
        tokens_of=lambda c, n: c / 6 / n,
    )
    assert numeric[0] == pytest.approx(best, rel=1e-5)


def exact_table(noise=0.0):
    """IsoFLOP runs of real shapes whose tokens are solved from the exact count."""
    rows = []
    for budget in np.geomspace(1e18, 1e20, 5):
        guess = optimum.two_power_params(TRUTH, budget, optimum.Cost())
        for factor in np.geomspace(0.3, 3.0, 7):
            i = int(np.argmin(np.abs(np.log(SIZES / (guess * factor)))))
            rows.append((budget, SIZES[i], budget / PER_TOKEN[i]))
    budget, params, tokens = np.array(rows).T
    scatter = np.exp(noise * np.random.default_rng(0).standard_normal(len(params)))
    return {
        "flops": budget,
        "params": params,
        "tokens": tokens,
        "loss": chinchilla_loss(params, tokens) * scatter,
    }


@pytest.mark.parametrize("budget", [1e19, 1e21])
def test_the_closed_form_agrees_with_the_minimum_under_the_exact_count(budget):
    law = scaling.fit(exact_table(), starts=8, resamples=0)
    closed, numeric = law.optimum(budget), law.optimum(budget, tokens_of=exact_tokens)
    by_hand = np.exp(np.linspace(np.log(SIZES[0]), np.log(SIZES[-1]), 200_001))
    losses = chinchilla_loss(by_hand, exact_tokens(budget, by_hand))
    assert numeric.params.value == pytest.approx(by_hand[np.argmin(losses)], rel=2e-3)
    assert numeric.loss.value == pytest.approx(losses.min(), rel=1e-6)
    # The cost model is a power law through the runs' own counts; kinks between depths remain.
    assert closed.params.value == pytest.approx(numeric.params.value, rel=0.1)
    assert closed.loss.value == pytest.approx(numeric.loss.value, rel=2e-3)


def test_six_n_d_in_place_of_the_exact_count_is_off_by_more():
    law = scaling.fit(exact_table(), starts=8, resamples=0)
    numeric = law.optimum(1e19, tokens_of=exact_tokens)
    closed = law.optimum(1e19)
    plain = law.optimum(1e19, tokens_of=lambda c, n: c / 6 / n)
    error = [abs(one.loss.value / numeric.loss.value - 1) for one in (closed, plain)]
    assert error[0] < error[1]


def test_an_exact_optimum_has_an_interval():
    best = scaling.fit(exact_table(0.003), starts=8, resamples=200).optimum(
        1e21, tokens_of=exact_tokens
    )
    assert best.params.low < best.params.value < best.params.high
    assert best.tokens.value == pytest.approx(exact_tokens(1e21, best.params.value))


def test_what_is_no_loss_of_size_and_tokens_has_no_optimum():
    columns = {"params": np.geomspace(1e6, 1e9, 8), "loss": np.linspace(3, 2, 8)}
    law = scaling.fit(columns, form="kaplan_n", starts=8, resamples=0)
    with pytest.raises(UserError, match="has no optimum"):
        law.optimum(1e20)
