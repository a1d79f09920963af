"""Stages of cleaning that judge one document: hand cases, and every verdict of an oracle's file."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from gptjax.data.clean import c4, contamination, gopher, language, personal, urls, word_list
from gptjax.data.clean.documents import Document, sentences_of
from gptjax.errors import UserError

GOLDEN = Path(__file__).with_name("clean_golden.json")
PAGE = (
    "The cat sat on the mat. It was warm there. The dog came to the door. It barked. Then it left."
)


def reason(judge, text):
    return judge(Document(text)).reason


C4_CASES = {
    "kept": (PAGE, ""),
    "lines without an end go": (f"Home | About us here\n{PAGE}", ""),
    "few sentences": ("One. Two. Three. Four.", "too few sentences"),
    "lorem": (f"{PAGE}\nLorem ipsum dolor sit amet.", "lorem ipsum"),
    "brace": (f"{PAGE}\nif (x) {{ return it. }}.", "curly bracket"),
    "ellipsis": ("Read more here now...\n" * 9, "too few sentences"),
    "javascript": ("Please enable Javascript in it. And so. And so. And so. And so.", "too few"),
    "cookies": ("This site uses cookies for it. And so. And so. And so. And so.", "too few"),
    "two words": ("Hello there.\n" * 9, "too few sentences"),
}


@pytest.mark.parametrize("name", C4_CASES)
def test_c4(name):
    text, wanted = C4_CASES[name]
    found = reason(c4.make(c4.C4Config()), text)
    assert found.startswith(wanted) and bool(found) == bool(wanted)


def test_c4_gives_the_lines_that_it_keeps():
    verdict = c4.make(c4.C4Config())(Document(f"Menu\n{PAGE}[3]\nno end here at all\n"))
    assert verdict.text == PAGE


GOOD = " ".join(f"the word{i} of that place and {i}x have gone" for i in range(10))
QUALITY_CASES = {
    "kept": (GOOD, ""),
    "short": (" ".join(GOOD.split()[:49]), "too few words"),
    "fifty words": (" ".join(GOOD.split()[:50]), ""),
    "symbols are no words": (" ".join(GOOD.split()[:49]) + " !!! ... -", "too few words"),
    "short words": ("to be of a " * 20, "short words"),
    "long words": ("the of internationalization " + "internationalization " * 60, "long words"),
    "hashes": (GOOD + " #" * 20, "hash signs"),
    "ellipses": (GOOD + " …" * 20, "ellipses"),
    "bullets": ("\n".join(f"- {w}" for w in GOOD.split()), "bullets"),
    "ends": (GOOD + "\nand so…\nbut…", "lines end in ellipses"),
    "numbers": (GOOD + " 123456" * 40, "words without letters"),
    "stop words": ("apple tree green fruit water " * 12, "no stop words"),
}


@pytest.mark.parametrize("name", QUALITY_CASES)
def test_gopher_quality(name):
    text, wanted = QUALITY_CASES[name]
    assert reason(gopher.make_quality(gopher.QualityConfig()), text) == wanted


def unique(count, start=0):
    return " ".join(f"w{i:04d}" for i in range(start, start + count))


REPETITION_CASES = {
    "kept": (unique(60), ""),
    "empty": ("", "empty"),
    "paragraphs": ("\n\n".join(["a", "b", "a", "a", "a"]), "repeated paragraphs"),
    "paragraph characters": (
        "\n\n".join([unique(40), "x", "y", "z", unique(40)]),
        "characters of repeated paragraphs",
    ),
    "lines": ("\n".join(["a", "b", "a", "a"]) + "\n" + unique(40), "repeated lines"),
    "line characters": (
        "\n".join([unique(40), "x", "y", "z", unique(40)]),
        "characters of repeated lines",
    ),
    "bigram": (unique(20) + " so so" * 20, "top 2-gram"),
    "5-gram": (
        " ".join(f"{unique(3, 9 * i)} {unique(5, 900 + 5 * (i // 2))}" for i in range(12)),
        "repeated 5-grams",
    ),
}


@pytest.mark.parametrize("name", REPETITION_CASES)
def test_gopher_repetition(name):
    text, wanted = REPETITION_CASES[name]
    assert reason(gopher.make_repetition(gopher.RepetitionConfig()), text) == wanted


def test_a_threshold_is_a_setting():
    strict = gopher.make_repetition(gopher.RepetitionConfig(repeated_ngrams=(0.01,)))
    assert reason(strict, unique(60) + " " + unique(5)) == "repeated 5-grams"


def test_rules_of_n_grams_that_cannot_break_are_passed_over_and_no_other():
    """By their definitions, on words so few that every rule breaks somewhere; letters alone are as
    long as the longest word, so that nothing is to spare in what the rules could count."""
    rng, found = random.Random(0), set()
    for _ in range(300):
        known = rng.choice((("a", "ab", "b" * 9), "abc", "abcdefgh"))
        words = rng.choices(known, k=rng.randint(1, 40))
        top = tuple(rng.choice((1.0, rng.random())) for _ in range(3))
        repeated = tuple(rng.choice((0.0, 0.2, 1.0)) for _ in range(6))
        judge = gopher.make_repetition(
            gopher.RepetitionConfig(top_ngrams=top, repeated_ngrams=repeated)
        )
        said = reason(judge, " ".join(words))
        assert said == broken_rule(words, top, repeated), words
        found.add(said)
    assert len(found) > 5, found


def broken_rule(words, top, repeated):
    size = len(" ".join(words))
    for n, most in enumerate(top, start=2):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        if grams and (best := grams.most_common(1)[0])[1] * len(" ".join(best[0])) / size > most:
            return f"top {n}-gram"
    for n, most in enumerate(repeated, start=5):
        seen, characters, i = set(), 0, 0
        while i + n <= len(words):
            gram = "".join(words[i : i + n])
            characters += len(gram) if gram in seen else 0
            i += n if gram in seen else 1
            seen.add(gram)
        if characters / size > most:
            return f"repeated {n}-grams"
    return ""


def test_equal_characters_of_other_words_are_a_repetition():
    """Six words and six: of five the first is the beginning of the second."""
    judge = gopher.make_repetition(gopher.RepetitionConfig(repeated_ngrams=(0.0,) * 6))
    text = "a b c d e fg, which we read more often than not, as ab c d e f g or so"
    assert reason(judge, text.replace(",", " ,")) == "repeated 6-grams"


def test_every_verdict_of_datatrove_on_the_same_documents():
    """The file was written by render_clean_golden.py with datatrove 0.10.1 and our words."""
    judges = {
        "c4": c4.make(c4.C4Config()),
        "repetition": gopher.make_repetition(gopher.RepetitionConfig()),
        "quality": gopher.make_quality(gopher.QualityConfig()),
    }
    golden = json.loads(GOLDEN.read_text())
    dropped = 0
    for case in golden["documents"]:
        for name, judge in judges.items():
            verdict = judge(Document(case["text"]))
            wanted = case[name]
            assert verdict.kept == (wanted == ""), (name, wanted, verdict.reason, case["text"])
            assert golden["reasons"].get(wanted, "") == verdict.reason
            dropped += bool(wanted)
        assert (judges["c4"](Document(case["text"])).text or "") == case["c4_text"]
    assert 0.2 < dropped / len(golden["documents"]) / 3 < 0.8


PERSONAL_CASES = {
    "Write to ada.l@mail.example.org.": ("Write to |||EMAIL_ADDRESS|||.", {"mail": 1}),
    "a @ b and x@y are none": ("a @ b and x@y are none", {}),
    "8.8.8.8, 10.0.0.1, 192.168.1.1": ("|||IP_ADDRESS|||, 10.0.0.1, 192.168.1.1", {"ipv4": 1}),
    "version 1.2.3.4.5 and 999.1.1.1": ("version 1.2.3.4.5 and 999.1.1.1", {}),
    "at 2001:4860:4860::8888 now": ("at |||IP_ADDRESS||| now", {"ipv6": 1}),
    "12:30:45, std::vector, fe80::1": ("12:30:45, std::vector, fe80::1", {}),
    "call +49 30 1234567 or (212) 555-0123": (
        "call |||PHONE_NUMBER||| or |||PHONE_NUMBER|||",
        {"phone": 2},
    ),
    "212-555-0123 in 1990-1995, 12345678": (
        "|||PHONE_NUMBER||| in 1990-1995, 12345678",
        {"phone": 1},
    ),
    "key AKIAIOSFODNN7EXAMPLE": ("key |||KEY|||", {"key": 1}),
    "ghp_" + "a1" * 18 + " and sk-proj-" + "Zz9" * 10: ("|||KEY||| and |||KEY|||", {"key": 2}),
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nx": (
        "|||KEY|||\nx",
        {"key": 1},
    ),
    "risk-averse people ask-and-answer": ("risk-averse people ask-and-answer", {}),
}


KEYS = (
    *("AKIA" + "Z9" * 8, "ASIA" + "Z9" * 8, "github_pat_" + "a_9" * 20, "glpat-" + "a9" * 10),
    *(f"gh{kind}_" + "a9" * 18 for kind in "pousr"),
    *("sk-" + "a9" * 10, "hf_" + "a9" * 15, "xoxb-" + "a9" * 5, "xoxs-" + "a9" * 5),
    *("AIza" + "a9-_x" * 7, "sk_live_" + "a9" * 10, "rk_live_" + "a9" * 10),
    "eyJ" + "a9" * 4 + ".eyJ" + "b9" * 4 + "." + "c9" * 4,
)


def test_keys_of_every_maker_are_masked():
    for key in KEYS:
        assert personal.masked(f"my {key}.") == ("my |||KEY|||.", {"key": 1})


@pytest.mark.parametrize("text", PERSONAL_CASES)
def test_personal_data_are_masked_and_counted(text):
    wanted, counts = PERSONAL_CASES[text]
    verdict = personal.make(personal.PersonalConfig())(Document(text))
    assert (verdict.text, verdict.counts) == (wanted, counts) and verdict.kept


def test_addresses_are_masked_as_an_oracle_masks_them():
    """The file was written by render_personal_golden.py with datatrove 0.10.1."""
    cases = json.loads(GOLDEN.with_name("personal_golden.json").read_text())
    assert len(cases) == 150
    for text, wanted in cases:
        assert personal.masked(text, ("mail", "ipv4"))[0] == wanted, text


def test_a_kind_can_be_left_alone():
    text, counts = personal.masked("a@b.org 8.8.8.8", ("ipv4",))
    assert text == "a@b.org |||IP_ADDRESS|||" and counts == {"ipv4": 1}


URL_CASES = {
    "http://example.com": "http://example.com/",
    "HTTP://EXAMPLE.com:80/a": "http://example.com/a",
    "https://example.com:443/": "https://example.com/",
    "https://example.com:8443/": "https://example.com:8443/",
    "http://example.com./a": "http://example.com/a",
    "http://e.com/a/./b/../c": "http://e.com/a/c",
    "http://e.com/a/..": "http://e.com/",
    "http://e.com/%7euser/%e2%82%ac": "http://e.com/~user/%E2%82%AC",
    "http://e.com/a%2fb": "http://e.com/a%2Fb",
    "http://e.com/a b": "http://e.com/ab",
    "http://e.com/?b=2&a=1&b=1": "http://e.com/?a=1&b=1&b=2",
    "http://e.com/?utm_source=x&UTM_Medium=y&id=7&fbclid=z": "http://e.com/?id=7",
    "http://e.com/?gclid=1": "http://e.com/",
    "http://e.com/p#part": "http://e.com/p",
    "http://münchen.de/ü": "http://xn--mnchen-3ya.de/%C3%BC",
    "http://[2001:DB8:0:0::1]/": "http://[2001:db8::1]/",
    "http://e.com:port/": "http://e.com:port/",
    "no url": "nourl",
}


@pytest.mark.parametrize("url", URL_CASES)
def test_urls_have_one_form(url):
    assert urls.canonical(url) == URL_CASES[url]
    assert urls.canonical(urls.canonical(url)) == URL_CASES[url]


def test_languages_have_a_score_and_code_passes():
    judge = language.make(language.LanguageConfig())
    assert reason(judge, PAGE) == ""
    german = "Der Hund lag vor der Tür und wartete, bis der Regen endlich aufhörte."
    assert reason(judge, german) == "language de"
    assert language.make(language.LanguageConfig(keep=("de",)))(Document(german)).counts == {
        "de": 1
    }
    code = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n"
    assert judge(Document(code)).counts == {"code": 1}
    assert not language.looks_like_code(PAGE.replace(". ", ".\n"))
    assert reason(language.make(language.LanguageConfig(threshold=1.0)), "the hat") == "unsure en"
    with pytest.raises(UserError, match="keep='xx' is not a language"):
        language.make(language.LanguageConfig(keep=("xx",)))


def test_a_listed_word_drops_whole_words_only(tmp_path):
    (tmp_path / "words.txt").write_text("# mine\nBadger\ntwo  words\n")
    judge = word_list.make(word_list.WordListConfig(path=str(tmp_path / "words.txt")))
    assert reason(judge, "A badger!") == "listed word" and reason(judge, "badgers") == ""
    lenient = word_list.WordListConfig(path=str(tmp_path / "words.txt"), allowed=1)
    assert reason(word_list.make(lenient), "badger") == ""
    assert reason(word_list.make(lenient), "badger badger") == "listed word"
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no word"):
        word_list.make(word_list.WordListConfig(path=str(tmp_path / "none.txt")))


def test_evaluation_data_are_found_by_thirteen_words(tmp_path):
    question = "what is the name of the river that flows through the old town of Bern"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"q": {"text": question}, "a": ["Aare"]}))
    judge = contamination.make(contamination.ContaminationConfig(path=str(tmp_path / "*.jsonl")))
    assert reason(judge, f"They asked: {question.upper()}, again?") == "evaluation data"
    assert reason(judge, " ".join(question.split()[:12]) + " Zürich") == ""
    assert reason(judge, "") == ""


def test_sentences():
    assert sentences_of("One. Two! Three?\nFour") == ["One.", "Two!", "Three?", "Four"]
    assert sentences_of("3.5 is one") == ["3.5 is one"]
