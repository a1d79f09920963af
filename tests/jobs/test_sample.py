"""job=sample from the command line: its faces, and each mistake in one sentence."""

import json

import jax
import pytest

from gptjax import models
from gptjax.convert import own_folder
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.data import DataConfig
from gptjax.main import main

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=8, num_heads=2, seq_len=32, init_scale=0.5
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    params = models.init(CONFIG, jax.random.key(0))
    own_folder.save_model(folder, CONFIG, params, KeptTokenizer(DataConfig(tokenizer="bytes")))
    return folder


def sample(model, *flags, tmp_path):
    given = [f"--config.sample.{flag}" for flag in flags]
    where = ["--config=experiments/sample.py", f"--workdir={tmp_path}/work"]
    return main(["gptjax", *where, f"--config.sample.model={model}", *given])


def test_a_prompt_streams_and_its_speed_is_told(model, tmp_path, capfd):
    assert sample(model, "prompt=def f(", "sampling.max_tokens=9", tmp_path=tmp_path) == 0
    out, err = capfd.readouterr()
    assert out.startswith("def f(") and len(out.encode()) > len("def f(\n")
    assert "9 tokens in " in err and "tokens per second" in err
    assert not (tmp_path / "work").exists()


def test_an_answer_matches_an_expression(model, tmp_path, capfd):
    pytest.importorskip("llguidance")
    flags = ["prompt=x", "sampling.regex=[0-9]{4}", "sampling.max_tokens=9"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    out, _ = capfd.readouterr()
    assert len(out.strip()) == 5 and out.strip()[1:].isdigit()
    flags[1] = "sampling.regex=a("
    assert sample(model, *flags, tmp_path=tmp_path) == 2
    assert "sampling.regex is not offered: unclosed group" in capfd.readouterr().err


def test_a_file_of_prompts_becomes_jsonl(model, tmp_path, capfd):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "id": 7}\n\n{"tokens": [104, 105]}\n')
    flags = [f"prompts={tmp_path}/in.jsonl", f"output={tmp_path}/out.jsonl", "answers=2"]
    flags += ["sampling.max_tokens=5", "sampling.logprobs=3", "batch=3", "preset=greedy"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("id") for row in rows] == [7, 7, None, None]
    assert rows[0]["tokens"] == rows[1]["tokens"] and rows[0]["finish"] == "length"
    assert len(rows[2]["logprobs"]) == 5 and len(rows[2]["top"][0]) == 3
    assert rows[2]["top"][4][0] == [rows[2]["tokens"][4], rows[2]["logprobs"][4]]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["prompt=a", "prompts=b"], "are both given; leave one out"),
        (["prompts=nowhere.txt"], "sample.prompts=nowhere.txt is no file"),
        (["output=no/such/folder.jsonl"], "is in no folder"),
        (["prompt=" + "x" * 40], "a prompt has 40 tokens, and the context of tiny is 32"),
        (["sampling.temperature=-1"], "sample.sampling.temperature=-1.0 must be at least 0"),
        (["preset=gpt9"], "sample.preset='gpt9'"),
    ],
)
def test_mistakes_are_told(model, flags, words, tmp_path, capfd):
    assert sample(model, *flags, tmp_path=tmp_path) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"promt": "a"}', "did you mean prompt?"),
        ("{", "is not JSON"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "does not say how it writes"),
        ('{"tokens": [999]}', "a prompt has the token 999"),
        ('{"prompt": ""}', "a prompt is empty"),
    ],
)
def test_a_wrong_line_is_told(model, line, words, tmp_path, capfd):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    assert sample(model, f"prompts={tmp_path}/in.jsonl", tmp_path=tmp_path) == 2
    assert words in capfd.readouterr().err


def test_a_folder_without_a_model_is_told(tmp_path, capfd):
    assert sample(tmp_path, tmp_path=tmp_path) == 2
    assert "holds no model" in capfd.readouterr().err


def test_without_a_model_a_small_one_is_trained(tmp_path, capfd):
    """The config's own sections, so that the test's is smaller still; and only once."""
    flags = ["model.depth=1", "model.width=8", "model.num_heads=2", "model.seq_len=16"]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_text("print('hello')\n" * 300)
    flags += ["train.tokens=256", "sample.sampling.max_tokens=4", "data.source=text"]
    flags += [f"data.path={tmp_path}/text", f"data.cache_dir={tmp_path}/cache"]
    flags += ["data.heldout_fraction=0.4"]
    where = ["gptjax", "--config=experiments/sample.py", f"--workdir={tmp_path}"]
    command = [*where, *(f"--config.{flag}" for flag in flags)]
    assert main(command) == 0
    assert "names no model: training one of " in capfd.readouterr().out
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "training" not in out and "tokens per second" in err
