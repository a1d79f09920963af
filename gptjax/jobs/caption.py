"""job=caption: train a model of captioned pictures, then caption held-out ones and count the right.

With `config.model_folder` the decoder is that folder's and keeps its bits: only the tower and what
joins the two are trained.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import convert, infer, models
from gptjax.config import Config, enable_compilation_cache, load_corpus, make_run
from gptjax.convert import own_folder
from gptjax.convert.tensor_map import by_path, shapes_of
from gptjax.data import Corpus
from gptjax.data.pictures import texts_of
from gptjax.engines import claimed_run, workdir
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_atomic, write_json
from gptjax.infer.model import prepare
from gptjax.infer.settings import Sampling
from gptjax.job import Job
from gptjax.stages.run_log import Log, flops_per_token
from gptjax.train import (
    EXIT_RESUMABLE,
    Diverged,
    Hooks,
    Interrupted,
    RunSpec,
    Session,
    TrainState,
    make_layout,
    run,
    stop_on_signal,
)
from gptjax.train.loop import params_digest
from gptjax.train.state import state_of

ALL_BUT_VISION = r"^(?!vision/)"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The held-out pictures of job=caption."""

    pictures: int = setting(256, "held-out pictures to caption", minimum=1)
    max_tokens: int = setting(64, "most tokens of a caption", minimum=1)
    batch: int = setting(64, "pictures that are captioned together", minimum=1)


def check(config: Config) -> None:
    """Refuse a model without pictures, and captions that never end."""
    if not config.model.vision.join:
        raise UserError(
            "model.vision.join='' sees no pictures; set --config.model.vision.join=projected, "
            "gated or tiled"
        )
    if config.data.mask_end_of_document:
        raise UserError(
            "data.mask_end_of_document=True leaves the end of a caption unlearned; set "
            "--config.data.mask_end_of_document=false"
        )


class FrozenDecoder(Session):
    """Runs that begin with given parameters of the decoder."""

    def __init__(self, corpus: Corpus, config: Config, decoder: Any) -> None:
        super().__init__(corpus, config.train, lambda spec: make_layout(config.mesh, spec))
        self._decoder = decoder
        if decoder is not None:
            self.fingerprint = f"{self.fingerprint}-{params_digest(decoder)[:16]}"

    def init(self, spec: RunSpec) -> TrainState:
        """The fresh state, with the decoder's parameters in their places."""
        state = super().init(spec)
        if self._decoder is None:
            return state
        given = jax.tree.map(jnp.asarray, self._decoder)
        return state_of(spec, {**state.params, **given})


def main(config: Config, folder: Path) -> int:
    """Train, unless that is done; caption; write `captions.jsonl` and `result.json`."""
    start_backend(config)
    enable_compilation_cache(config)
    corpus = load_corpus(config)
    decoder, config = _decoder(config)
    spec = make_run(config, corpus)
    if decoder is not None:
        _check_decoder(config, spec, decoder)
    session = FrozenDecoder(corpus, config, decoder and decoder.params)
    workdir.open_workdir(config, folder, fingerprint=session.fingerprint)
    with claimed_run.claimed(folder, config.sweep.claim_seconds) as fence:
        if not own_folder.has_params(folder / own_folder.MODEL):
            status = _train(config, folder, session, spec, fence)
            if status:
                return status
    result = caption(config, folder, corpus) | {"flops": spec.tokens * flops_per_token(spec)}
    write_json(folder / "result.json", result)
    print(
        f"done: {result['exact']:.1%} of {result['pictures']} held-out captions are right word for "
        f"word; {folder / 'captions.jsonl'}"
    )
    return 0


def caption(config: Config, folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Caption held-out pictures, the likeliest token each time, and compare them with their own."""
    asked: Settings = config.own["caption"]
    model = prepare(convert.load(folder), name="the model", tokenizer=corpus.tokenizer)
    assert corpus.heldout_pictures is not None
    texts = texts_of(corpus.heldout, corpus.end_of_document)[: asked.pictures]
    sampling = Sampling(max_tokens=asked.max_tokens, temperature=0.0)
    rows = []
    for first in range(0, len(texts), asked.batch):
        wanted = [corpus.decode(ids).decode() for ids in texts[first : first + asked.batch]]
        pictures = corpus.heldout_pictures[first : first + len(wanted)]
        prompts = [[corpus.end_of_document]] * len(wanted)
        answers = infer.generate(model, prompts, sampling, pictures=pictures)
        for number, (text, answer) in enumerate(zip(wanted, answers, strict=True), first):
            rows.append({"picture": number, "caption": answer.text, "right": text})
    write_atomic(folder / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    exact = sum(row["caption"] == row["right"] for row in rows) / len(rows)
    return {"exact": exact, "pictures": len(rows)}


def _train(
    config: Config, folder: Path, session: Session, spec: RunSpec, fence: claimed_run.Fence
) -> int:
    """The run, from its last checkpoint if there is one."""
    own_folder.describe_run(folder, spec.model, config.data, session.corpus)
    log = Log(config, folder, spec)

    def keep(params: Any) -> None:
        own_folder.save_params(folder / own_folder.MODEL, params)

    with stop_on_signal() as stop:
        hooks = Hooks(log.progress, log.metrics, log.evaluation, stop, log.rollback, keep)
        try:
            run(session, spec, folder, fence.around(hooks))
        except Interrupted as stopped:
            print(f"{stopped}; the same command continues from here")
            return EXIT_RESUMABLE
        except Diverged as error:
            raise UserError(
                f"{error}; lower optim.learning_rate={spec.optim.learning_rate:g}"
            ) from error
        finally:
            log.close()
    return 0


def _decoder(config: Config) -> tuple[Any, Config]:
    """The parameters of `config.model_folder`, and the config that keeps them as they are."""
    if not config.general.model_folder:
        return None, config
    found = convert.load(config.general.model_folder)
    optim = dataclasses.replace(config.optim, frozen=(*config.optim.frozen, ALL_BUT_VISION))
    return found, dataclasses.replace(config, optim=optim)


FREE = frozenset(
    (
        *("family", "preset", "seq_len", "init_scale", "hidden_init_scale", "dropout", "vision"),
        *("layers", "attention_impl", "compute_dtype", "remat"),
    )
)
"""Settings of a decoder that change neither its shapes nor what it computes."""


def _check_decoder(config: Config, spec: RunSpec, found: convert.Model) -> None:
    """Refuse a decoder of other shapes, naming the first leaf, or one that computes otherwise."""
    plain = dataclasses.replace(spec.model, vision=type(spec.model.vision)())
    wanted, given = (
        {path: leaf.shape for path, leaf in by_path(tree).items()}
        for tree in (shapes_of(models.init, plain), found.params)
    )
    for path in sorted(wanted.keys() | given.keys()):
        if wanted.get(path) != given.get(path):
            raise UserError(
                f"config.model_folder={config.general.model_folder} has {path} of shape "
                f"{given.get(path)}, and the sections model and data make {wanted.get(path)}; give "
                "the settings that the decoder was trained with"
            )
    for field in dataclasses.fields(spec.model):
        theirs, ours = getattr(found.config, field.name), getattr(spec.model, field.name)
        if theirs != ours and field.name not in FREE:
            raise UserError(
                f"config.model_folder={config.general.model_folder} has model.{field.name}="
                f"{theirs!r}, and the config {ours!r}; give the settings that the decoder was "
                "trained with"
            )


JOB = Job(main, Settings, check, one_run=True, trains=True)
