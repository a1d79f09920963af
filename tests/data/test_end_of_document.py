"""Which token of a loaded tokenizer ends a document: as its folder says, or as the user does."""

import base64
import io
import json

import pytest
import tokenizers as hf

from gptjax.convert.load import _their_tokenizer
from gptjax.data import load
from gptjax.data.tokenizers.huggingface import read_json
from gptjax.data.tokenizers.sentencepiece import read as read_model
from gptjax.data.tokenizers.sentencepiece import train as train_model
from gptjax.data.tokenizers.tiktoken import PUBLISHED, _end
from gptjax.data.tokenizers.tiktoken import read as read_ranks
from gptjax.errors import UserError

NAMES = ["<pad>", "<one>", "<two>", "<three>"]


def words(special=NAMES, plain=()):
    tokenizer = hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens(list(plain))
    return tokenizer.to_str().encode()


def folder(tmp_path, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer.json").write_bytes(words())
    return str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({"tokenizer_config": {"eos_token": "<one>"}}, 4),
        ({"tokenizer_config": {"eos_token": {"content": "<one>", "lstrip": False}}}, 4),
        ({"special_tokens_map": {"eos_token": {"content": "<two>"}}}, 5),
        ({"generation_config": {"eos_token_id": 6}}, 6),
        ({"generation_config": {"eos_token_id": [6, 5]}}, 6),
        ({"config": {"eos_token_id": 5}}, 5),
        ({"config": {"eos_token_id": 5}, "generation_config": {"eos_token_id": 6}}, 6),
        ({"config": {"eos_token_id": True}, "generation_config": {"eos_token_id": 6}}, 6),
        (
            {
                "tokenizer_config": {"eos_token": "<one>"},
                "special_tokens_map": {"eos_token": "<two>"},
                "generation_config": {"eos_token_id": 6},
            },
            4,
        ),
        (
            {
                "tokenizer_config": {"eos_token": "<absent>"},
                "special_tokens_map": {"eos_token": None},
                "generation_config": {"eos_token_id": 6},
            },
            6,
        ),
    ],
)
def test_the_folder_says(tmp_path, files, end):
    path = folder(tmp_path, **files)
    found = read_json(words(), path)
    assert (found.end_of_document, found.vocab_size) == (end, 7)
    assert end not in next(found.encode([" ".join(["a", *NAMES]).encode()]))


def test_the_user_says_more_than_the_folder(tmp_path):
    path = folder(tmp_path, tokenizer_config={"eos_token": "<one>"})
    assert read_json(words(), path, "<three>").end_of_document == 6
    assert read_json(words(), path, "new").end_of_document == 7
    assert read_json(words(), path, "5").end_of_document == 5
    with pytest.raises(UserError, match=r"data.end_of_document='<tree>' is no .* mean <three>\?"):
        read_json(words(), path, "<tree>")


def test_when_nobody_knows_the_user_is_asked(tmp_path):
    with pytest.raises(UserError, match=r"one of <pad>, <one>, .*, or data.end_of_document=new"):
        read_json(words(), folder(tmp_path))
    assert read_json(words(special=()), "").end_of_document == 3
    assert read_json(words(special=["<pad>", "</s>"]), "").end_of_document == 4


def test_settings_that_are_no_json_are_named(tmp_path):
    path = folder(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{")
    with pytest.raises(UserError, match=r"special_tokens_map.json', which says how documents end"):
        read_json(words(), path)


def test_a_text_that_would_become_the_end_is_refused(tmp_path):
    """A token that its file does not call special."""
    found = read_json(words(special=(), plain=["<end>"]), "", "<end>")
    assert next(found.encode([b"a b"])).tolist() == [0, 1]
    with pytest.raises(UserError, match=r"'<end>' in a document becomes the end of a document"):
        next(found.encode([b"a <end> b"]))


@pytest.mark.parametrize("asked", ["", "<two>", "new"])
def test_a_kept_tokenizer_ends_documents_as_the_loaded_one(tmp_path, config, texts, asked):
    path = folder(tmp_path, tokenizer_config={"eos_token": "<one>"})
    wanted = config(
        source="text",
        path=str(texts),
        heldout_fraction=0.2,
        tokenizer="bpe",
        tokenizer_path=path,
        end_of_document=asked,
        lossy=True,
    )
    ends = [load(wanted, seq_len=16).end_of_document for _ in range(2)]
    assert ends == [{"": 4, "<two>": 5, "new": 7}[asked]] * 2
    kept = next((tmp_path / "cache").glob("text-*")) / "tokenizer.json"
    if asked != "new":
        assert read_json(kept.read_bytes(), str(kept)).end_of_document == ends[0]


def test_another_end_beside_the_file_is_another_corpus(tmp_path, config, texts):
    path = folder(tmp_path, tokenizer_config={"eos_token": "<one>"})
    settings = {"source": "text", "path": str(texts), "heldout_fraction": 0.2}
    wanted = config(**settings, tokenizer="bpe", tokenizer_path=path, lossy=True)
    first = load(wanted, seq_len=16)
    folder(tmp_path, tokenizer_config={"eos_token": "<two>"})
    assert load(wanted, seq_len=16).fingerprint != first.fingerprint


RANKS = b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256))


@pytest.mark.parametrize(
    ("files", "asked", "end"),
    [
        ({}, "", 256),
        ({}, "new", 256),
        ({}, "300", 300),
        ({"tokenizer_config": {"eos_token": "<end>"}}, "", 256),
        ({"generation_config": {"eos_token_id": [258, 260]}}, "", 258),
        ({"generation_config": {"eos_token_id": 65}}, "", 256),  # a text's own id
        (
            {"generation_config": {"eos_token_id": 65}, "config": {"eos_token_id": 258}},
            "",
            258,
        ),
        (
            {
                "tokenizer_config": {
                    "eos_token": "<end>",
                    "added_tokens_decoder": {
                        "256": {"content": "<begin>"},
                        "257": {"content": "<end>"},
                    },
                }
            },
            "",
            257,
        ),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"257": {"content": "<end>"}}}},
            "<end>",
            257,
        ),
    ],
)
def test_ranks_end_as_the_files_beside_them_say(tmp_path, config, texts, files, asked, end):
    """Llama 3 has <|begin_of_text|> after the last rank of its tokenizer.model."""
    folder(tmp_path, **files)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(RANKS)
    found = read_ranks(RANKS, str(path), "gpt2", asked)
    assert (found.end_of_document, found.vocab_size) == (end, end + 1)
    assert found.decode([65, end, 66]) == b"AB"
    wanted = config(
        source="text",
        path=str(texts),
        heldout_fraction=0.2,
        tokenizer="tiktoken",
        tokenizer_path=str(path),
        end_of_document=asked,
    )
    assert [load(wanted, seq_len=16).end_of_document for _ in range(2)] == [end] * 2


def test_ranks_under_the_name_of_a_sentencepiece_model_are_read(tmp_path):
    """Llama 3's folders have them, beside settings by which a document ends."""
    folder(tmp_path, generation_config={"eos_token_id": [257, 260]})
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(RANKS)
    kept = _their_tokenizer(tmp_path)
    assert kept.data.tokenizer == "tiktoken"
    assert kept.read().end_of_document == 257
    (tmp_path / "tokenizer.model").write_bytes(train_model([b"the law\n" * 40] * 4, 280, "bpe"))
    assert _their_tokenizer(tmp_path).data.tokenizer == "sentencepiece"


def test_published_ranks_have_their_published_end():
    """A folder that an earlier version kept has the id after the last rank."""
    for (count, last), end in PUBLISHED.items():
        skipped = end if last == count else count  # p50k_base leaves out its special token
        ranks = {b"%d" % i: i + (i >= skipped) for i in range(count)}
        assert _end(ranks, "cl100k_base.tiktoken", "") == end
        assert _end(ranks, "ranks.tiktoken", "") == last + 1


@pytest.mark.parametrize(("asked", "word"), [("65", "no id beside the ranks"), ("<end>", "no id")])
def test_an_end_that_a_text_may_become_is_refused(asked, word):
    with pytest.raises(UserError, match=word):
        read_ranks(RANKS, "here", "gpt2", asked)


def test_sentencepiece_ends_as_the_files_beside_it_say(tmp_path):
    """Phi-3's tokenizer.model is Llama's, and its <|endoftext|> lies beyond its pieces."""
    model = train_model([b"the scaling law of the loss, 1984\n" * 4] * 4, 300, "bpe")
    size = read_model(model, "").vocab_size
    beside = {str(size + 2): {"content": "<|endoftext|>"}, "5": {"content": "never"}}
    folder(
        tmp_path,
        tokenizer_config={"eos_token": "<|endoftext|>", "added_tokens_decoder": beside},
    )
    path = str(tmp_path / "tokenizer.model")
    found = read_model(model, path)
    assert (found.end_of_document, found.vocab_size) == (size + 2, size + 3)
    assert read_model(model, path, "</s>").end_of_document == 1
    assert read_model(model, path, str(size)).end_of_document == size
    folder(tmp_path, tokenizer_config={"eos_token": "<end>"}, added_tokens={"<end>": size + 1})
    assert read_model(model, path).end_of_document == size + 1
    folder(tmp_path, tokenizer_config={"eos_token": "never", "added_tokens_decoder": beside})
    assert read_model(model, path).end_of_document == 1


def test_sentencepiece_by_name():
    model = train_model([b"the scaling law of the loss, 1984\n" * 4] * 4, 300, "bpe")
    assert read_model(model, "here").end_of_document == 1
    assert read_model(model, "here", "</s>").end_of_document == 1
    assert read_model(model, "here", "new").end_of_document == read_model(model, "").vocab_size
    with pytest.raises(UserError, match=r"data.end_of_document='</t>' is no control piece"):
        read_model(model, "here", "</t>")


@pytest.mark.parametrize(
    ("settings", "begins"),
    [({"add_bos_token": True}, (1,)), ({"add_bos_token": False}, ()), ({"bos_token": "<s>"}, ())],
)
def test_a_sentencepiece_model_begins_texts_as_its_settings_say(tmp_path, settings, begins):
    """AutoTokenizer of transformers 5.24 on such folders: the first token where it is asked for."""
    import sentencepiece

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 20),
        model_writer=content,
        model_type="bpe",
        vocab_size=280,
        byte_fallback=True,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(content.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    kept = _their_tokenizer(tmp_path)
    assert kept.published and kept.read().begins == begins
