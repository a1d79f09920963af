"""Files of ranks against the tokenizer that made them and `tiktoken`; chats none can forge."""

import base64
import random
import re

import numpy as np
import pytest
import tokenizers as hf

from gptjax.data import bpe, chat, tiktoken_ranks
from gptjax.errors import UserError

TEXT = "The law's end: it isn't 1234567 that we'd count, naïve Ω 漢字 \U0001f600!\n\n  Twice  so.\n"


def trained(special=()):
    """A BPE of 400 ids, its tokens' bytes in their order, and the same as a file of ranks."""
    content = bpe.train([TEXT.encode() * 3, bytes(range(32, 127)) * 2], 400)
    tokenizer = hf.Tokenizer.from_str(content.decode())
    tokenizer.add_special_tokens(list(special))
    letters = {letter: byte for byte, letter in enumerate(tiktoken_ranks._letters())}
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    tokens = [bytes(letters[c] for c in k) for k in sorted(vocab, key=vocab.__getitem__)]
    lines = [b"%s %d" % (base64.b64encode(token), i) for i, token in enumerate(tokens)]
    return tokenizer, tokens, b"\n".join(lines)


def unicode_texts():
    """Random text from every plane and every kind of odd end."""
    rng = random.Random(0)
    for plane in range(17):
        points = [rng.randrange(plane << 16, (plane + 1) << 16) for _ in range(60)]
        yield "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    for _ in range(60):
        pool = "ab Z'\n\t\r  12é漢\U0001f600<|>sdtm"
        yield "".join(rng.choices(pool, k=rng.randrange(40)))


def test_ranks_give_the_ids_of_the_tokenizer_that_made_them():
    tokenizer, tokens, content = trained()
    ours = tiktoken_ranks.read(content, "here", "gpt2")
    assert ours.end_of_document == len(tokens) == ours.vocab_size - 1
    for text in (TEXT, *unicode_texts()):
        (ids,) = ours.encode([text.encode()])
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids.tolist() == wanted
        assert ours.decode(ids) == text.encode()


@pytest.mark.parametrize("pattern", tiktoken_ranks.PATTERNS)
def test_ranks_equal_tiktoken(pattern):
    tiktoken = pytest.importorskip("tiktoken")
    _, tokens, content = trained()
    theirs = tiktoken.Encoding(
        "test",
        pat_str=tiktoken_ranks.PATTERNS[pattern],
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={},
    )
    ours = tiktoken_ranks.read(content, "here", pattern)
    for text in (TEXT, *unicode_texts()):
        (ids,) = ours.encode([text.encode()])
        assert ids.tolist() == theirs.encode(text)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"YQ== x", "is not a file of ranks"), (b"YQ== 0", "does not rank every byte"),
     (b"??? 1", "is not a file of ranks")],
)  # fmt: skip
def test_other_files_are_refused(content, sentence):
    with pytest.raises(UserError, match=sentence):
        tiktoken_ranks.read(content, "here", "gpt2")


SPECIAL = (
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the law"},
    {"role": "assistant", "content": "It isn't."},
]
WRITTEN = {
    "roles": "<|system|>\nBe brief.<|end|>\n<|user|>\nthe law<|end|>\n"
    "<|assistant|>\nIt isn't.<|end|>\n<|assistant|>\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe law<|im_end|>\n"
    "<|im_start|>assistant\nIt isn't.<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nthe law<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nIt isn't.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("form", chat.FORMATS)
def test_chats_are_written_as_their_families_write_them(form):
    library, _, _ = trained(SPECIAL)
    content = library.to_str().encode()
    ours = bpe.read(content, "here")
    got = chat.encode_chat(ours, CHAT, form, prompt=True)
    # The library, where it is let, reads the special tokens out of the written form.
    free = hf.Tokenizer.from_str(content.decode())
    pieces = re.split(r"(<\|\w+\|>)", WRITTEN[form])
    wanted = [i for p in pieces if p for i in free.encode(p, add_special_tokens=False).ids]
    assert ours.decode(got.ids) == WRITTEN[form].encode()
    special = set(ours.special.values())
    assert [i for i in got.ids.tolist() if i in special] == [i for i in wanted if i in special]
    end = got.ids[got.assistant]
    assert ours.decode(end).startswith(b"It isn't.<|e" if form != "chatml" else b"It isn't.<|i")


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
@pytest.mark.parametrize("form", chat.FORMATS)
def test_chats_equal_the_templates_of_transformers(form, prompt):
    transformers = pytest.importorskip("transformers")
    library, _, _ = trained(SPECIAL)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, chat_template=TEMPLATES[form]
    )
    content = library.to_str().encode()
    messages = [*CHAT, {"role": "user", "content": "  And\nthen? "}]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    ours = bpe.read(content, "here")
    got = chat.encode_chat(ours, messages, form, prompt=prompt)
    assert ours.decode(got.ids) == text.encode()
    special = set(ours.special.values())
    wanted = theirs(text, add_special_tokens=False)["input_ids"]
    # Plain text between special tokens is cut where a message begins, so ids may differ there.
    assert [i for i in got.ids.tolist() if i in special] == [i for i in wanted if i in special]


@pytest.mark.parametrize("form", chat.FORMATS)
def test_no_message_can_write_a_special_token(form):
    library, _, _ = trained(SPECIAL)
    ours = bpe.read(library.to_str().encode(), "here")
    special = sorted(ours.special.values())
    honest = chat.encode_chat(ours, [{"role": "user", "content": "x"}], form)
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choices([*SPECIAL, "<|", "|>", "end", "\n", " "], k=6))
        forged = chat.encode_chat(ours, [{"role": "user", "content": f"x{text}x"}], form)
        count = np.isin(forged.ids, special).sum()
        assert count == np.isin(honest.ids, special).sum()
        assert ours.decode(forged.ids).decode().count(f"x{text}x") == 1
        assert not forged.assistant.any()


def test_what_a_chat_needs_is_told():
    library, _, _ = trained(("<|user|>",))
    ours = bpe.read(library.to_str().encode(), "here")
    for messages, form, sentence in (
        ([], "rolls", "did you mean roles"),
        ([{"role": "usr", "content": ""}], "roles", "did you mean user"),
        ([{"role": "user", "content": ""}], "roles", r"no special token <\|end\|>"),
    ):
        with pytest.raises(UserError, match=sentence):
            chat.encode_chat(ours, messages, form)
