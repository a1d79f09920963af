"""Files of ranks against the tokenizer that made them and `tiktoken`."""

import base64
import random

import pytest
import tokenizers as hf

from gptjax.data.tokenizers import bpe
from gptjax.data.tokenizers import tiktoken as ranks
from gptjax.errors import UserError

TEXT = "The law's end: it isn't 1234567 that we'd count, naïve Ω 漢字 \U0001f600!\n\n  Twice  so.\n"


def bytes_ranked(numbers):
    """A file that ranks every byte by these numbers."""
    return b"".join(
        b"%s %d\n" % (base64.b64encode(bytes([byte])), number)
        for byte, number in enumerate(numbers)
    )


def trained():
    """A BPE of 400 ids, its tokens' bytes in their order, and the same as a file of ranks."""
    content = bpe.train([TEXT.encode() * 3, bytes(range(32, 127)) * 2], 400)
    tokenizer = hf.Tokenizer.from_str(content.decode())
    letters = {letter: byte for byte, letter in enumerate(ranks._letters())}
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
    ours = ranks.read(content, "here", "gpt2")
    assert ours.end_of_document == len(tokens) == ours.vocab_size - 1
    for text in (TEXT, *unicode_texts()):
        (ids,) = ours.encode([text.encode()])
        wanted = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids.tolist() == wanted
        assert ours.decode(ids) == text.encode()


@pytest.mark.parametrize("pattern", ranks.PATTERNS)
def test_ranks_equal_tiktoken(pattern):
    tiktoken = pytest.importorskip("tiktoken")
    _, tokens, content = trained()
    theirs = tiktoken.Encoding(
        "test",
        pat_str=ranks.PATTERNS[pattern],
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={},
    )
    ours = ranks.read(content, "here", pattern)
    for text in (TEXT, *unicode_texts()):
        (ids,) = ours.encode([text.encode()])
        assert ids.tolist() == theirs.encode(text)


def test_ranks_may_leave_numbers_out():
    """As p50k_base, where 50256 is a special token: the number stays unused."""
    _, tokens, _ = trained()
    numbers = [i + (i >= 300) for i in range(len(tokens))]
    pairs = zip(tokens, numbers, strict=True)
    lines = [b"%s %d" % (base64.b64encode(token), number) for token, number in pairs]
    ours = ranks.read(b"\n".join(lines), "here", "gpt2")
    whole = ranks.read(trained()[2], "here", "gpt2")
    assert ours.end_of_document == len(tokens) + 1 == ours.vocab_size - 1
    for text in (TEXT, *unicode_texts(), "<|endoftext|>"):
        ids, same = next(ours.encode([text.encode()])), next(whole.encode([text.encode()]))
        assert ids.tolist() == [i + (i >= 300) for i in same.tolist()]
        assert ours.decode(ids) == text.encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"YQ== x", "is not a file of ranks"),
        (b"YQ== 0", "does not rank every byte"),
        (bytes_ranked(range(255, -1, -1)).replace(b" 7\n", b" 8\n"), "gives two tokens one rank"),
        (bytes_ranked(range(-1, 255)), "a rank that is negative"),
        (bytes_ranked(range(256)) + b"YWI= 999999999999", "above 16777216"),
        (b"??? 1", "is not a file of ranks"),
    ],
)
def test_other_files_are_refused(content, sentence):
    with pytest.raises(UserError, match=sentence):
        ranks.read(content, "here", "gpt2")
