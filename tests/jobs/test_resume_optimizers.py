"""Every optimizer through the train job, stopped twice on the way: the same bits as without.

Two trainings for each of nine settings take minutes on two cores: pytest -m slow tests/jobs
"""

import contextlib
import json

import pytest

from gptjax.main import main
from gptjax.train import EXIT_RESUMABLE

CHOICES = {
    "adamw": {},
    "adam8bit": {"name": "adam8bit", "state_rounding": "stochastic"},
    "muon": {"name": "muon"},
    "lion": {"name": "lion", "learning_rate": 1e-3},
    "adafactor": {"name": "adafactor", "learning_rate": 1e-1},
    "schedule_free": {"name": "schedule_free", "schedule": "constant"},
    "sgd": {"name": "sgd"},
    "sam": {"sam_rho": 0.1, "sam_adaptive": True},
    "wrapped": {"ema_decay": 0.9, "skip_not_finite": 2, "adversarial_epsilon": 0.1},
}


class StopAt:
    """Says stop at the given questions."""

    def __init__(self, *questions: int) -> None:
        self.asked, self.questions = 0, questions

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked in self.questions


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_a_stopped_job_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(" ".join(f"word{(i * k) % 17}" for k in range(60)))
    settings = {
        "data.source": "text",
        "data.path": text,
        "data.cache_dir": tmp_path / "cache",
        "data.heldout_fraction": 0.2,
        "model.depth": 2,
        "model.width": 32,
        "model.num_heads": 2,
        "model.seq_len": 16,
        "model.vocab_size": 0,
        "train.steps": 40,
        "train.tokens": 0,
        "train.batch_size": 4,
        "train.evaluations": 4,
        "optim.learning_rate": 1e-2,
        "train.tensorboard": False,
    }
    settings |= {f"optim.{key}": value for key, value in CHOICES[name].items()}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]

    def job(folder: str, *stops: int) -> int:
        flag = StopAt(*stops)
        monkeypatch.setattr(
            "gptjax.jobs.train.stop_on_signal", lambda: contextlib.nullcontext(flag)
        )
        command = ["gptjax", "--config=experiments/train_gpt2_small.py", *flags]
        return main([*command, f"--workdir={tmp_path / folder}"])

    assert job("straight") == 0
    assert job("stopped", 2) == EXIT_RESUMABLE
    assert job("stopped", 3) == EXIT_RESUMABLE
    assert job("stopped") == 0
    results = [
        json.loads((tmp_path / folder / "result.json").read_text())
        for folder in ("straight", "stopped")
    ]
    assert results[0] == results[1]
