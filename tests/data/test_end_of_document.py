"""Which token of a loaded tokenizer ends a document: as its folder says, or as the user does."""

import json

import pytest
import tokenizers as hf

from gptjax.data import load
from gptjax.data.tokenizers.huggingface import read_json
from gptjax.data.tokenizers.sentencepiece import read as read_model
from gptjax.data.tokenizers.sentencepiece import train as train_model
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


def test_sentencepiece_by_name():
    model = train_model([b"the scaling law of the loss, 1984\n" * 4] * 4, 300, "bpe")
    assert read_model(model, "here").end_of_document == 1
    assert read_model(model, "here", "</s>").end_of_document == 1
    assert read_model(model, "here", "new").end_of_document == read_model(model, "").vocab_size
    with pytest.raises(UserError, match=r"data.end_of_document='</t>' is no control piece"):
        read_model(model, "here", "</t>")
