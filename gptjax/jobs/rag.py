"""job=rag: answers from an index of documents, each with the documents that it stands on."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptjax.config import Config
from gptjax.data import files
from gptjax.data.clean import readers
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import section, setting
from gptjax.files import user_path
from gptjax.infer import rag, retrieval
from gptjax.infer.prompts import check_paths, read_rows, write_rows
from gptjax.infer.settings import PRESETS, SamplingConfig, with_preset
from gptjax.job import Job


@dataclasses.dataclass(frozen=True)
class Settings:
    """The model, the documents, the questions and the answers of job=rag."""

    model: str = setting(
        "",
        "folder of a model: ours, a run's, Hugging Face's, or a sweep's for its best cell; empty: "
        "a small model of the config's own sections is trained first",
    )
    documents: str = setting(
        "",
        "folder, file or pattern of documents (JSON lines, Parquet, WARC, plain text, compressed "
        "or not); empty: what the index holds",
    )
    index: str = setting(
        "", "folder of the index, which is built there if it is missing; empty: in the workdir"
    )
    text_field: str = setting("", "field of a record with its text; empty: the usual names")
    passage_words: int = setting(
        100,
        "documents are cut into so many words, and again where these are more tokens than half of "
        "the context; 0: no more than that",
        minimum=0,
    )
    retriever: str = setting(
        "bm25",
        "bm25, or dense: cosine of the model's own states",
        choices=rag.RETRIEVERS,
    )
    terms: str = setting(
        "words",
        "terms of bm25: words, or the tokenizer's tokens for languages without spaces",
        choices=("words", "tokens"),
    )
    marginal: str = setting(
        "sequence",
        "sequence: one passage behind the whole answer, token: another may be behind each token "
        "(Lewis et al. 2020)",
        choices=rag.MARGINALS,
    )
    sources: int = setting(4, "passages that are read for an answer", minimum=1)
    prior_temperature: float = setting(
        1.0, "divides the scores before P(passage | question) is their softmax", above=0.0
    )
    template: str = setting(
        r"{document}\n{question}", r"prompt, with {document}, {question}, and \n for a line feed"
    )
    question: str = setting("", "what is asked")
    questions: str = setting(
        "",
        "file of questions: a text in each line, or .jsonl with prompt, and with answer where the "
        "share of right ones is wanted",
    )
    output: str = setting("", ".jsonl file for answers and their sources")
    preset: str = setting(
        "greedy",
        "named settings in place of those below that are at their defaults; '' to sample at "
        "temperature 1",
        choices=("", *PRESETS),
    )
    sampling: SamplingConfig = section(SamplingConfig, "how an answer is made")


def check(config: Config) -> None:
    """Refuse no question or two sources of them, and a template without its two places."""
    asked: Settings = config.own["rag"]
    if bool(asked.question) == bool(asked.questions):
        raise UserError(
            f"rag.question={asked.question!r} and rag.questions={asked.questions!r}; give one of "
            "them"
        )
    check_paths("rag", asked.questions, asked.output, "questions")
    for place in ("{document}", "{question}"):
        if asked.template.count(place) != 1:
            raise UserError(f"rag.template={asked.template!r} must have {place} once; write it so")


def main(config: Config, folder: Path) -> int:
    """Build or read the index, answer every question, name the sources."""
    from gptjax import infer
    from gptjax.stages import find_model

    asked: Settings = config.own["rag"]
    start_backend(config)
    model = find_model.find(config, asked.model, folder)
    if model.tokenizer is None:
        raise UserError(
            f"rag.model={asked.model} has no tokenizer, so texts cannot be read; put the "
            "tokenizer's file into its folder"
        )
    index = _index(asked, model, folder)
    quick, request, rows = infer.for_few_rows(model), with_preset(asked.sampling, asked.preset), []
    for number, said in enumerate(_questions(asked)):
        found = rag.ask(
            quick,
            index,
            said["prompt"],
            request,
            retriever=asked.retriever,
            marginal=asked.marginal,
            documents=asked.sources,
            template=asked.template.replace(r"\n", "\n"),
            temperature=asked.prior_temperature,
            seed=number,
        )
        _print(said["prompt"], found)
        rows.append(_row(said, found, asked))
    write_rows(asked.output, rows)
    known = [row["right"] for row in rows if "right" in row]
    if known:
        print(f"{sum(known)} of {len(known)} answers are right ({sum(known) / len(known):.0%})")
    return 0


def _index(asked: Settings, model: Any, folder: Path) -> retrieval.Index:
    """The index of the folder, built there from the documents if it is missing.

    Raises:
      UserError: for an index of another tokenizer, of another model's states or of other files.
    """
    from gptjax.infer import dense_retrieval

    place = user_path(asked.index) if asked.index else folder / "index"
    if not (place / retrieval.FILE).exists():
        index = _build(asked, model)
        retrieval.save(index, place)
        print(f"{place}: {len(index.documents):,} passages of {asked.documents}", flush=True)
        return index
    index = retrieval.load(place, model.tokenizer)
    if asked.retriever == "dense":
        dense_retrieval.check_states(index, model)
    if asked.documents and index.stamp != _stamp(asked):
        raise UserError(
            f"{place} is an index of other files than rag.documents={asked.documents}, or of them "
            "at another time or in other passages; delete it, or name another folder in rag.index"
        )
    return index


def _build(asked: Settings, model: Any) -> retrieval.Index:
    from gptjax.infer import dense_retrieval

    if not asked.documents:
        raise UserError(
            "rag.documents='' names no document and there is no index yet; give "
            "--config.rag.documents=FOLDER"
        )
    names, texts = [], []
    for name, text in _passages(asked, model):
        names.append(name)
        texts.append(text)
    by_words = asked.terms == "words"
    index = retrieval.build(
        texts, model.tokenizer, names=names, stamp=_stamp(asked), by_words=by_words
    )
    return dense_retrieval.with_states(index, model) if asked.retriever == "dense" else index


def _passages(asked: Settings, model: Any) -> Iterator[tuple[str, str]]:
    """(name, text) of every passage: its document's name, and its number in it where it has more.

    Raises:
      UserError: for a file that cannot be read, and a record without a text.
    """
    broken = readers.Broken()

    def fits(text: str) -> bool:
        return not model.context or len(model.encode(text)) <= model.context // 2

    try:
        given = {"text_field": asked.text_field, "root": readers.root_of(asked.documents)}
        for file in readers.find(asked.documents):
            for one in readers.documents(file, broken, strict=True, **given):
                whole = [text for text in retrieval.passages(one.text, asked.passage_words) if text]
                cut = [piece for text in whole for piece in retrieval.halved(text, fits)]
                for number, text in enumerate(cut, 1):
                    yield f"{one.id} [{number}/{len(cut)}]" if len(cut) > 1 else one.id, text
    except UserError as error:
        raise _of_here(error) from error


def _stamp(asked: Settings) -> str:
    """A hash of which files there are and of how they are cut."""
    try:
        facts: list[Any] = files.facts(readers.find(asked.documents))
    except UserError as error:
        raise _of_here(error) from error
    facts += [asked.passage_words, asked.text_field, asked.terms]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _of_here(error: UserError) -> UserError:
    """The sentence with the names of this job's settings."""
    words = str(error).replace("clean.input", "rag.documents").replace("data.path", "rag.documents")
    return UserError(words.replace(readers.STRICT, ""))


def _questions(asked: Settings) -> list[dict[str, Any]]:
    """The lines of the file, or the one question.

    Raises:
      UserError: as `read_rows`, and for a prompt that is no text.
    """
    if asked.question:
        return [{"prompt": asked.question}]
    rows = read_rows(user_path(asked.questions))
    for place, said in rows:
        if not isinstance(said.get("prompt"), str):
            raise UserError(f'{place} has no text as prompt; write lines such as {{"prompt": "…"}}')
    return [said for _, said in rows]


def _print(question: str, found: rag.Grounded) -> None:
    print(f"--- {question}\n{found.answer.text}", flush=True)
    for source in found.sources:
        print(f"    {source.posterior:6.1%}  {source.name}", flush=True)
    if not any(source.score for source in found.sources):
        print("    no passage has a term of the question; these are the first ones", flush=True)


def _row(said: dict[str, Any], found: rag.Grounded, asked: Settings) -> dict[str, Any]:
    """A line of the output."""
    row = {
        **said,
        "text": found.answer.text,
        "tokens": list(found.answer.tokens),
        "finish": found.answer.finish,
        "marginal": asked.marginal,
        "logprob": round(found.logprob, 6),
        "sources": [
            {**vars(source), **{n: round(getattr(source, n), 6) for n in NUMBERS}}
            for source in found.sources
        ],
    }
    if isinstance(said.get("answer"), str):
        row["right"] = found.answer.text.strip() == said["answer"].strip()
    return row


NUMBERS = ("score", "prior", "posterior")

JOB = Job(main, Settings, check, one_run=True, trains=True)
