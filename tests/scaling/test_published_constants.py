"""Published constants of law forms against numbers that their papers print beside them."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.scaling.data_mixtures.forms import EXPONENTIAL
from gptjax.scaling.fit import engine


def loss(name, values, **columns):
    columns = {key: np.asarray(value, float) for key, value in columns.items()}
    return engine.predict(scaling.form_named(name), values, columns)


@pytest.mark.parametrize(
    ("active", "tokens", "grains", "printed"),
    [
        (1e8, 4.37e9, 8, 3.133),
        (1e9, 28.94e9, 16, 2.491),
        (7e9, 137.6e9, 32, 2.076),
        (70e9, 941.07e9, 32, 1.694),
    ],
)
def test_granularity_gives_the_optimal_losses_of_krajewski(active, tokens, grains, printed):
    """Table 2 of the paper; the constants are printed with two or three digits."""
    values = {"E": 0.47, "A": 18.1, "B": 30.8, "K": 2.1, "alpha": 0.115, "beta": 0.147}
    total = active * (1 + 63 * 2 / 3)  # two thirds of a model are MLPs, of which there are 64
    found = loss(
        "granularity", {**values, "gamma": 0.58}, params=total, tokens=tokens, granularity=grains
    )
    assert found == pytest.approx(printed, abs=0.03)


def test_sparsity_with_the_constants_of_abnar_gives_their_equation():
    """Table 3 of the paper, whose lambda is negative: more experts help at the same active size."""
    names = ("E", "A", "B", "alpha", "beta", "K", "lambda_", "M", "delta", "gamma")
    printed = (0.94, 16612.5, 5455.67, 0.5962, 0.3954, 0.4598, -0.1666, 17.26, 0.1603, 0.1595)
    values = dict(zip(names, printed, strict=True))
    n, d, s = 18.8e9, 110.2e9, 0.98
    by_hand = 0.94 + 16612.5 / n**0.5962 + 5455.67 / d**0.3954
    by_hand += 0.4598 / (1 - s) ** -0.1666 + 17.26 / ((1 - s) ** 0.1603 * n**0.1595)
    assert loss("sparsity", values, params=n, tokens=d, sparsity=s) == pytest.approx(by_hand)
    same_active = loss("sparsity", values, params=n / 50, tokens=d, sparsity=0.0)
    assert by_hand < same_active


@pytest.mark.parametrize(
    ("params", "width", "flops", "printed"),
    [
        (3e9, 3200, 1.3e21, 37e3),
        (7e9, 4096, 7.1e21, 60e3),
        (13e9, 5120, 2.4e22, 81e3),
        (30e9, 6048, 1.3e23, 142e3),
        (70e9, 8192, 7.1e23, 216e3),
    ],
)
def test_vocabulary_gives_the_best_sizes_of_tao(params, width, flops, printed):
    """Table 2, approach 3; A, V, B are printed for millions and billions."""
    values = {"E": -5.533, "alpha": 0.447, "nu": 0.671}
    values |= {"A": 1.831 * 1e6**0.447, "V": 0.196 * 1e6**0.671, "B": 2.124 * 1e9**0.447}
    words = np.geomspace(1e4, 1e6, 20_000)
    tokens = flops / 6 / (params + words * width)
    found = loss("vocabulary", values, params=params, params_vocab=words * width, tokens=tokens)
    assert words[np.argmin(found)] == pytest.approx(printed, rel=0.015)


# Losses on Stack-V2-Python, Chen et al. 2025, appendix: sizes without embeddings by P.
STREAM_SIZES = [
    [535813376, 693753856, 1088376320, 1571472384, 2774773760, 4353203200],
    [538195842, 696738818, 1092762882, 1577522690, 2784937986, 4368529922],
    [540577412, 699722756, 1097148164, 1583571460, 2795100164, 4383854084],
    [545340552, 705690632, 1105918728, 1595669000, 2815424520, 4414502408],
]
STREAM_LOSSES = [
    [1.1722, 1.1496, 1.1131, 1.0817, 1.0451, 1.0213],
    [1.1507, 1.1262, 1.0940, 1.0623, 1.0244, 1.0025],
    [1.1354, 1.1124, 1.0808, 1.0490, 1.0126, 0.9906],
    [1.1231, 1.0997, 1.0688, 1.0383, 1.0016, 0.9794],
]


def test_parallel_streams_give_the_fit_of_chen():
    runs = {
        "params": np.ravel(STREAM_SIZES).astype(float),
        "streams": np.repeat([1.0, 2.0, 4.0, 8.0], 6),
        "loss": np.ravel(STREAM_LOSSES),
    }
    law = scaling.fit(runs, form="parallel", resamples=0, starts=8)
    assert law.values["k"] == pytest.approx(0.393, abs=0.002)
    assert law.values["alpha"] == pytest.approx(0.189, abs=0.002)
    assert law.values["E"] == pytest.approx(0.691, abs=0.005)
    fitted = runs["loss"] / np.exp(law.residuals)
    spread = np.sum((runs["loss"] - runs["loss"].mean()) ** 2)
    assert 1 - np.sum((runs["loss"] - fitted) ** 2) / spread > 0.997  # printed: .998


def test_the_exponential_mixture_law_gives_the_runs_of_ye():
    """Losses on GitHub of 70M models after 30,000 steps, by GitHub's share beside Pile-CC."""
    shares, losses = np.array([0.25, 0.375, 0.625, 0.75]), [1.44434, 1.38597, 1.29360, 1.25677]
    weights = np.stack([shares, 1 - shares], axis=1)
    kept = [0, 1, 3]
    theta = EXPONENTIAL.starts(weights[kept], np.array(losses)[kept])[0]
    for _ in range(50):  # three runs determine the three parameters
        gap = EXPONENTIAL.value(theta, weights[kept]) - np.array(losses)[kept]
        theta = theta - np.linalg.solve(EXPONENTIAL.by_theta(theta, weights[kept]), gap)
    assert EXPONENTIAL.value(theta, weights)[2] == pytest.approx(losses[2], rel=2e-3)


@pytest.mark.parametrize(("size", "rate", "batch"), [(7e9, 4.2e-4, 2304), (67e9, 3.2e-4, 4608)])
def test_the_rates_and_batches_of_deepseek_are_those_of_their_law(size, rate, batch):
    """Bi et al. 2024, equation 1: .3118, which copies write as .3318, a rate of 4.5e-4."""
    flops = 6 * size * 2e12
    power = {"K": 0.3118 * 6**-0.125, "a": -0.125, "b": -0.125}
    assert loss("power_nd", power, params=size, tokens=2e12) == pytest.approx(rate, rel=0.02)
    power = {"K": 0.2920 * 6**0.3271, "a": 0.3271, "b": 0.3271}
    tokens = loss("power_nd", power, params=size, tokens=2e12)
    assert tokens == pytest.approx(0.2920 * flops**0.3271)
    assert tokens == pytest.approx(batch * 4096, rel=0.06)


@pytest.mark.parametrize(
    ("params", "tokens", "rate", "batch"),
    [
        (429260800, 8e9, 1.953e-3, 128),
        (429260800, 2.27e10, 1.953e-3, 192),
        (536872960, 5e10, 2.762e-3, 352),
        (1073741824, 5.69e10, 1.381e-3, 256),
    ],
)
def test_step_law_gives_the_best_runs_of_its_authors(params, tokens, rate, batch):
    """Li et al. 2025: 1.79 N^-.713 D^.307 and .58 D^.571 tokens, against the lowest smoothed loss
    of four of their grids, whose steps are a factor of 1.4 in the rate and up to 2 in the batch."""
    law = {"K": 1.79, "a": -0.713, "b": 0.307}
    assert loss("power_nd", law, params=params, tokens=tokens) == pytest.approx(rate, rel=0.45)
    law = {"K": 0.58, "a": 0.0, "b": 0.571}
    found = loss("power_nd", law, params=params, tokens=tokens)
    assert abs(np.log(found / (2048 * batch))) < np.log(2)


def test_the_best_sparsity_of_abnar_rises_with_size():
    """Their figure 3: of one budget, the larger a model is, the fewer of its parameters act."""
    names = ("E", "A", "B", "alpha", "beta", "K", "lambda_", "M", "delta", "gamma")
    printed = (0.94, 16612.5, 5455.67, 0.5962, 0.3954, 0.4598, -0.1666, 17.26, 0.1603, 0.1595)
    sparsity = 1 - np.geomspace(1e-3, 1, 400)
    best = []
    for params in (1e9, 3e9, 1e10, 3e10):
        columns = {"params": params, "sparsity": sparsity}
        columns["tokens"] = 1e20 / 6 / (params * (1 - sparsity))
        best.append(
            sparsity[np.argmin(loss("sparsity", dict(zip(names, printed, strict=True)), **columns))]
        )
    assert np.all(np.diff(best) > 0) and best[-1] > 0.9
