"""job=caption and pictures as data: every join by a config, resume, a frozen decoder, a sweep."""

import contextlib
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from gptjax import config as configs
from gptjax import convert, data, experiment
from gptjax.data.pictures import resized, texts_of
from gptjax.data.sources.captioned_shapes import CaptionedShapesConfig, draw
from gptjax.engines import cells
from gptjax.errors import UserError
from gptjax.fields import replaced
from gptjax.jobs import caption
from gptjax.main import main
from gptjax.train import Session, make_hyper
from gptjax.train.session import make_advance
from gptjax.train.state import init_state

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "vision_language.py"
TINY = {
    "data.captioned_shapes.pictures": 40,
    "data.captioned_shapes.pixels": 12,
    "data.heldout_fraction": 0.2,
    "model.vision.image_size": 12,
    "model.vision.patch_size": 6,
    "model.vision.tower_width": 16,
    "model.vision.tower_depth": 1,
    "model.width": 16,
    "model.num_heads": 2,
    "model.seq_len": 48,
    "train.steps": 4,
    "train.batch_size": 4,
    "train.evaluations": 1,
    "caption.pictures": 3,
    "caption.max_tokens": 5,
}


def run(workdir, settings=(), what=""):
    flags = [f"--config.{name}={value}" for name, value in {**TINY, **dict(settings)}.items()]
    return main(["gptjax", f"--config={EXPERIMENT}{what}", f"--workdir={workdir}", *flags])


def made(**changes):
    flags = [(name, str(value)) for name, value in (TINY | changes).items()]
    values = experiment.override(experiment.load(str(EXPERIMENT)), flags)
    return configs.make_config(values)


PROJECTED = {"model.vision.join": "projected"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of the first join."""
    folder = tmp_path_factory.mktemp("caption") / "whole"
    assert run(folder, PROJECTED) == 0
    return folder


def check_captions(folder):
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert result["pictures"] == len(lines) == 3 and 0 <= result["exact"] <= 1
    assert all(line["right"].startswith("a ") and line["caption"] for line in lines)


def test_a_join_is_trained_and_captions(whole):
    check_captions(whole)


@pytest.mark.slow
@pytest.mark.parametrize("join", ["gated", "tiled"])
def test_other_joins_are_trained_and_caption(tmp_path, join):
    """Half a minute of compiling each: pytest -m slow tests/jobs/test_caption.py."""
    assert run(tmp_path, {"model.vision.join": join}) == 0
    check_captions(tmp_path)


@pytest.mark.parametrize("join", ["gated", "tiled"])
def test_steps_of_other_joins_are_traced(join):
    """From their configs, with the tower among what is trained; nothing is compiled."""
    config = made(**{"model.vision.join": join})
    corpus = configs.load_corpus(config)
    spec, session = configs.make_run(config, corpus), Session(corpus, config.train)
    state = jax.eval_shape(lambda key: init_state(spec.origin, key), jax.random.key(0))
    assert "cross" in state.params["vision"]
    advance = make_advance(spec.program, session.feed, session.objective_of(spec.program))
    inputs = (state, session.feed.arrays, make_hyper(spec), np.int32(1))
    found, metrics = jax.eval_shape(advance, *inputs)
    assert found == state and metrics.loss.dtype == np.float32


@pytest.mark.parametrize("join", ["projected", pytest.param("gated", marks=pytest.mark.slow)])
def test_a_stopped_run_ends_with_the_same_bits(join, request, tmp_path, monkeypatch, capsys):
    settings = PROJECTED if join == "projected" else {"model.vision.join": join}
    if join == "projected":
        whole = request.getfixturevalue("whole")
    else:
        whole = tmp_path / "whole"
        assert run(whole, settings) == 0
    calls = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr("gptjax.train.session.MAX_STEPS_PER_CALL", 2)
        stop = contextlib.nullcontext(lambda: next(calls, True))
        patch.setattr(caption, "stop_on_signal", lambda: stop)
        assert run(tmp_path / "cut", settings) == caption.EXIT_RESUMABLE
    assert "the same command continues" in capsys.readouterr().out
    assert run(tmp_path / "cut", settings) == 0
    one, cut = (convert.load(folder).params for folder in (whole, tmp_path / "cut"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, cut)))


@pytest.mark.slow
def test_a_frozen_decoder_keeps_its_bits(tmp_path, capsys):
    assert run(tmp_path / "decoder", what=":decoder") == 0
    settings = {"model.vision.join": "gated", "config.model_folder": tmp_path / "decoder"}
    settings["model_folder"] = settings.pop("config.model_folder")
    assert run(tmp_path / "frozen", settings) == 0
    before, after = (convert.load(tmp_path / name).params for name in ("decoder", "frozen"))
    vision = after.pop("vision")
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))
    assert np.any(vision["cross"]["mlp_gate"])  # zero at first: it was trained
    capsys.readouterr()
    assert run(tmp_path / "other", settings | {"model.width": 24}) == 2
    assert "decoder has blocks/attention/key of shape (2, 16, 2, 8)" in capsys.readouterr().err
    assert (
        main(
            [
                "gptjax",
                f"--config={EXPERIMENT.parent / 'sample.py'}",
                f"--workdir={tmp_path / 's'}",
                f"--config.sample.model={tmp_path / 'frozen'}",
            ]
        )
        == 2
    )
    assert "use job=caption" in capsys.readouterr().err


@pytest.mark.slow
def test_cells_of_a_sweep_see_their_pictures():
    """Stacked cells are those trained alone, and sizes and FLOPs of the plan hold the tower."""
    grid = {"job": "sweep", "sweep.plan": "grid", "sweep.rule": "fixed"}
    sizes = {"sweep.widths": "(8,16)", "sweep.tokens": "(4000,)"}
    config = made(**{"model.vision.join": "gated", **grid, **sizes})
    corpus = configs.load_corpus(config)
    runs = [cell.run for cell in cells.make_cells(config, corpus)]
    assert [run.model.width for run in runs] == [8, 16]
    assert all(run.model.vision.join == "gated" for run in runs)
    session, spec = Session(corpus, config.train), runs[0]
    two = [spec, replaced(spec, {"seed": 7})]
    alone = [session.advance(one, session.init(one), make_hyper(one), 2)[1].loss for one in two]
    assert abs(float(alone[0][1] - alone[1][1])) > 1e-4
    state, hyper = (
        jax.tree.map(lambda *x: np.stack(x), *map(make, two)) for make in (session.init, make_hyper)
    )
    stacked = session.advance_stack(spec, state, hyper, 2)[1].loss
    np.testing.assert_allclose(stacked[:, :2], np.array(alone)[:, :2], rtol=2e-5)


def test_rows_hold_one_document_with_its_own_picture():
    """Each caption stands with the picture that it was drawn for, and is scored to its end."""
    config = made(**{"data.captioned_shapes.shapes_seed": 3})
    corpus = configs.load_corpus(config)
    drawn = {picture.tobytes(): text for text, picture in draw(CaptionedShapesConfig(40, 12, 3))}
    sides = (corpus.train, corpus.train_pictures), (corpus.heldout, corpus.heldout_pictures)
    for tokens, pictures in sides:
        texts = texts_of(tokens, corpus.end_of_document)
        assert [drawn[picture.tobytes()] for picture in pictures] == [*map(corpus.decode, texts)]
    spec, session = configs.make_run(config, corpus), Session(corpus, config.train)
    batch = session.feed.batch(spec, session.feed.read(spec, session.feed.arrays, np.array([0])))
    end, text = corpus.end_of_document, texts_of(corpus.train, corpus.end_of_document)[0].tolist()
    n = len(text)
    assert np.asarray(batch.inputs_BT)[0, 4 : 5 + n].tolist() == [end, *text]
    assert np.asarray(batch.targets_BT)[0, 4 : 5 + n].tolist() == [*text, end]
    assert np.flatnonzero(batch.weights_BT[0]).tolist() == list(range(4, 5 + n))
    score = session.evaluate(spec, session.init(spec).params)
    per_byte = score.loss / np.log(2) * sum(map(len, drawn.values())) / 40
    assert score.bits_per_byte == pytest.approx(score.loss / np.log(2) / corpus.bytes_per_token)
    assert per_byte > 0


def write_pictures(folder, pictures):
    lines = []
    for number, picture in enumerate(pictures):
        name = f"{number}.png" if number % 2 else f"{number}.npy"
        Image.fromarray(picture).save(folder / name) if number % 2 else np.save(
            folder / name, picture
        )
        lines.append({"text": f"picture {number}", "picture": name})
    path = folder / "pictures.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def into_pipe(path):
    path.unlink()
    os.mkfifo(path)


def deep(path):
    Image.fromarray(np.full((9, 9), 300, np.uint16)).save(path)


def settings_of(path, **more):
    asked = {"source": "jsonl", "path": str(path), "picture_field": "picture", **more}
    return replaced(data.DataConfig(), {"heldout_fraction": 0.3, **asked})


def test_pictures_of_files(tmp_path, monkeypatch):
    """.npy and .png by paths beside the lines; a picture that changed makes another corpus."""
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    drawn = [picture for _, picture in draw(CaptionedShapesConfig(12, 9))]
    path = write_pictures(tmp_path, drawn)
    corpus = data.load(settings_of(path), seq_len=16)
    for text, picture in zip(
        texts_of(corpus.train, corpus.end_of_document), corpus.train_pictures, strict=True
    ):
        number = int(corpus.decode(text).decode().split()[1])
        assert np.array_equal(picture, drawn[number])
    small = data.load(settings_of(path, picture_size=4), seq_len=16)
    assert small.train_pictures.shape[1:] == (4, 4, 3)
    np.save(tmp_path / "0.npy", 255 - drawn[0])
    assert data.load(settings_of(path), seq_len=16).fingerprint != corpus.fingerprint


def test_captions_of_one_picture_are_on_one_side(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    drawn = [picture for _, picture in draw(CaptionedShapesConfig(12, 9))]
    path = write_pictures(tmp_path, drawn)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    more = [line | {"text": f"{line['text']} again {n}"} for line in lines for n in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines + more))
    corpus = data.load(settings_of(path), seq_len=16)
    sides = [
        {picture.tobytes() for picture in pictures}
        for pictures in (corpus.train_pictures, corpus.heldout_pictures)
    ]
    assert len(corpus.train_pictures) + len(corpus.heldout_pictures) == 72
    assert len(sides[0]) + len(sides[1]) == 12 and not sides[0] & sides[1]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels_is_resized_alike(channels):
    picture = np.random.default_rng(0).integers(0, 255, (6, 9, channels), np.uint8)
    small = resized(picture, 4)
    assert small.shape == (4, 4, channels) and small.dtype == np.uint8
    assert np.array_equal(small[..., :1], resized(picture[..., :1], 4))
    if channels == 3:
        whole = Image.fromarray(picture).resize((4, 4), Image.Resampling.BILINEAR)
        assert np.array_equal(small, np.asarray(whole))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "1.png").unlink(), "line 2: the picture .*1.png cannot be read"),
        (lambda folder: (folder / "1.png").write_text("no"), "line 2: .* is no picture"),
        (lambda folder: into_pipe(folder / "1.png"), "line 2: .*1.png is a named pipe"),
        (lambda folder: into_pipe(folder / "0.npy"), "line 1: .*0.npy is a named pipe"),
        (lambda folder: deep(folder / "1.png"), "line 2: .* more than 8 bits a value"),
        (lambda folder: np.save(folder / "0.npy", np.zeros((9, 9))), "line 1: .* holds float64"),
        (lambda folder: np.save(folder / "2.npy", np.zeros((3, 9, 3), np.uint8)), "picture_size"),
    ],
)
def test_pictures_that_cannot_be_used_are_told_by_line(tmp_path, monkeypatch, spoil, words):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    path = write_pictures(tmp_path, [picture for _, picture in draw(CaptionedShapesConfig(4, 9))])
    spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        data.load(settings_of(path), seq_len=16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.vision.image_size": 18}, "data.picture_size=18"),
        ({"model.seq_len": 40}, "set model.seq_len=4"),
        ({"data.source": "zipf-facts"}, "data.source=captioned-shapes"),
        ({"data.source": "zipf-facts", "data.picture_size": 8}, "data.picture_field"),
        ({"data.mask_end_of_document": True}, "data.mask_end_of_document=false"),
        ({"model.vision.join": ""}, "model.vision.join=projected"),
        ({"optim.width_transfer": "mup"}, "optim.width_transfer=none"),
        ({"data.normalize": True}, "data.normalize=false"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tmp_path, capsys, changes, words):
    assert run(tmp_path / "w", changes) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
