"""Chats: the text of published templates, ids that no message can forge, what is refused."""

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import render_chat_templates
import tokenizers as hf

from gptjax.data import chat
from gptjax.data.tokenizers import bpe, huggingface
from gptjax.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "chat_golden.json").read_text())
FORMS = tuple(chat.FORMATS)
# Conversations that a template takes and changes without a word: refused here (docs/data.md).
REFUSED = {
    "llama2": {"us", "s"},  # it drops the system's text, and so does Command R's
    "command-r": {"us"},
    "gemma2": {"us"},  # it refuses a system's turn only at the start
    "mistral": {"s"},
    "mistral-v3": {"s"},
    "deepseek-v2.5": {"us", "usa", "ss"},  # it puts the last system's text first
}
# Without a user's message at the end this template drops the system's text.
DROPPED = {"mistral-v3": {"sua", "suavb", "svb"}}
TRAINING = [b"The law's end: it isn't that we'd count\n\n<b>user assistant system</b> " * 9]


@functools.cache
def tokenizers_of(form, special=True):
    """The library's tokenizer with the tokens of a format, and ours of the same file."""
    library = hf.Tokenizer.from_str(bpe.train(TRAINING, 330).decode())
    names = [
        hf.AddedToken(n, special=special, normalized=False) for n in chat.FORMATS[form].special
    ]
    (library.add_special_tokens if special else library.add_tokens)(names)
    return library, huggingface.read_json(library.to_str().encode(), "here")


def encode(form, messages, **options):
    return chat.encode_chat(tokenizers_of(form)[1], messages, form, **options)


def written(form, ids):
    """The text of ids, special tokens as their names."""
    return tokenizers_of(form)[0].decode(ids.tolist(), skip_special_tokens=False)


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def asks_twice(form, letters):
    """Whether a prompt would ask for the assistant's message after the assistant's."""
    return chat.FORMATS[form].alternates and len(letters.removeprefix("s")) % 2 == 0


@pytest.mark.parametrize("form", GOLDEN)
def test_chats_equal_the_published_templates(form):
    """The text, and the ids that the library reads out of the text where special tokens are let."""
    compared = 0
    for key, text in GOLDEN[form].items():
        letters, prompt = key.removesuffix(">"), key.endswith(">")
        messages = render_chat_templates.messages(letters)
        refused = letters in REFUSED.get(form, ()) or (prompt and asks_twice(form, letters))
        if text is None or refused:
            with pytest.raises(UserError, match=f"format '{form}'"):
                encode(form, messages, prompt=prompt)
        elif letters not in DROPPED.get(form, ()):
            got = encode(form, messages, prompt=prompt)
            assert written(form, got.ids) == text, key
            wanted = tokenizers_of(form)[0].encode(text, add_special_tokens=False).ids
            assert got.ids.tolist() == wanted, key
            compared += 1
    assert compared >= 9


def test_the_last_users_message_has_the_systems_text():
    """Where its template drops it, as Mistral's own `mistral_common` 1.13.1 writes it for v3."""
    messages = said(("system", "Be brief."), ("user", "the law"), ("assistant", "It isn't."))
    assert written("mistral-v3", encode("mistral-v3", messages).ids) == (
        "<s>[INST] Be brief.\n\nthe law[/INST] It isn't.</s>"
    )
    messages += said(("user", "And\nthen?"), ("assistant", "So."))
    assert written("mistral-v3", encode("mistral-v3", messages).ids) == (
        "<s>[INST] the law[/INST] It isn't.</s>[INST] Be brief.\n\nAnd\nthen?[/INST] So.</s>"
    )


TEMPLATES = {  # of the published Phi-3-mini, ChatML as Qwen2.5 has it without tools, and Llama 3
    "roles": "{% for m in messages %}{% if m['role'] == 'system' %}{{'<|system|>\n' + m['content'] "
    "+ '<|end|>\n'}}{% elif m['role'] == 'user' %}{{'<|user|>\n' + m['content'] + '<|end|>\n'}}"
    "{% elif m['role'] == 'assistant' %}{{'<|assistant|>\n' + m['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "chatml": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = '<|begin_of_text|>' + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}",
}


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("form", TEMPLATES)
def test_chats_equal_the_templates_of_transformers(form, prompt):
    transformers = pytest.importorskip("transformers")
    library, _ = tokenizers_of(form)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, chat_template=TEMPLATES[form]
    )
    messages = render_chat_templates.messages("suavbuss")
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert written(form, encode(form, messages, prompt=prompt).ids) == text


def test_every_format_has_its_template():
    assert {*GOLDEN, *TEMPLATES} == {*FORMS}


def random_text(rng, form):
    """What a format is made of, whole and in parts, with ordinary words."""
    parts = [
        *chat.FORMATS[form].special,
        "<|",
        "|>",
        "<s",
        "INST] ",
        "[/",
        "end",
        "\n",
        "  ",
        "é the",
    ]
    return "".join(rng.choices(parts, k=rng.randrange(7)))


def random_chat(rng, form, turns):
    """A conversation that the format takes: a system's message or none, then user and assistant."""
    system = [("system", random_text(rng, form))] * rng.randrange(2)
    if chat.FORMATS[form].place == "nowhere":
        system = []
    roles = [("user", "assistant")[number % 2] for number in range(turns)]
    messages = said(*system, *((role, random_text(rng, form)) for role in roles))
    marks = chat.FORMATS[form].marks
    if any(mark in message["content"] for mark in marks for message in messages):
        return random_chat(rng, form, turns)
    return messages


@pytest.mark.parametrize("form", FORMS)
def test_no_message_can_write_a_special_token_or_a_mark(form):
    """Whatever its texts say, a chat has the tokens and marks of one whose texts are empty."""
    special = sorted(tokenizers_of(form)[1].added.values())
    rng = random.Random(0)
    for turns in [1, 2, 3, 4] * 12:
        messages = random_chat(rng, form, turns)
        blank = [{**message, "content": ""} for message in messages]
        got, honest = (encode(form, which) for which in (messages, blank))
        for this, other in ((got, honest), (honest, got)):
            assert this.ids[np.isin(this.ids, special)].tolist() == [
                number for number in other.ids.tolist() if number in special
            ]
        text, plain = written(form, got.ids), written(form, honest.ids)
        for mark in chat.FORMATS[form].marks:
            assert text.count(mark) == plain.count(mark)
        for message in messages:
            assert message["content"].strip() in text


@pytest.mark.parametrize("form", FORMS)
def test_what_the_assistant_wrote_and_what_asks_for_it(form):
    """Its text and what ends it; the ids of a prompt begin the conversation that comes of it."""
    rng = random.Random(1)
    ends = {"llama2": " </s>", "mistral": "</s>", "mistral-v3": "</s>", "gemma2": "<end_of_turn>"}
    end = ends.get(form) or chat.FORMATS[form].assistant[1].strip()
    space = " " if chat.FORMATS[form].prompt == "" else ""
    for turns in [2, 4] * 12:
        messages = random_chat(rng, form, turns)
        got = encode(form, messages)
        strips = "assistant" in chat.FORMATS[form].strips
        texts = [message["content"] for message in messages if message["role"] == "assistant"]
        wanted = [space + (text.strip() if strips else text) + end for text in texts]
        assert written(form, got.ids[got.assistant]) == "".join(wanted)
        assert np.diff(got.assistant.astype(int)).clip(0).sum() == turns // 2
        asked = encode(form, messages[:-1], prompt=True)
        moves = chat.FORMATS[form].place == "last"
        assert asked.ids.tolist() == got.ids[: len(asked.ids)].tolist() or moves
        assert got.assistant[len(asked.ids)] and not got.assistant[len(asked.ids) - 1]


@pytest.mark.parametrize("form", [form for form in FORMS if chat.FORMATS[form].marks])
def test_a_mark_in_a_message_is_refused(form):
    for mark in chat.FORMATS[form].marks:
        for role in ("system", "user", "assistant"):
            messages = said(("system", "a"), ("user", "b"), ("assistant", "c"))
            place = [message["role"] for message in messages].index(role)
            messages[place]["content"] += f"x{mark}y"
            with pytest.raises(UserError, match=f"message {place} of a chat .* plain text"):
                encode(form, messages)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_that_a_file_does_not_call_special_are_refused_in_text(form):
    """DeepSeek's <｜User｜>: the format has it, and a text that would become it is refused."""
    _, ours = tokenizers_of(form, special=False)
    messages = said(("user", "the law"), ("assistant", "so"))
    wanted = encode(form, messages)
    assert chat.encode_chat(ours, messages, form).ids.tolist() == wanted.ids.tolist()
    for name in set(chat.FORMATS[form].special) - {huggingface.END}:
        forged = said(("user", f"the {name} law"))
        with pytest.raises(UserError, match="does not call it special"):
            chat.encode_chat(ours, forged, form)


def test_what_a_chat_needs_is_told():
    _, ours = tokenizers_of("roles")
    user, system = said(("user", "a"), ("system", "b"))
    for messages, form, sentence in (
        ([], "rolls", "did you mean roles"),
        (said(("usr", "")), "roles", "did you mean user"),
        ([user], "llama3", r"no special token <\|begin_of_text\|>"),
        ([system, user], "gemma2", "beginning of the first user's message"),
        ([user, system], "command-r", "message 1 .* must be the first"),
        ([system, user, user], "gemma2", "no place"),
        ([system, user, user], "command-r", "message 2 .* the user's where the assistant's is due"),
        ([system], "llama2", "there is none"),
    ):
        with pytest.raises(UserError, match=sentence):
            chat.encode_chat(ours, messages, form)
    with pytest.raises(UserError, match="must follow a user's message"):
        encode("llama2", [], prompt=True)
