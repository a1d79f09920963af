"""job=clean: layouts, resume, any number of processes, the report, and mistakes in a sentence."""

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import tokenizers as hf
import zstandard

from gptjax.data.clean import config as clean_config
from gptjax.data.clean import pipeline, shards
from gptjax.data.clean.tokens import counter
from gptjax.data.tokenizers import bpe
from gptjax.files import POINTER
from gptjax.main import main
from gptjax.report import cleaning

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "clean.py"
SECRET = "ada.lovelace@mail.example.org"


NOUNS = ("river", "stone", "garden", "letter", "winter", "teacher", "village", "window", "market")
VERBS = ("carried", "watched", "followed", "described", "painted", "forgot", "finished", "covered")
ADJECTIVES = ("old", "quiet", "narrow", "famous", "distant", "broken", "yellow", "patient", "heavy")


def page(number, lines=14):
    """English-like prose that passes every filter."""
    rng = random.Random(number)
    found = []
    for _ in range(lines):
        one, two, three = (f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(3))
        kinds = (
            f"The {one} {rng.choice(VERBS)} a {two} near {rng.randint(2, 999)} {three}s.",
            f"Nobody {rng.choice(VERBS)} the {one}, and that {two} stayed with my {three}.",
            f"In {rng.randint(1500, 2020)} they {rng.choice(VERBS)} every {one} of the {two}.",
            f"Why would people have {rng.choice(VERBS)} this {one} to be {rng.choice(ADJECTIVES)}?",
        )
        found.append(rng.choice(kinds))
    return "\n".join(found)


def records(first, count):
    return [
        {"text": page(i), "id": f"d{i}", "url": f"http://e.org/{i}?utm_source=x", "lang": "English"}
        for i in range(first, first + count)
    ]


def lines(some):
    return "".join(json.dumps(one) + "\n" for one in some).encode()


def write_input(folder):
    """Five files in three formats, with copies of several kinds across them."""
    folder.mkdir()
    a, b = records(0, 12), records(12, 12)
    a[6]["text"] = page(306)  # the sixth has a 4-gram too often
    a[3]["text"] += f"\nWrite to {SECRET} if it was there and they have it."
    b[1] |= {"text": a[5]["text"]}  # an exact copy
    b[2] |= {"text": a[9]["text"] + " It ended."}  # a near one
    b[3] |= {"url": "http://E.org:80/7#top"}  # a URL that came before
    b[4] |= {"text": "Too short."}
    b[5] |= {"text": "{ " * 60}
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(a[:6]), mtime=0))
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(lines(a[6:])))
    (folder / "c.jsonl").write_bytes(lines(b[:6]) + b"{broken\n[1]\n" + lines(b[6:]))
    rows = [{"content": page(100 + i), "hexsha": f"s{i}", "lang": "C", "size": i} for i in range(4)]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "d.parquet")
    (folder / "e.txt").write_text(page(200))
    return folder


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    return write_input(tmp_path_factory.mktemp("crawl") / "mine")


def run(crawl, output, **own):
    own = {"workers": 1, "task_bytes": 400, **own}
    flags = [f"--config.clean.{name}={value}" for name, value in own.items()]
    flags += [f"--config.clean.input={crawl}", f"--config.clean.output={output}"]
    return main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={output.parent / 'w'}", *flags])


def content(output):
    """The name and hash of every file of an output."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def written(output):
    found = []
    for path in sorted(output.glob("part-*.jsonl.zst")):
        stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"))
        found += [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]
    return found


@pytest.fixture
def pages():
    """Asked for by tests that want report.html."""


@pytest.fixture(autouse=True)
def without_pages(request, monkeypatch):
    """No figures, which are most of the time of such small runs."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr(cleaning, "build", lambda folder, result: folder / "report.html")


@pytest.fixture(scope="module")
def cleaned(crawl, tmp_path_factory):
    output = tmp_path_factory.mktemp("cleaned") / "out"
    assert run(crawl, output) == 0
    return output


def test_what_is_kept_and_what_is_dropped(cleaned):
    result = json.loads((cleaned / "clean.json").read_text())
    dropped = {stage["stage"]: stage["documents"] for stage in result["stages"]}
    assert result["read"]["documents"] == 29 and result["broken"]["count"] == 2
    assert {name: count for name, count in dropped.items() if count} == {
        "urls": 1,
        "language": 2,
        "exact": 1,
        "near": 1,
    }
    kept = [one["id"] for one in written(cleaned)]
    gone = {f"d{i}" for i in (13, 14, 15, 16, 17)}
    assert kept == [f"d{i}" for i in range(24) if f"d{i}" not in gone] + [
        *(f"s{i}" for i in range(4)),
        "e.txt#1",
    ]
    assert result["written"]["documents"] == 24
    assert result["sources"]["English"] == {"read": 24, "duplicates": 3, "kept": 19}
    assert result["sources"]["mine"] == {"read": 1, "duplicates": 0, "kept": 1}
    assert "line 7 is no JSON object" in result["broken"]["places"][0]
    first = written(cleaned)[0]
    assert first["text"] == page(0) and first["metadata"] == {"lang": "English"}


def test_personal_data_are_in_no_file_of_the_output(cleaned):
    result = json.loads((cleaned / "clean.json").read_text())
    assert result["counts"]["personal"] == {"mail": 1}
    for path in cleaned.rglob("*"):
        raw = path.read_bytes()
        raw = zstandard.decompress(raw, 1 << 20) if path.suffix == ".zst" else raw
        assert SECRET.encode() not in raw, path
    assert "|||EMAIL_ADDRESS|||" in written(cleaned)[3]["text"]


def test_the_report_shows_stages_reasons_and_examples(cleaned):
    shown = (cleaned / "report.html").read_text()
    for words in ("language ", "like an earlier document", "Dropped by near", "d13", "Kept"):
        assert words in shown
    assert shown.count("<svg") == 2


@pytest.mark.parametrize("workers", (2, pytest.param(8, marks=pytest.mark.slow)))
def test_any_number_of_processes_gives_the_same_bytes(crawl, cleaned, tmp_path, workers, pages):
    assert run(crawl, tmp_path / "out", workers=workers) == 0
    assert content(tmp_path / "out") == content(cleaned)


class LazyRay(types.ModuleType):
    """Ray's functions that are used, in this process: tasks run when they are waited for, the last
    one first."""

    exceptions = types.SimpleNamespace(RayTaskError=KeyError)

    def init(self, address, **options):
        self.address = address

    def remote(self, **options):
        return lambda work: types.SimpleNamespace(remote=lambda *call: (work, call))

    def wait(self, left):
        return left[-1:], left[:-1]

    def get(self, done):
        for work, call in done:
            work(*call)


def test_tasks_of_a_cluster_give_the_same_bytes(crawl, cleaned, tmp_path, monkeypatch):
    fake = LazyRay("ray")
    fake.__spec__ = "there"
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert run(crawl, tmp_path / "out", engine="ray", address="local") == 0
    made, wanted = content(tmp_path / "out"), content(cleaned)
    assert fake.address == "local" and made == {k: v for k, v in wanted.items() if k in made}


@pytest.mark.slow
def test_tasks_of_a_real_cluster_give_the_same_bytes(crawl, cleaned, tmp_path):
    """pytest -m slow tests/jobs/test_clean.py -k real_cluster, with gptjax[ray]."""
    pytest.importorskip("ray")
    assert run(crawl, tmp_path / "out", engine="ray", address="local") == 0
    made = content(tmp_path / "out")
    assert made == {k: v for k, v in content(cleaned).items() if k in made}


def test_without_ray_the_extra_is_named(crawl, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(crawl, tmp_path / "out", engine="ray") == 2
    assert "clean.engine=ray needs Ray; pip install 'gptjax[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_finished_output_is_not_made_again(crawl, cleaned):
    before = {path: path.stat().st_mtime_ns for path in cleaned.glob("part-*")}
    assert run(crawl, cleaned) == 0
    assert before == {path: path.stat().st_mtime_ns for path in cleaned.glob("part-*")}


def test_interrupted_anywhere_it_goes_on(crawl, cleaned, tmp_path, monkeypatch, pages):
    """Each start gets one task or pass further than the last."""
    output, calls = tmp_path / "out", []

    class Stop(Exception):
        pass

    def once(function):
        def stopping(*args, **more):
            calls.append(function.__name__)
            if len(calls) > limits[0]:
                raise Stop
            return function(*args, **more)

        return stopping

    for module, name in ((pipeline, "judge_task"), (pipeline, "compare"), (pipeline, "write_task")):
        monkeypatch.setattr(module, name, once(getattr(module, name)))
    stops, limits = 0, [1, 3, 5, 8, 9, 99]
    while limits:
        calls.clear()
        try:
            run(crawl, output)
        except Stop:
            stops += 1
            assert not (output / "clean.json").exists()
        limits.pop(0)
    assert stops >= 4 and content(output) == content(cleaned)


@pytest.mark.slow
def test_killed_processes_go_on_to_the_same_bytes(crawl, cleaned, tmp_path):
    """pytest -m slow tests/jobs/test_clean.py: SIGKILL to the whole group at several moments."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "gptjax.main", f"--config={EXPERIMENT}"]
    command += [f"--config.clean.input={crawl}", f"--config.clean.output={output}"]
    command += ["--config.clean.workers=2", "--config.clean.task_bytes=400"]
    for seconds in (3.0, 4.5, 6.0, 7.5):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert content(output) == content(cleaned)


def test_parquet_and_spans(crawl, tmp_path):
    doubled = tmp_path / "in"
    doubled.mkdir()
    shared = "One is here now. Two is here now. Three is here now."
    texts = [f"{page(i, 9)} {shared} {page(50 + i, 9)}" for i in range(2)] + [f"Hi. {shared}"]
    (doubled / "x.jsonl").write_bytes(lines({"text": text, "n": 1} for text in texts))
    stages = "(urls,exact,near,spans)"
    (tmp_path / "tokenizer.json").write_bytes(bpe.train([page(0).encode()], 300))
    own = {"format": "parquet", "stages": stages, "tokenizer_path": tmp_path / "tokenizer.json"}
    assert run(doubled, tmp_path / "out", **own) == 0
    rows = parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["x.jsonl#1", "x.jsonl#2"]  # of the third little is left
    assert shared in rows[0]["text"] and "Two is here" not in rows[1]["text"]
    assert rows[0]["metadata"] == '{"n": 1}'
    result = json.loads((tmp_path / "out" / "clean.json").read_text())
    assert result["stages"][3]["documents"] == 1
    library = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    count = lambda some: sum(len(library.encode(text).ids) for text in some)  # noqa: E731
    assert result["read"]["tokens"] == count(texts)
    assert result["stages"][3]["tokens"] == count(texts[2:])
    assert result["written"]["tokens"] == count(row["text"] for row in rows)


@pytest.mark.parametrize("stage", clean_config.STAGES)
def test_each_stage_alone(tmp_path, stage):
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "a.jsonl").write_bytes(lines(records(0, 3) + records(0, 1)))
    assert run(inputs, tmp_path / "out", stages=stage) == 0
    copies = stage in ("urls", "exact", "near", "spans")
    assert len(written(tmp_path / "out")) == (3 if copies else 4)


@pytest.mark.parametrize("kind", ["key", "mail", "ipv4", "ipv6", "phone"])
def test_each_kind_of_personal_data_can_be_chosen(tmp_path, kind):
    (tmp_path / "a.txt").write_text(
        "AKIAIOSFODNN7EXAMPLE a@b.org 8.8.8.8 2001:4860::1 +49 30 1234567"
    )
    own = {"stages": "personal", "personal.kinds": kind}
    assert run(tmp_path / "a.txt", tmp_path / "out", **own) == 0
    result = json.loads((tmp_path / "out" / "clean.json").read_text())
    assert result["counts"]["personal"] == {kind: 1}


LAYOUTS = {
    "C4": ({"text": "T", "timestamp": "2019", "url": "http://u"}, "http://u", ""),
    "The Pile": ({"text": "T", "meta": {"pile_set_name": "ArXiv"}}, "", "ArXiv"),
    "Dolma": (
        {"id": "1", "text": "T", "source": "reddit", "metadata": {"url": "u"}},
        "u",
        "reddit",
    ),
    "peS2o": (
        {"id": "7", "text": "T", "source": "s2orc/train", "version": "v2"},
        "",
        "s2orc/train",
    ),
    "The Stack": ({"content": "T", "hexsha": "h", "lang": "Python", "ext": "py"}, "", "Python"),
    "RedPajama": ({"raw_content": "T", "doc_id": "d", "url": "http://u"}, "http://u", ""),
    "OpenWebText": ({"text": "T"}, "", ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts_are_read(tmp_path, name):
    record, url, source = LAYOUTS[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f.json.gz").write_bytes(gzip.compress(lines([record])))
    assert run(tmp_path / "in", tmp_path / "out", stages="exact") == 0
    (found,) = written(tmp_path / "out")
    assert found["text"] == "T" and found.get("url", "") == url
    assert found["source"] == (source or "in")
    known = record.get("id") or record.get("hexsha") or record.get("doc_id") or "f.json.gz#1"
    assert found["id"] == known


def test_pages_of_a_warc_file_are_read_as_their_main_text(tmp_path):
    def record(kind, body, **headers):
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        return head.encode() + b"\r\n" + body + b"\r\n\r\n"

    html = "<html><nav>Home | Menu</nav><body><main><p>Grüße an alle.</p></main></body></html>"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n"
    target = {"WARC_Target_URI": "http://e.org/p", "WARC_Record_ID": "<urn:uuid:1>"}
    whole = record("warcinfo", b"software: test")
    kind = {"Content_Type": "application/http; msgtype=response"}
    whole += record("response", http + html.encode("latin-1"), **target, **kind)
    image = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89PNG"
    whole += record("response", image, **target, **kind)
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(whole))
    assert run(tmp_path / "c.warc.gz", tmp_path / "out", stages="exact") == 0
    (found,) = written(tmp_path / "out")
    assert found["text"].strip() == "Grüße an alle." and found["url"] == "http://e.org/p"
    assert found["id"] == "<urn:uuid:1>"


def test_a_loop_of_folders_ends(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").write_bytes(lines(records(0, 2)))
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", stages="exact") == 0
    assert len(written(tmp_path / "out")) == 2


GZ = gzip.compress(lines(records(0, 40)))
REFUSED = {
    "no input": ("", {}, "clean.input='' names no file"),
    "lost": ("lost", {}, "clean.input='lost' does not exist"),
    "cut gzip": ("cut.jsonl.gz", {}, "is not a whole gzip file"),
    "cut zstd": ("cut.jsonl.zst", {}, "is not a whole zstd file"),
    "cut Parquet": ("cut.parquet", {}, "is no whole Parquet file"),
    "strict": ("broken.jsonl", {"strict": "true"}, "line 2 is no JSON object"),
    "strict field": ("a.jsonl", {"strict": "true", "text_field": "txt"}, "has no text under txt"),
    "twice": ("a.jsonl", {"stages": "(exact,exact)"}, "names exact twice"),
    "unknown": ("a.jsonl", {"stages": "exakt"}, "did you mean exact?"),
    "full": ("a.jsonl", {"output": "full"}, "holds something else"),
    "list": ("a.jsonl", {"word_list.path": "none.txt"}, "word_list.path='none.txt' cannot be"),
    "evaluation": ("a.jsonl", {"contamination.path": "none"}, "clean.contamination.path='none'"),
    "tokens": ("a.jsonl", {"tokenizer_path": "list.txt"}, "is no tokenizer's file"),
    "token pipe": (
        "a.jsonl",
        {"tokenizer_path": "pipe.json"},
        "clean.tokenizer_path='pipe.json' is a named pipe",
    ),
    "token pointer": ("a.jsonl", {"tokenizer_path": "lfs.json"}, "lfs.json is a Git LFS pointer"),
    "no tokens": (
        "a.jsonl",
        {"tokenizer_path": "none.json"},
        "clean.tokenizer_path='none.json' cannot be read: No such file or directory; name a file",
    ),
    "file": ("a.jsonl", {"output": "lfs.json"}, "lfs.json holds something else"),
    "in a file": ("a.jsonl", {"output": "lfs.json/out"}, "cannot be made: Not a directory"),
    "binary": ("image.png", {}, "bytes are NUL"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(lines(records(0, 2)))
    Path("broken.jsonl").write_bytes(lines(records(0, 1)) + b"{\n" + lines(records(1, 1)))
    Path("cut.jsonl.gz").write_bytes(GZ[:-20])
    Path("cut.jsonl.zst").write_bytes(zstandard.compress(lines(records(0, 40)))[:-20])
    Path("cut.parquet").write_bytes(b"PAR1" + b"x" * 50)
    Path("image.png").write_bytes(b"\x89PNG" + b"\0" * 60)
    Path("lfs.json").write_bytes(POINTER + b"v1")
    os.mkfifo("pipe.json")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("x")
    given, own, sentence = REFUSED[name]
    own = {"workers": 1, "output": "out", **own}
    flags = [f"--config.clean.{key}={value}" for key, value in own.items()]
    arguments = [f"--config={EXPERIMENT}", f"--config.clean.input={given}", *flags]
    assert main(["gptjax", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not Path("out/clean.json").exists()


def test_another_recipe_is_refused(crawl, cleaned, capsys):
    assert run(crawl, cleaned, stages="exact") == 2
    assert "was made from other files or settings" in capsys.readouterr().err


def test_ranks_under_the_name_of_a_sentencepiece_model_are_counted(tmp_path):
    """As Llama 3 has them."""
    rows = [b"%s %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256)]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(rows))
    assert counter(str(tmp_path / "tokenizer.model"))("the law") == 7


def test_a_tokenizer_that_does_not_say_how_documents_end_counts(tmp_path):
    library = hf.Tokenizer.from_str(bpe.train([b"the law " * 40], 270).decode())
    library.add_special_tokens(["<pad>"])
    (tmp_path / "tokenizer.json").write_text(library.to_str().replace("<|endoftext|>", "<end>"))
    assert counter(str(tmp_path / "tokenizer.json"))("the law") > 0


def test_texts_that_stay_as_they_are_are_counted_once(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(lines(records(0, 3)))
    (tmp_path / "tokenizer.json").write_bytes(bpe.train([page(0).encode()], 300))
    own = {"stages": "(exact,)", "tokenizer_path": tmp_path / "tokenizer.json"}
    monkeypatch.setattr(shards, "counter", lambda path: None)
    assert run(tmp_path / "a.jsonl", tmp_path / "out", **own) == 0
    result = json.loads((tmp_path / "out" / "clean.json").read_text())
    assert result["written"] == result["read"] and result["read"]["tokens"] > 0


def test_another_tokenizer_under_the_same_name_is_another_recipe(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(lines(records(0, 1)))
    own = {"stages": "exact", "tokenizer_path": tmp_path / "tokenizer.json"}
    for size, status in ((300, 0), (310, 2)):
        (tmp_path / "tokenizer.json").write_bytes(bpe.train([page(0).encode()], size))
        assert run(tmp_path / "a.jsonl", tmp_path / "out", **own) == status
    assert "was made from other files or settings" in capsys.readouterr().err
