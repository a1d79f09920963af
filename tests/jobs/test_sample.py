"""job=sample from the command line: its faces, and each mistake in one sentence."""

import json

import compiled_model
import numpy as np
import pytest
import tokenizers as hf

from gptjax import infer, models
from gptjax.convert import own_folder, peft
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.data import DataConfig, chat
from gptjax.data.tokenizers import bpe
from gptjax.infer.members import COMBINATIONS
from gptjax.infer.prompts import turn_ends
from gptjax.infer.searches import SEARCHES
from gptjax.main import main

SIZES = {"vocab_size": 257, "depth": 1, "width": 8, "num_heads": 2, "init_scale": 0.5}
CONFIG = models.ModelConfig(
    **SIZES, seq_len=32, norm="rmsnorm", positions="rotary", mlp="relu", use_bias=False
)
"""A small model of the shipped config's kind."""
TALK = "hello to them. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    params = compiled_model.drawn(CONFIG)
    own_folder.save_model(folder, CONFIG, params, KeptTokenizer(DataConfig(tokenizer="bytes")))
    return folder


def sample(model, *flags, tmp_path):
    given = [f"--config.sample.{flag}" for flag in flags]
    where = ["--config=experiments/sample.py", f"--workdir={tmp_path}/work"]
    return main(["gptjax", *where, f"--config.sample.model={model}", *given])


def test_a_prompt_streams_and_its_speed_is_told(model, tmp_path, capfd):
    flags = ["prompt=def f(", "sampling.max_tokens=9", "sampling.logprobs=3"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    out, err = capfd.readouterr()
    assert out.startswith("def f(") and len(out.encode()) > len("def f(\n")
    assert "9 tokens in " in err and "tokens per second" in err
    assert not (tmp_path / "work").exists()


def test_lines_choose_adapters_by_name(model, tmp_path, capfd):
    pair = np.ones((1, 32, 1)), np.linspace(-9, 9, 8).reshape(1, 1, 8) ** 3
    tuned = peft.Adapter(1, 1.0, {"blocks/mlp/down": pair})
    peft.write_adapter(tmp_path / "tuned", CONFIG, tuned)
    lines = [{"prompt": "a"}, {"prompt": "a", "adapter": ""}, {"prompt": "a", "adapter": "mine"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [f"prompts={tmp_path}/in.jsonl", f"output={tmp_path}/out.jsonl", "preset=greedy"]
    flags += [f"adapters=mine={tmp_path}/tuned", "sampling.max_tokens=5"]
    assert sample(model, *flags, "adapter=mine", tmp_path=tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["tokens"] == rows[2]["tokens"] != rows[1]["tokens"]
    assert sample(model, *flags, "adapter=its", tmp_path=tmp_path) == 2
    assert "sample.adapter='its' is none of sample.adapters" in capfd.readouterr().err
    assert sample(model, "adapters=mine", tmp_path=tmp_path) == 2
    assert "sample.adapters='mine' is no adapter by name" in capfd.readouterr().err


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


def talker(place, change=lambda params: params):
    """(The folder of a model whose tokenizer has all chat formats' tokens, the tokenizer)."""
    folder, file = place / "talker", place / "tokenizer.json"
    library = hf.Tokenizer.from_str(bpe.train([b"You said hello to them. " * 40], 270).decode())
    names = dict.fromkeys(name for form in chat.FORMATS.values() for name in form.special)
    library.add_special_tokens([hf.AddedToken(n, special=True, normalized=False) for n in names])
    file.write_text(library.to_str())
    config = models.ModelConfig(**SIZES | {"vocab_size": library.get_vocab_size()}, seq_len=128)
    settings = DataConfig(
        tokenizer="bpe", tokenizer_path=str(file), end_of_document="<|endoftext|>", lossy=True
    )
    params = change(compiled_model.drawn(config))
    own_folder.save_model(folder, config, params, KeptTokenizer(settings, file))
    return folder, library


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    return talker(tmp_path_factory.mktemp("chat"))


@pytest.mark.parametrize("form", chat.FORMATS)
def test_a_conversation_in_every_format(form, chatting, tmp_path):
    folder, library = chatting
    messages = [{"role": "user", "content": TALK}]
    (tmp_path / "in.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    flags = [f"prompts={tmp_path}/in.jsonl", f"output={tmp_path}/out.jsonl", f"chat={form}"]
    flags += ["sampling.max_tokens=1", "preset=greedy"]
    assert sample(folder, *flags, tmp_path=tmp_path) == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["messages"] == messages and len(row["tokens"]) == 1
    loaded = infer.load(folder)
    ids = chat.encode_chat(loaded.tokenizer, messages, form, prompt=True).ids.tolist()
    greedy = infer.sampling("greedy", max_tokens=1, stop_ids=turn_ends(loaded, form))
    (answer,) = infer.generate(loaded, [ids], greedy)
    assert row["tokens"] == list(answer.tokens)
    assert row["logprobs"] == [round(x, 6) for x in answer.logprobs]
    text = library.decode(ids, skip_special_tokens=False)
    assert "hello" in text and any(name in text for name in chat.FORMATS[form].special)


SAME = {
    "sample": ["sampling.logprobs=2"],
    "beam": ["search.beams=3"],
    "speculative": ["sampling.logprobs=2", "search.drafts=2"],
}
"""Settings under which the tests of searches share their programs."""


def test_an_answer_ends_with_its_turn(chatting, tmp_path):
    """In every search; the model makes the end of a turn the likeliest token."""
    folder, library = chatting
    messages = [{"role": "user", "content": TALK}]
    (tmp_path / "in.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    loaded = infer.load(folder)
    (end,) = turn_ends(loaded, "chatml")
    assert library.id_to_token(end) == "<|im_end|>" and end not in loaded.end_ids

    def closing(params):
        """The end of a turn is louder than other tokens, and the final norm points to it."""
        tokens = params["embed"]["tokens"].copy()
        tokens[end] *= 9.0
        embed = params["embed"] | {"tokens": tokens}
        norm = params["final_norm"] | {"bias": 30.0 * tokens[end]}
        return params | {"embed": embed, "final_norm": norm}

    folder, _ = talker(tmp_path, closing)
    flags = [f"prompts={tmp_path}/in.jsonl", f"output={tmp_path}/out.jsonl", "chat=chatml"]
    flags += ["sampling.max_tokens=9", "preset=greedy"]
    finishes = {}
    for kind in SEARCHES:
        assert sample(folder, *flags, f"search.kind={kind}", *SAME[kind], tmp_path=tmp_path) == 0
        (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
        finishes[kind] = (row["finish"], row["tokens"][-1])
    assert finishes == dict.fromkeys(SEARCHES, ("stop", end))


@pytest.mark.parametrize("preset", ["", *infer.PRESETS])
def test_every_preset(preset, model, tmp_path, capfd):
    flags = [f"preset={preset}", "prompt=ab", "sampling.max_tokens=3", "sampling.seed=1"]
    flags += ["sampling.logprobs=3"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    assert "3 tokens in " in capfd.readouterr().err


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the same vocabulary."""
    folder = tmp_path_factory.mktemp("sample") / "other"
    params = compiled_model.drawn(CONFIG, 1)
    own_folder.save_model(folder, CONFIG, params, KeptTokenizer(DataConfig(tokenizer="bytes")))
    return folder


def first_row(tmp_path):
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    return row


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_members_answer_together(combine, model, other, tmp_path):
    flags = ["prompt=ab", "sampling.max_tokens=6", "preset=greedy", f"output={tmp_path}/out.jsonl"]
    flags += [f"members.folders={other}", f"members.combine={combine}", "members.alpha=0.3"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    how = {"mixture": infer.Mixture((1.0, 1.0)), "contrast": infer.Contrast(0.3)}[combine]
    both = infer.joined([infer.load(model), infer.load(other)], how)
    (answer,) = infer.generate(both, ["ab"], infer.sampling("greedy", max_tokens=6))
    assert first_row(tmp_path)["tokens"] == list(answer.tokens)


def test_searches_are_those_of_python(chatting, tmp_path, capfd):
    model, _ = chatting
    loaded = infer.load(model)
    other = tmp_path / "other"
    params = compiled_model.drawn(loaded.config, 1)
    own_folder.save_model(other, loaded.config, params, KeptTokenizer(DataConfig()))
    flags = [f"prompt={TALK}", "sampling.max_tokens=6", "sampling.stop_ids=3,", "preset=greedy"]
    flags += [f"output={tmp_path}/out.jsonl"]
    beam = ["search.kind=beam", "search.beams=3", "search.length_penalty=0.5"]
    assert sample(model, *flags, *beam, "search.early_stopping=True", tmp_path=tmp_path) == 0
    ((best, *_),) = infer.beam_search(loaded, [TALK], infer.BeamSearch(3, 6, 0.5, True, (3,)))
    assert first_row(tmp_path)["tokens"] == list(best.tokens)
    greedily = infer.sampling("greedy", max_tokens=6, stop_ids=(3,), logprobs=2)
    (greedy,) = infer.generate(loaded, [TALK], greedily)
    for draft in ("", str(other)):
        drafts = ["search.kind=speculative", f"search.draft={draft}", "search.drafts=2"]
        assert sample(model, *flags, *drafts, "sampling.logprobs=2", tmp_path=tmp_path) == 0
        row = first_row(tmp_path)
        assert row["tokens"] == list(greedy.tokens)
        assert [place[0][0] for place in row["top"]] == row["tokens"]
        assert "of the drafts were accepted" in capfd.readouterr().err


def test_a_text_longer_than_the_context(model, tmp_path, capfd):
    flags = ["prompt=ab", "sampling.max_tokens=50", "sinks=2", "recent=20", "preset=greedy"]
    assert sample(model, *flags, tmp_path=tmp_path) == 0
    assert "50 tokens in " in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["prompt=a", "prompts=b"], "are both given; leave one out"),
        (["prompts=nowhere.txt"], "sample.prompts=nowhere.txt is no file"),
        (["model=nowhere", "adapter=its"], "sample.adapter='its' is none of sample.adapters"),
        (["output=no/such/folder.jsonl"], "is in no folder"),
        (["prompt=" + "x" * 40], "a prompt has 40 tokens, and the context of tiny is 32"),
        (["sampling.temperature=-1"], "sample.sampling.temperature=-1.0 must be at least 0"),
        (["preset=gpt9"], "sample.preset='gpt9'"),
        (["prompt=a", "sampling.stop=('',)"], "sampling.stop=('',) has an empty text"),
        (["prompt=a", "answers=1000000000000"], "must be at most 1000000"),
        (["prompt=a", "search.kind=beam"], "sampling.temperature=0.7 is not followed by a beam"),
        (["prompt=a", "members.folders=nowhere"], "nowhere"),
        (
            ["prompt=a", "members.folders=a,b", "members.combine=contrast"],
            "takes one amateur, and members.folders names 2",
        ),
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
    """Before anything is answered."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' + line + "\n")
    assert sample(model, f"prompts={tmp_path}/in.jsonl", "batch=1", tmp_path=tmp_path) == 2
    out, err = capfd.readouterr()
    assert out == "" and words in err and "in.jsonl line 2" in err


def test_a_folder_without_a_model_is_told(tmp_path, capfd):
    assert sample(tmp_path, tmp_path=tmp_path) == 2
    assert "holds no model" in capfd.readouterr().err


def test_without_a_model_a_small_one_is_trained(tmp_path, capfd):
    """The config's own sections, so that the test's is smaller still; and only once."""
    flags = ["model.depth=1", "model.width=8", "model.num_heads=2", "model.seq_len=32"]
    flags += ["model.init_scale=0.5", "sample.sampling.logprobs=3"]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_text("print('hello')\n" * 300)
    flags += ["train.tokens=256", "sample.sampling.max_tokens=4", "data.source=text"]
    flags += [f"data.path={tmp_path}/text", f"data.cache_dir={tmp_path}/cache"]
    flags += ["data.heldout_fraction=0.4"]
    where = ["gptjax", "--config=experiments/sample.py", f"--workdir={tmp_path}"]
    command = [*where, *(f"--config.{flag}" for flag in flags)]
    assert main(command) == 0
    assert "no model is named: training one of " in capfd.readouterr().out
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "training" not in out and "tokens per second" in err
