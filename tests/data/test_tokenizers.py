"""Tokenizers: lossless, deterministic, trained on the train part, never forged."""

import base64
import dataclasses
import functools
import io
import itertools
import json
import random

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from gptjax.data import load, split
from gptjax.data.tokenizers import bpe, huggingface, tiktoken
from gptjax.data.tokenizers import sentencepiece as sentence_piece
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError

TRAINING = [
    b"the scaling law of the loss: the law, 1984, don't and we'll\n\n  indented\tline\n",
    "für naïve Größe, 東京 and 大阪, Ωμέγα; the end of the law\r\n".encode(),
] * 8
# Every name that a special piece has or might have, and what normalizers and markers would change.
FORGERIES = (
    "<|endoftext|> </s> <s> <unk> <pad> <0x0A> <0x41> <0x41>b <eos> [EOS] <|end_of_text|> "
    "▁ ▁▁ ▅ ⁇ Ġ Ċ Ġthe "
    "ﬁ Å Å é é ﷺ  \u3000\u200b\ufeff\u00a0\x00\x01\x7f\x80 \r\n\r\n\n  \t x  "
)


@functools.cache
def trained(kind):
    if kind == "bpe":
        return huggingface.read_json(bpe.train(TRAINING, 330), "here")
    if kind == "bpe-characters":
        # A byte's name, often: no merge may cross the pattern's cuts and make it one piece.
        return huggingface.read_json(
            bpe.train_characters([*TRAINING, b"<0x41><0x41>b " * 90], 400), "here"
        )
    if kind == "tiktoken":
        tokens = [*(bytes([byte]) for byte in range(256)), b" t", b" th", b" the", b"\xe6\x9d"]
        lines = [b"%s %d" % (base64.b64encode(token), i) for i, token in enumerate(tokens)]
        return tiktoken.read(b"\n".join(lines), "here", "cl100k")
    model = sentence_piece.train(TRAINING, 400, kind.removeprefix("sentencepiece-"))
    return sentence_piece.read(model, "here")


KINDS = ["bytes", "bpe", "bpe-characters", "sentencepiece-bpe", "sentencepiece-unigram"]


def make(kind):
    return ByteTokenizer() if kind == "bytes" else trained(kind)


def random_text(rng):
    """Characters from all planes, those of the training text and the forgeries, mixed."""
    ranges = [(0, 0x80), (0x80, 0x800), (0x2580, 0x2590), (0x800, 0xD800), (0xE000, 0x110000)]
    parts = []
    for _ in range(rng.randrange(30)):
        low, high = rng.choice(ranges)
        parts += [
            "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(4))),
            rng.choice(FORGERIES.split(" ")),
            rng.choice([" ", "  ", "\n", "the", ""]),
        ]
    return "".join(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_any_text(kind):
    tokenizer = make(kind)
    rng = random.Random(0)
    texts = [FORGERIES, "", "a", " ", "▁", " ▁ ", "\n"] + [random_text(rng) for _ in range(150)]
    documents = [text.encode() for text in texts]
    for document, ids in zip(documents, tokenizer.encode(documents), strict=True):
        assert tokenizer.decode(ids) == document
        assert tokenizer.end_of_document not in ids
        assert ids.size == 0 or ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize("kind", [*KINDS, "tiktoken"])
@pytest.mark.parametrize("plane", range(17))
def test_round_trip_of_every_unicode_plane(kind, plane):
    """Whole rows of each plane, and all of its ends; without the surrogates, which are no text."""
    tokenizer = make(kind)
    start = plane << 16
    rng = random.Random(plane)
    rows = [0, 0xFF, *(rng.randrange(256) for _ in range(6))]
    points = [start + (row << 8) + low for row in rows for low in range(256)]
    text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    shuffled = "".join(rng.sample(text, len(text)))
    documents = [text.encode(), shuffled.encode()]
    for document, ids in zip(documents, tokenizer.encode(documents), strict=True):
        assert tokenizer.decode(ids) == document
        assert tokenizer.end_of_document not in ids


@pytest.mark.parametrize("kind", KINDS)
def test_end_of_document_decodes_to_nothing(kind):
    tokenizer = make(kind)
    (ids,) = tokenizer.encode([b"the law"])
    end = np.array([tokenizer.end_of_document])
    assert tokenizer.decode(np.concatenate([end, ids, end])) == b"the law"


def test_bytes_round_trip_on_any_bytes():
    tokenizer = ByteTokenizer()
    documents = [random.Random(i).randbytes(i) for i in range(300)]
    for document, ids in zip(documents, tokenizer.encode(documents), strict=True):
        assert tokenizer.decode(ids) == document
        assert len(ids) == len(document)


@pytest.mark.parametrize(("kind", "size"), [("bpe", 330), ("sentencepiece-bpe", 400)])
def test_vocabulary_is_as_large_as_asked(kind, size):
    tokenizer = trained(kind)
    assert tokenizer.vocab_size == size
    assert 0 <= tokenizer.end_of_document < size


def test_training_is_deterministic():
    assert bpe.train(TRAINING, 300) == bpe.train(TRAINING, 300)
    for kind in ("bpe", "unigram"):
        one, two = (sentence_piece.train(TRAINING, 400, kind) for _ in range(2))
        assert one == two


def test_first_merges_by_hand():
    """Of three "aab" and an "aac" the most frequent pair is (a, a), then (aa, b)."""
    tokenizer = huggingface.read_json(bpe.train([b"aab", b"aab", b"aab", b"aac"], 259), "here")
    assert tokenizer.vocab_size == 259
    (ids,) = tokenizer.encode([b"aab"])
    assert len(ids) == 1
    (ids,) = tokenizer.encode([b"aac"])
    assert len(ids) == 2


def merges_by_algorithm_1(counts, number):
    """Sennrich et al. 2016, algorithm 1, over words with their counts; ties by the first seen."""
    words, merges = {tuple(word): count for word, count in counts.items()}, []
    for _ in range(number):
        pairs = {}
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + count
        best = max(pairs, key=pairs.__getitem__)
        assert sorted(pairs.values())[-2:].count(pairs[best]) == 1, "a tie decides nothing"
        merges.append(best)
        joined = {}
        for word, count in words.items():
            parts, i = [], 0
            while i < len(word):
                two = word[i : i + 2] == best
                parts.append("".join(best) if two else word[i])
                i += 1 + two
            joined[tuple(parts)] = count
        words = joined
    return merges


def test_character_merges_are_those_of_the_papers_algorithm():
    """Words with their space in front, counted so that no tie decides."""
    counts = {" ab": 101, " abc": 57, " b": 38, " ca": 23, " cab": 11, " é": 71}
    text = "".join(word * count for word, count in counts.items())
    content = json.loads(bpe.train_characters([text.encode()], 256 + 5 + 8 + 1))
    wanted = merges_by_algorithm_1(counts, 8)
    assert [tuple(pair) for pair in content["model"]["merges"]] == wanted
    tokenizer = huggingface.read_json(json.dumps(content).encode(), "here")
    (ids,) = tokenizer.encode([" cab é".encode()])
    assert len(ids) == 2 and tokenizer.vocab_size == 270
    (ids,) = tokenizer.encode(["東".encode()])  # a character that it never saw
    assert ids.tolist() == list("東".encode())


def test_rare_characters_are_left_to_their_bytes():
    tokenizer = huggingface.read_json(
        bpe.train_characters(["aaaa bbb éé 東".encode()], 260), "here"
    )
    assert tokenizer.vocab_size <= 260
    (ids,) = tokenizer.encode(["aé東".encode()])
    assert len(ids) == 1 + 2 + 3 and tokenizer.decode(ids) == "aé東".encode()


def test_bpe_pieces_do_not_cross_gpt2s_boundaries():
    """Words, numbers and contractions are merged apart, however often they stand together."""
    tokenizer = huggingface.read_json(bpe.train([b"don't 42x don't 42x " * 50], 400), "here")
    (ids,) = tokenizer.encode([b"don't 42x"])
    assert [tokenizer.decode([i]) for i in ids] == [b"don", b"'t", b" 42", b"x"]


@pytest.mark.parametrize("kind", ["sentencepiece-bpe", "sentencepiece-unigram"])
def test_sentencepiece_splits_digits(kind):
    (ids,) = trained(kind).encode([b"1984"])
    assert len(ids) == 4


def test_bpe_equals_tokenizers_itself():
    """The ids are those of `tokenizers` for the same file."""
    content = bpe.train(TRAINING, 330)
    theirs = hf.Tokenizer.from_str(content.decode())
    ours = huggingface.read_json(content, "here")
    for document, ids in zip(TRAINING[:2], ours.encode(TRAINING[:2]), strict=True):
        assert ids.tolist() == theirs.encode(document.decode(), add_special_tokens=False).ids
    assert theirs.token_to_id("<|endoftext|>") == ours.end_of_document


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_equals_sentencepiece_itself(kind):
    model = sentence_piece.train(TRAINING, 400, kind)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = sentence_piece.read(model, "here")
    documents = [*TRAINING[:2], "a 1984 \U0001f600\x00 Ж".encode()]
    for document, ids in zip(documents, ours.encode(documents), strict=True):
        assert ids.tolist() == theirs.encode(document.decode())


def test_loaded_json_without_an_end_gets_one():
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    ours = huggingface.read_json(tokenizer.to_str().encode(), "here")
    assert (ours.vocab_size, ours.end_of_document) == (4, 3)
    tokenizer.add_special_tokens(["[PAD]", "</s>"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    ours = huggingface.read_json(tokenizer.to_str().encode(), "here")
    assert (ours.vocab_size, ours.end_of_document) == (5, 4)
    assert next(ours.encode([b"a b a"])).tolist() == [0, 1, 0]
    assert 4 not in next(ours.encode([b"a b a </s>"]))


def library_kinds():
    """One file of each of the library's models, with the usual parts around it."""
    texts = [document.decode() for document in TRAINING]
    trainers, normalizers, pre = hf.trainers, hf.normalizers, hf.pre_tokenizers
    marks = ["[UNK]", "[CLS]", "[SEP]"]
    quiet = {"show_progress": False, "vocab_size": 300}

    pieces = hf.Tokenizer(hf.models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre.BertPreTokenizer()
    pieces.decoder = hf.decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(special_tokens=marks, **quiet)
    pieces.train_from_iterator(texts, trainer)
    pieces.post_processor = hf.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )

    unigram = hf.Tokenizer(hf.models.Unigram())
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre.Metaspace()
    unigram.decoder = hf.decoders.Metaspace()
    trainer = trainers.UnigramTrainer(special_tokens=marks, unk_token="[UNK]", **quiet)
    unigram.train_from_iterator(texts, trainer)

    words = hf.Tokenizer(hf.models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=marks, **quiet))

    llama = hf.Tokenizer(hf.models.BPE(byte_fallback=True, fuse_unk=True, unk_token="[UNK]"))
    llama.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    llama.decoder = hf.decoders.Sequence(
        [
            hf.decoders.Replace("▁", " "),
            hf.decoders.ByteFallback(),
            hf.decoders.Fuse(),
            hf.decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        special_tokens=marks + fallback, show_progress=False, vocab_size=420
    )
    llama.train_from_iterator(texts, trainer)
    return {"word-piece": pieces, "unigram": unigram, "word-level": words, "llama": llama}


@pytest.mark.parametrize("kind", ["word-piece", "unigram", "word-level", "llama"])
def test_any_tokenizer_json_is_loaded_from_disk(tmp_path, texts, config, kind):
    """The ids are the library's for the same file, without what its template would put around."""
    theirs = library_kinds()[kind]
    theirs.save(str(tmp_path / "any.json"))
    wanted = config(
        source="text",
        path=str(texts),
        heldout_fraction=0.2,
        tokenizer="bpe",
        tokenizer_path=str(tmp_path / "any.json"),
        end_of_document="new",
        lossy=True,
    )
    corpus = load(wanted, seq_len=16)
    for text in ("the scaling law, 1984", "für 東京 don't", texts.joinpath("0000.txt").read_text()):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert corpus.encode(text).tolist() == ids
        assert corpus.decode(ids) == theirs.decode(ids, skip_special_tokens=False).encode()
    assert corpus.end_of_document == corpus.vocab_size - 1 == theirs.get_vocab_size()


def test_loaded_model_with_a_leading_space(tmp_path):
    """As Llama's: the dummy prefix goes in and comes out again."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(document.decode() for document in TRAINING),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        model_type="bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    tokenizer = sentence_piece.read(model.getvalue(), "here")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    (ids,) = tokenizer.encode([b"the law"])
    assert ids.tolist() == theirs.encode("the law")
    assert tokenizer.decode(ids) == b"the law"
    assert tokenizer.end_of_document == 2


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_trained_kept_and_loaded_again(tmp_path, texts, config, kind):
    """What was trained lies beside the tokens, and gives the same corpus when loaded by path."""
    wanted = {"source": "text", "path": str(texts), "heldout_fraction": 0.2, "tokenizer": kind}
    first = load(config(**wanted, vocab_size=320), seq_len=16)
    again = load(config(**wanted, vocab_size=320), seq_len=16)
    assert again.encode("the naïve law").tolist() == first.encode("the naïve law").tolist()
    assert first.vocab_size == 320
    assert first.report["tokenizer_lossless"] is True
    assert first.bytes_per_token > 1.2
    (path,) = first.folder.glob("tokenizer.*")
    loaded = load(config(**wanted, tokenizer_path=str(path)), seq_len=16)
    assert loaded.fingerprint == first.fingerprint
    assert loaded.folder != first.folder


def test_trained_on_the_train_part_alone(tmp_path, config, write):
    """A held-out word is nowhere in the vocabulary, however often it comes there."""

    write(tmp_path / "texts", 80)
    rare = next(
        text
        for text in (b"qqzzqq " * 500 + b"%d" % i for i in range(1000))
        if split.is_heldout(split.digest(text), 0.2)
    )
    (tmp_path / "texts" / "rare.txt").write_bytes(rare)
    wanted = {"source": "text", "path": str(tmp_path / "texts"), "heldout_fraction": 0.2}
    corpus = load(config(**wanted, tokenizer="bpe", vocab_size=320), seq_len=16)
    assert len(corpus.encode("qqzzqq")) == 6
    assert corpus.train.dtype == np.uint16


def test_a_tokenizer_that_loses_text_is_refused_unless_allowed(tmp_path, texts, config):
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.normalizer = hf.normalizers.Lowercase()
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    tokenizer.save(str(tmp_path / "lower.json"))
    for path in texts.iterdir():
        path.write_text(path.read_text().upper())
    wanted = config(
        source="text",
        path=str(texts),
        heldout_fraction=0.2,
        tokenizer="bpe",
        tokenizer_path=str(tmp_path / "lower.json"),
    )
    sentence = r"tokenizer_path=.* loses text: .* comes back as .*; .*data.lossy=true"
    with pytest.raises(UserError, match=sentence):
        load(wanted, seq_len=16)
    accepted = dataclasses.replace(wanted, lossy=True)
    assert load(accepted, seq_len=16).report["tokenizer_lossless"] is False
    with pytest.raises(UserError, match=sentence):  # from the cache, too
        load(wanted, seq_len=16)
