"""job=finetune through `main`: what is learned, what keeps its bits, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import CONFIG, SPEC, write
from aligned import finetune as command

from gptjax import convert, models
from gptjax.align import examples, packing
from gptjax.align.encoding import Codec, Encoded
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.session import Task, TuningSession
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.train import Hooks, Interrupted, TrainConfig, next_token, run


def test_only_trained_leaves_change(deep, pairs, tmp_path, capsys):
    flags = ("--config.optim.frozen=embed", "--config.optim.multipliers=blocks=0 1")
    assert command(deep, pairs, tmp_path / "run", *flags) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    losses = [line["train/loss_nats"] for line in found if "train/loss_nats" in line]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.1
    before, after = (convert.load(place).params for place in (deep, tmp_path / "run"))
    np.testing.assert_array_equal(before["embed"]["tokens"], after["embed"]["tokens"])
    up = [params["blocks"]["mlp"]["up"] for params in (before, after)]
    np.testing.assert_array_equal(up[0][0], up[1][0])
    assert np.any(up[0][1] != up[1][1])
    assert command(deep, pairs, tmp_path / "run", *flags, "--config.finetune.packing=false") == 2
    assert "other settings of finetune" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(base, tmp_path):
    texts = [Encoded(np.arange(i, i + 9, dtype=np.int32), np.arange(9) > 4) for i in range(12)]
    feed = ExampleFeed(packing.one_by_one(texts, 16), batch_of)
    task = Task(convert.load(base).params, feed, feed, next_token, {})
    session = TuningSession(task, TrainConfig(evaluations=4))
    whole = run(session, SPEC, tmp_path / "whole", Hooks())
    seen = []
    with pytest.raises(Interrupted):
        run(session, SPEC, tmp_path / "cut", Hooks(seen.append, stop=lambda: len(seen) == 2))
    assert 0 < seen[-1].step < SPEC.steps
    rest = run(session, SPEC, tmp_path / "cut", Hooks())
    assert 0 < rest.updates < SPEC.steps and rest.params_digest == whole.params_digest


def test_packed_examples_do_not_see_each_other(base):
    """Each example's loss in a packed row is that which it has alone."""
    params = jax.tree.map(lambda x: 2 * np.asarray(x), convert.load(base).params)
    params = jax.device_put(params)  # louder, so that tokens see much of each other
    codec = Codec(ByteTokenizer(), "", 32)
    asked = [examples.Example("here", f"{i}" * i, (f"answer{i}",)) for i in range(1, 4)]
    texts = [text for item in codec.all(asked) for text in item.texts]
    objective = next_token(SPEC)
    alone = batch_of(packing.one_by_one(texts, 32))
    together = batch_of(packing.packed(texts, 32))
    assert together.inputs_BT.shape[0] < len(texts)
    for batch in (alone, together):
        assert float(objective.count(batch)) == sum(text.scored.sum() for text in texts)
    loss = jax.jit(lambda batch: objective(params, batch)[0])
    losses = [float(loss(batch)) for batch in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    mixed = dataclasses.replace(together, segment_ids_BT=None)
    assert float(loss(mixed)) != pytest.approx(losses[0], rel=1e-4)


def test_the_loss_is_that_of_the_answer_by_hand(base):
    """−Σ log P(answer, end | prompt), the prompt's tokens left out."""
    params = jax.tree.map(jnp.asarray, convert.load(base).params)
    ids = np.array([*b"2+2=", *b"4", 256], np.int32)
    rows = packing.packed([Encoded(ids, np.arange(6) >= 4)], 16)
    logits_TV = jax.jit(lambda ids: models.apply(CONFIG, params, ids))(ids[None, :-1])[0]
    by_hand = -sum(jax.nn.log_softmax(logits_TV[t])[ids[t + 1]] for t in (3, 4))
    objective = next_token(SPEC)
    total, count = jax.jit(lambda batch: objective(params, batch)[:2])(batch_of(rows))
    assert float(total) == pytest.approx(float(by_hand), rel=1e-5) and float(count) == 2


@pytest.mark.parametrize(
    ("lines", "flags", "said"),
    [
        ([{"prompt": "a"}], (), "line 1 has no response"),
        (
            [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": 3}],
            (),
            "line 2 has a int",
        ),
        ([{"prompt": "a", "response": ""}], (), "line 1 has an empty response"),
        ([{"messages": [{"role": "user"}]}], (), "line 1 has messages that are no list"),
        ([{"messages": [{"role": "user", "content": "a"}]}], (), "no message of the assistant"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], (), "set finetune.method=dpo"),
        (
            [{"messages": [{"role": "assistant", "content": str(i)}]} for i in range(20)],
            (),
            "names no chat format; set finetune.chat to one of",
        ),
        (
            [{"messages": [{"role": "assistant", "content": str(i)}]} for i in range(20)],
            ("--config.finetune.chat=chatml",),
            "has no special tokens",
        ),
        (
            [{"prompt": str(i), "response": "b" * 40} for i in range(20)],
            (),
            "set finetune.drop_long=true",
        ),
        (
            [{"prompt": str(i), "response": "b" * 40} for i in range(20)],
            ("--config.finetune.drop_long=true",),
            "none of the",
        ),
        ([{"prompt": "a", "response": "b"}], ("--config.finetune.row_tokens=64",), "is longer"),
        ([{"prompt": "a", "response": "b"}], (), "data.heldout_fraction"),
        ([{"prompt": "a", "response": "b"}], ("--config.model_folder=",), "names no model to tune"),
        ([{"prompt": "a", "response": "b"}], ("--config.data.path=",), "names no examples"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(base, tmp_path, capsys, lines, flags, said):
    path = write(tmp_path / "x.jsonl", lines)
    assert command(base, path, tmp_path / "run", *flags) == 2
    assert said in capsys.readouterr().err


def test_a_published_models_examples_begin_as_its_prompts_do():
    """With the token that its tokenizer puts before a text, which generation gives it too."""
    codec = Codec(ByteTokenizer(), "", 32, begins=(7,))
    (whole,) = codec.all([examples.Example("here", "ab", ("c",))])[0].texts
    assert (
        whole.ids.tolist() == [7, *b"abc", 256]
        and whole.scored.tolist() == [False] * 3 + [True] * 2
    )
    assert codec.prompt("ab", "here") == [7, *b"ab"] and codec.ids("c") == [*b"c"]


def test_a_conversation_is_learned_where_the_assistant_wrote():
    tokenizer = ByteTokenizer()
    tokenizer.added = {"<|im_start|>": 257, "<|im_end|>": 258}
    tokenizer.encode_text = lambda text: list(text.encode())
    codec = Codec(tokenizer, "chatml", 200)
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "dd")]
    messages = tuple({"role": role, "content": text} for role, text in said)
    (whole,) = codec.all([examples.Example("here", messages)])[0].texts
    assert [chr(i) if i < 256 else i for i in whole.ids[whole.scored]] == ["b", 258, "d", "d", 258]
    (last,) = codec.all([examples.Example("here", messages[:-1], ("dd",))])[0].texts
    np.testing.assert_array_equal(last.ids, whole.ids)
    assert last.scored.sum() == 3


def test_a_prompt_is_on_one_side():
    asked = [examples.Example("here", str(i % 40), (str(i),)) for i in range(200)]
    train, heldout = examples.split(asked, 0.3, "data.path")
    assert len(train) + len(heldout) == 200
    assert not {one.prompt for one in train} & {one.prompt for one in heldout}


def test_no_example_is_lost_in_packing():
    texts = [Encoded(np.full(n, n, np.int32), np.ones(n, bool)) for n in (2, 9, 5, 5, 3, 8)]
    rows = packing.packed(texts, 8)
    assert sorted(rows.inputs_NT[rows.segments_NT > 0].tolist()) == sorted(
        n for text in texts for n in text.ids[:-1].tolist()
    )
    assert int(rows.scored_NT.sum()) == sum(len(t.ids) - 1 for t in texts)
