"""The normaliser by hand, and as a setting."""

import pytest

from gptjax.data import load
from gptjax.data.normalize import normalize
from gptjax.errors import UserError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("don't won't can't", "do n't wo n't ca n't"),
        ("It's I'm we'll they're I've she'd", "It 's I 'm we 'll they 're I 've she 'd"),
        ("DON'T SHE'LL", "DO N'T SHE 'LL"),
        ("isn\u2019t Anna\u2019s", "is n\u2019t Anna \u2019s"),
        ("rock 'n' roll, 'tis, the '80s, o'clock, cannot",) * 2,
        ("the dogs' n't 's", "the dogs' n't 's"),
        ("x'sy don'ts", "x'sy don'ts"),
        ("a\x00b\x07c\u200bd\ufeffe\ue000f\u0378g", "abcdefg"),  # Cc, Cf, Co, Cn
        ("tab\tline\nend\r\n\u00a0\u2028\u3000",) * 2,
        ("é e\u0301 क\u093e", "é e क"),  # marks go
        ("Ωß漢字 ½²٣ ₿€ «—» ∑ \U0001f600",) * 2,
        ("", ""),
    ],
)
def test_by_hand(text, wanted):
    assert normalize(text) == wanted


def test_as_a_setting(texts, config):
    for path in texts.iterdir():
        path.write_text(path.read_text() + "I don't\x00 know\n")
    wanted = {"source": "text", "path": str(texts), "heldout_fraction": 0.2}
    corpus, plain = (load(config(**wanted, normalize=on), seq_len=16) for on in (True, False))
    assert b"I do n't know\n" in corpus.decode(corpus.train)
    assert b"I don't\x00 know\n" in plain.decode(plain.train)
    assert corpus.folder != plain.folder


def test_numbers_are_no_text(config):
    with pytest.raises(UserError, match=r"set data\.normalize=false"):
        load(config(source="zipf-facts", normalize=True), seq_len=16)
