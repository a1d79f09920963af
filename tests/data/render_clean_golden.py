"""Writes clean_golden.json: what datatrove says of documents that lie at the thresholds.

    python tests/data/render_clean_golden.py [DOCUMENTS]

Needs datatrove (0.10.1) in an environment of its own. Both sides get the same words and sentences,
those of gptjax: datatrove's spaCy tokenizer is another question. With a number of documents it
writes nothing and compares that many.
"""

import json
import random
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import c4_filters, gopher_quality_filter, gopher_repetition_filter

from gptjax.data.clean import c4, gopher
from gptjax.data.clean.documents import Document as Ours
from gptjax.data.clean.documents import sentences_of, words_of

REASONS = {
    "lorem_ipsum": "lorem ipsum",
    "curly_bracket": "curly bracket",
    "too_few_sentences": "too few sentences",
    "empty": "empty",
    "dup_para_frac": "repeated paragraphs",
    "dup_para_char_frac": "characters of repeated paragraphs",
    "dup_line_frac": "repeated lines",
    "dup_line_char_frac": "characters of repeated lines",
    **{f"top_{n}_gram": f"top {n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"repeated {n}-grams" for n in range(5, 11)},
    "gopher_short_doc": "too few words",
    "gopher_long_doc": "too many words",
    "gopher_below_avg_threshold": "short words",
    "gopher_above_avg_threshold": "long words",
    "gopher_too_many_hashes": "hash signs",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullets",
    "gopher_too_many_end_ellipsis": "lines end in ellipses",
    "gopher_below_alpha_threshold": "words without letters",
    "gopher_enough_stop_words": "no stop words",
}
RARE = ("…", "...", "#", "•", "-", "!!", "123", "7x", "{", "JavaScript", "[12]", "internationally")
PHRASES = ("lorem ipsum", "privacy policy", "it uses cookies", "x" * 1001)
ENDS = (".", ".", ".", "!", "?", '"', "...", "", "", "…", ",")


def text(rng):
    """A document whose shares of everything are drawn around the thresholds."""
    vocabulary = [
        f"{'abcdefghij'[i % 10] * rng.randint(1, 9)}{i}" for i in range(rng.randint(8, 400))
    ]
    vocabulary += ["the", "of", "and", "that"] * rng.randint(0, 6)
    rare, repeat = rng.random() * 0.15, rng.random() * 0.5
    lines = []
    for _ in range(rng.randint(1, 25)):
        if lines and rng.random() < repeat:
            lines.append(rng.choice(lines))
            continue
        words = [
            rng.choice(RARE if rng.random() < rare else vocabulary)
            for _ in range(rng.randint(1, 14))
        ]
        if rng.random() < 0.02:
            words.append(rng.choice(PHRASES))
        start = rng.choice(("- ", "• ", "")) if rng.random() < rare else ""
        lines.append(start + " ".join(words) + rng.choice(ENDS))
    return rng.choice(("\n", "\n", "\n\n", " ")).join(lines)


def main(count):
    """Judge documents by datatrove; write the file, or compare."""
    for module in (gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = lambda text, language: words_of(text)
    c4_filters.split_into_sentences = lambda text, language: sentences_of(text)
    filters = {
        "c4": c4_filters.C4QualityFilter(),
        "repetition": gopher_repetition_filter.GopherRepetitionFilter(),
        "quality": gopher_quality_filter.GopherQualityFilter(),
    }
    rng, cases = random.Random(0), []
    for _ in range(count or 150):
        case = {"text": text(rng)}
        for name, one in filters.items():
            document = Document(text=case["text"], id="0")
            found = one.filter(document)
            case[name] = "" if found is True else found[1]
            if name == "c4":
                case["c4_text"] = document.text if found is True else ""
        cases.append(case)
    if count:
        compare(cases)
    else:
        content = {"reasons": REASONS, "documents": cases}
        path = Path(__file__).with_name("clean_golden.json")
        path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def compare(cases):
    judges = {
        "c4": c4.make(c4.C4Config()),
        "repetition": gopher.make_repetition(gopher.RepetitionConfig()),
        "quality": gopher.make_quality(gopher.QualityConfig()),
    }
    counts = {}
    for case in cases:
        for name, judge in judges.items():
            verdict = judge(Ours(case["text"]))
            key = (name, case[name], verdict.reason)
            counts[key] = counts.get(key, 0) + 1
            assert REASONS.get(case[name], "") == verdict.reason, key
    for key, number in sorted(counts.items()):
        print(number, *key)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
