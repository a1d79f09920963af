"""Every value that a config may name is reached through a config at least once.

The last test compares what the runs below chose with what the dataclasses allow, so that a new
value without a run here fails.
"""

import ast
import base64
import dataclasses
import functools
import json
import math
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from flat_settings import changed

from gptjax import config as configs
from gptjax import experiment, models
from gptjax.cost import memory
from gptjax.main import main
from gptjax.report import html
from gptjax.train import make_hyper, mixed_precision
from gptjax.train.feed import TokenFeed
from gptjax.train.objectives import next_token
from gptjax.train.session import make_advance
from gptjax.train.state import init_state

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

TINY = {
    "model.depth": 1,
    "model.width": 16,
    "model.num_heads": 2,
    "model.seq_len": 16,
    "data.heldout_fraction": 0.2,
    "train.tokens": 0,
    "train.steps": 4,
    "train.batch_size": 4,
    "train.evaluations": 1,
    "train.keep_best": False,
    "train.tensorboard": False,
    "model.vocab_size": 0,
    "optim.learning_rate": 1e-2,
}

TRAINED = {
    "a": {
        "data.source": "jsonl",
        "data.tokenizer": "bpe",
        "data.vocab_size": 300,
        "data.bpe.level": "bytes",
        "data.normalize": True,
        "model.norm": "layernorm",
        "model.norm_place": "post",
        "model.positions": "learned",
        "model.mlp": "gelu",
        "model.use_bias": True,
        "model.tied_head": False,
        "model.layers": "unroll",
        "optim.schedule": "wsd",
        "train.tensorboard": True,
        "config.device": "cpu",
        "data.deduplicate": False,
        "optim.name": "adam8bit",
        "optim.state_rounding": "stochastic",
        "model.width": 32,
        "model.remat": "sqrt",
        "model.softmaxes": 2,
    },
    "b": {
        "data.source": "text",
        "data.tokenizer": "sentencepiece",
        "data.vocab_size": 400,
        "data.sentencepiece.model": "unigram",
        "model.norm": "rmsnorm",
        "model.norm_place": "pre",
        "model.positions": "sinusoidal",
        "model.mlp": "swiglu",
        "model.use_bias": False,
        "model.tied_head": True,
        "model.layers": "scan",
        "model.compute_dtype": "bfloat16",
        "optim.schedule": "linear",
        "optim.name": "muon",
        "train.keep_best": True,
        "train.evaluations": 2,
        "model.attention_impl": "blockwise",
        "model.remat": "dots",
    },
    "c": {
        "data.source": "text",
        "data.tokenizer": "sentencepiece",
        "data.vocab_size": 400,
        "data.sentencepiece.model": "bpe",
        "model.positions": "rotary",
        "model.mlp": "geglu",
        "model.num_heads": 4,
        "model.num_kv_heads": 2,
        "model.remat": "block",
        "optim.schedule": "inverse_sqrt",
        "optim.name": "lion",
        "train.feed": "host",
        "train.micro_batches": 2,
        "train.document_attention": True,
        "model.attention_impl": "dense",
        "train.batch_doublings": 1,
        "train.batch_warmup_tokens": 128,
        "model.dropout.embedding": 0.1,
        "model.dropout.attention": 0.1,
        "model.dropout.residual": 0.1,
    },
    "d": {
        "data.source": "zipf-facts",
        "model.seq_len": 16,
        "data.mask_end_of_document": False,
        "data.zipf_facts.tokens": 4096,
        "data.zipf_facts.heldout_tokens": 2048,
        "model.positions": "none",
        "model.mlp": "relu",
        "optim.schedule": "constant",
        "train.feed": "device",
        "optim.name": "schedule_free",
        "optim.width_transfer": "mup",
        "optim.base_width": 8,
        "model.compute_dtype": "float16",
    },
    "e": {
        "data.source": "tfds",
        "data.tfds.name": "choice_texts",
        "data.tokenizer": "bytes",
        "model.mlp": "gelu_tanh",
        "optim.schedule": "cosine",
        "optim.name": "adamw",
        "optim.width_transfer": "none",
        "optim.state_rounding": "nearest",
        "model.remat": "none",
        "model.layers": "auto",
        "train.feed": "auto",
        "model.attention_impl": "auto",
        "train.param_dtype": "float32",
        "model.compute_dtype": "float32",
        "train.document_attention": False,
    },
    "f": {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 4096,
        "data.zipf_facts.heldout_tokens": 2048,
        "optim.name": "adafactor",
        "optim.sam_rho": 0.05,
        "optim.sam_adaptive": True,
        "train.param_dtype": "bfloat16",
        "model.remat": "auto",
        "train.memory_gb": 4,
    },
    "g": {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 4096,
        "data.zipf_facts.heldout_tokens": 2048,
        "optim.name": "sgd",
        "optim.adversarial_epsilon": 0.1,
        "optim.skip_not_finite": 2,
        "optim.ema_decay": 0.5,
        "optim.multipliers": "embed=0.5,mlp=2",
        "train.noise_scale": True,
        "train.micro_batches": 2,
        "train.loss_chunk": 24,
        "model.mlp_pattern": "('experts',)",
        "model.experts.count": 4,
        "model.use_bias": False,
        "model.experts.router_noise": True,
        "model.experts.balance_over": "sequence",
        "model.experts.load_loss": 0.1,
        "model.experts.capacity_factor": 1.25,
        "model.compute_dtype": "auto",
    },
    "h": {  # Seven kinds of attention take half a minute to compile; built below they take two.
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 4096,
        "data.zipf_facts.heldout_tokens": 2048,
        "model.layer_pattern": (
            "(strided,fixed,blocksparse,longformer,linformer,performer,reformer)"
        ),
        "model.depth": 7,
        "model.window": 5,
        "model.mixer.reformer.chunk": 4,
        "model.mixer.reformer.rounds": 2,
        "model.mixer.sparse.summary": 2,
        "model.mixer.longformer.global_tokens": 2,
        "model.mixer.performer.features": 8,
        "model.positions": "rotary",
        "model.layers": "unroll",
    },
}

# Refused on a CPU, with the repair.
REFUSED = {"offload": {"model.remat": "offload"}}

# Built from a config and applied once; what the runs above train is not repeated.
BUILT = {
    "linear": {"model.rope.scaling": "linear", "model.block": "parallel", "model.mlp": "silu"},
    "ntk": {
        "model.rope.scaling": "ntk",
        "model.block": "parallel_shared_norm",
        "model.mlp": "reglu",
        "model.qk_norm": "per_head",
        "model.rope.layout": "interleaved",
    },
    "dynamic": {
        "model.rope.scaling": "dynamic",
        "model.norm_place": "both",
        "model.norm_plus_one": True,
        "model.qk_norm": "shared",
        "model.mlp": "geglu_tanh",
        "model.rope.layout": "half",
    },
    "yarn": {
        "model.rope.scaling": "yarn",
        "model.layer_pattern": "('local','global')",
        "model.window": 5,
        "model.attention_sinks": True,
        "model.block": "sequential",
    },
    "longrope": {
        "model.rope.scaling": "longrope",
        "model.rope.short_factors": "(1,1,1,1)",
        "model.rope.long_factors": "(2,2,4,4)",
        "model.attention_gate": True,
        "model.bias_places": "('qkv','out','mlp','norm')",
        "model.qk_norm": "none",
    },
    "llama3": {"model.rope.scaling": "llama3"},
    "sparse": {
        "model.layer_pattern": (
            "(strided,fixed,blocksparse,longformer,linformer,performer,reformer)"
        ),
        "model.depth": 7,
        "model.window": 5,
        "model.mixer.reformer.chunk": 4,
        "model.layers": "scan",
        "model.mlp": "gegelu",
        "model.mlp_limit": 2.0,
    },
    "plain rotary": {"model.rope.scaling": "none"},
    "alibi": {"model.positions": "alibi", "model.mlp": "quick_gelu"},
    "experts": {
        "model.mlp_pattern": "('experts',)",
        "model.experts.count": 4,
        "model.experts.router": "softmax",
        "model.use_bias": False,
        "model.experts.balance_over": "batch",
    },
    "hybrid": {
        "model.layer_pattern": "('ssm','local')",
        "model.window": 5,
        "model.depth": 4,
        "model.mlp_pattern": "('none','experts','dense')",
        "model.experts.count": 3,
        "model.experts.router": "renormalised",
        "model.use_bias": False,
        "model.mixer.ssm.scan": "associative",
    },
    "in turn": {
        "model.layer_pattern": "('ssm','global')",
        "model.depth": 2,
        "model.mixer.ssm.scan": "in_turn",
    },
    "by the backend": {
        "model.layer_pattern": "('ssm','global')",
        "model.depth": 2,
        "model.mixer.ssm.scan": "auto",
    },
}

PLANNED = {
    "isoflop": {
        "sweep.plan": "isoflop",
        "sweep.depth_rule": "aspect",
        "sweep.rule": "demo",
        "sweep.engine": "local",
    },
    "grid": {
        "sweep.plan": "grid",
        "sweep.widths": "(16,32)",
        "sweep.tokens": "(1e6,2e6)",
        "sweep.rule": "fixed",
        "sweep.depth_rule": "fixed",
        "data.source": "python_stdlib",
    },
    "demo_trunk": {
        "sweep.rule": "demo_trunk",
        "sweep.share_trunks": True,
        "sweep.engine": "ray",
    },
    "kaplan": {"sweep.rule": "kaplan", "sweep.share_trunks": False, "data.source": "python-stdlib"},
    "deepseek": {"sweep.rule": "deepseek"},
    "ranks": {
        "data.source": "text",
        "data.heldout_fraction": 0.2,
        "model.seq_len": 16,
        "data.tokenizer": "tiktoken",
        "data.tiktoken.pattern": "gpt2",
    },
    "other ranks": {
        "data.source": "text",
        "data.heldout_fraction": 0.2,
        "model.seq_len": 16,
        "data.tokenizer": "tiktoken",
        "data.tiktoken.pattern": "cl100k",
    },
    "ranks of o200k": {
        "data.source": "text",
        "data.heldout_fraction": 0.2,
        "model.seq_len": 16,
        "data.tokenizer": "tiktoken",
        "data.tiktoken.pattern": "o200k",
        "data.lossy": True,
    },
    "characters": {
        "data.source": "text",
        "data.heldout_fraction": 0.2,
        "model.seq_len": 16,
        "data.tokenizer": "bpe",
        "data.bpe.level": "characters",
        "data.vocab_size": 400,
    },
    "sums": {
        "data.source": "arithmetic",
        "data.arithmetic.digits": 2,
        "data.arithmetic.problems": 5000,
        "data.heldout_fraction": 0.2,
        "model.seq_len": 16,
    },
    "pictures": {"data.source": "captioned-shapes", "model.seq_len": 64},
    "pictures again": {"data.source": "captioned_shapes", "model.seq_len": 64},
    "step_law": {"sweep.rule": "step_law", "data.source": "zipf_facts", "model.seq_len": 64},
}

FITTED = {
    "a": {
        "fit.params_convention": "total",
        "fit.flops_convention": "exact",
        "fit.loss_kind": "huber_log",
        "fit.weights": "stderr",
        "fit.group_by": "trunk",
        "fit.approaches": "('parametric',)",
        "report.formats": "('png','svg','pdf')",
        "fit.next_quantity": "loss",
        "fit.loss_unit": "nats",
        "fit.tokens_convention": "auto",
    },
    "b": {
        "fit.params_convention": "non_embedding",
        "fit.flops_convention": "6nd",
        "fit.loss_kind": "squares_log",
        "fit.group_by": "run",
        "fit.tied_exponents": True,
        "fit.next_quantity": "log_params",
        "fit.approaches": "('isoflop','parametric')",
    },
    "c": {
        "fit.params_convention": "non_embedding_with_head",
        "fit.loss_kind": "lad_log",
        "fit.weights": "none",
        "fit.group_by": "auto",
        "fit.approaches": "('parametric',)",
        "fit.diagnostics": False,
        "fit.tied_exponents": False,
    },
    "d": {
        "fit.loss_kind": "huber",
        "fit.delta": 0.01,
        "fit.approaches": "('parametric',)",
        "fit.loss_unit": "bits",
        "fit.tokens_convention": "seen",
        "fit.keep_duplicates": True,
    },
    "e": {
        "fit.loss_kind": "squares",
        "fit.approaches": "('parametric',)",
        "fit.loss_unit": "perplexity",
        "fit.tokens_convention": "one_epoch",
    },
    "f": {"fit.loss_kind": "lad", "fit.approaches": "('parametric',)", "fit.check_units": False},
}

ELSEWHERE = {
    ("config", "job"): "each job has its test in test_jobs.py and test_kill.py",
    ("config", "device"): "auto and cpu run here; gpu and tpu need the device",
    ("fit", "approaches"): "the envelope needs curves: test_kill.py",
    ("convert", "direction"): "tests/convert/test_convert_job.py",
    ("convert", "dtype"): "tests/convert/test_convert_job.py and test_huggingface.py",
    ("model", "family"): "one family so far",
    ("config", "distributed"): "two processes: tests/parallel/test_processes.py",
    ("mesh", "zero"): "eight devices: tests/parallel/on_eight_devices.py",
    ("mesh", "schedule"): "eight devices: tests/parallel/on_eight_devices.py",
    ("mesh", "context"): "eight devices: tests/parallel/on_eight_devices.py",
    ("mesh", "sequence_parallel"): "eight devices: tests/parallel/on_eight_devices.py",
    ("finetune", "method"): "tests/align/test_finetune.py and test_preferences.py",
    ("finetune", "chat"): "tests/align/test_finetune.py",
    ("finetune", "packing"): "tests/align/test_finetune.py",
    ("finetune", "drop_long"): "tests/align/test_finetune.py",
    ("align", "method"): "tests/align/test_policy.py, both in job=align_task",
    ("align", "reward"): "tests/align/test_policy.py",
    ("align", "kl"): "tests/align/test_policy.py, the usual ones in job=align_task",
    ("align", "aggregate"): "tests/align/test_policy.py",
    ("align", "watch"): "tests/align/test_policy.py",
    ("align", "scaled"): "tests/align/test_policy.py",
    ("clean", "engine"): "tests/jobs/test_clean.py",
    ("clean", "stages"): "tests/jobs/test_clean.py",
    ("clean", "strict"): "tests/jobs/test_clean.py",
    ("clean", "format"): "tests/jobs/test_clean.py",
    ("mixture_law", "form"): "tests/scaling/test_mixture_laws.py",
    ("context_extension", "plant"): "tests/jobs/test_memorization.py",
    ("ensemble", "combination"): "tests/jobs/test_ensemble.py",
    ("evaluate", "style"): "tests/jobs/test_evaluate.py",
    ("quantize", "method"): "tests/jobs/test_quantize.py",
    ("quantize", "scales"): "tests/jobs/test_quantize.py",
    ("quantize", "activations"): "tests/jobs/test_quantize.py",
    ("quantize", "embedding_bits"): "tests/jobs/test_quantize.py",
    ("quantize", "budget_bits"): "tests/jobs/test_quantize.py and tests/quant/test_sensitivity.py",
    ("quantize", "activation_order"): "tests/quant/test_gptq.py",
    ("sweep", "quantize_bits"): "tests/jobs/test_precision_law.py",
    ("sweep", "tune"): "tests/jobs/test_tune.py",
    ("sweep", "retry_failed"): "cells that fail in real processes: tests/faults",
    ("sweep", "mixed"): "records of two versions of jax in one folder: tests/faults",
    ("sample", "chat"): "tests/jobs/test_sample.py",
    ("sample", "preset"): "tests/jobs/test_sample.py",
    ("compile", "base"): "nf4 in tests/jobs/test_compile.py, affine as job=quantize makes it",
    ("rag", "retriever"): "tests/jobs/test_rag.py",
    ("rag", "terms"): "tests/jobs/test_rag.py",
    ("rag", "marginal"): "tests/jobs/test_rag.py",
    ("rag", "preset"): "read as sample.preset",
    ("serve", "chat"): "read as sample.chat; one of them through HTTP: tests/infer/test_server.py",
    ("serve", "warm"): "off in tests/jobs/test_serve.py, on in tests/infer/test_batching.py",
    ("train", "wandb"): "an extra; refused with a sentence where it is absent",
    ("report", "open"): "opens a browser",
}


def run(experiment: str, settings: dict, workdir: Path) -> int:
    flags = [f"--config.{name.removeprefix('config.')}={value}" for name, value in settings.items()]
    path = EXPERIMENTS / f"{experiment}.py"
    return main(["gptjax", f"--config={path}", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Text and JSONL files, and a real TFDS dataset written to disk."""
    root = tmp_path_factory.mktemp("choices")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijkl", k=rng.randint(2, 7))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=120)) for _ in range(80)]
    (root / "text").mkdir()
    for i, text in enumerate(texts):
        (root / "text" / f"{i}.txt").write_text(text)
    lines = [json.dumps({"text": text}) for text in texts]
    (root / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return root


def source_settings(settings: dict, place: Path) -> dict:
    source = settings.get("data.source")
    found = {"data.cache_dir": place / "cache", **settings}
    if source == "text":
        found["data.path"] = place / "text"
    if source == "jsonl":
        found["data.path"] = place / "texts.jsonl"
    if source == "tfds":
        found["data.path"] = write_tfds(place)
    if settings.get("data.tokenizer") == "tiktoken":
        lines = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)]
        (place / "ranks").write_text("\n".join(lines))
        found["data.tokenizer_path"] = place / "ranks"
    return found


def write_tfds(place: Path) -> Path:
    """A TFDS dataset named choice_texts in array_record files."""
    import tensorflow_datasets as tfds

    texts = [file.read_text() for file in sorted((place / "text").glob("*.txt"))]

    class ChoiceTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"text": text}) for i, text in enumerate(texts))

    folder = place / "tfds"
    ChoiceTexts(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def slow(names, *some):
    return [pytest.param(n, marks=pytest.mark.slow) if n in some else n for n in names]


@pytest.mark.parametrize("name", ["a", "c", "d", "e", "f", "g"])
def test_steps_are_traced(name, place, monkeypatch):
    """The config makes a run whose steps keep the shapes of its state; nothing is compiled."""
    settings = source_settings({**TINY, **TRAINED[name]}, place)
    flags = [(key.removeprefix("config."), str(value)) for key, value in settings.items()]
    values = experiment.override(experiment.load(str(EXPERIMENTS / "train_gpt2_small.py")), flags)
    config = configs.make_config(values)
    corpus = configs.load_corpus(config)
    monkeypatch.setattr(memory, "compiled_bytes", lambda spec: (2**20, 0))
    spec = mixed_precision.resolve_compute_type(configs.make_run(config, corpus))
    spec = memory.resolve_remat(spec, config.train.memory_gb)
    feed = TokenFeed(corpus)
    assert spec.tokens == 4 * 4 * 16
    state = jax.eval_shape(lambda key: init_state(spec.origin, key), jax.random.key(0))
    advance = make_advance(spec.program, feed, next_token(spec.program))
    found, metrics = jax.eval_shape(advance, state, feed.arrays, make_hyper(spec), np.int32(1))
    assert found == state and metrics.loss.dtype == np.float32


@pytest.mark.parametrize("name", slow(TRAINED, "a", "c", "d", "e", "f", "g", "h"))
def test_train(name, place, tmp_path):
    settings = source_settings({**TINY, **TRAINED[name]}, place)
    assert run("train_gpt2_small", settings, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < result["loss"] < 7
    assert result["tokens"] == 4 * 4 * 16
    assert all(math.isfinite(loss) for loss in result["curve"]["loss"])
    events = list((tmp_path / "run").glob("tensorboard/events*"))
    assert bool(events) == (name == "a")
    best = (tmp_path / "run" / "checkpoints" / "best").exists()
    assert best == (name == "b")


def built(name):
    """(The model of a config, the same without positions, abstract parameters)."""
    settings = {**TINY, "model.positions": "rotary", "model.rope.factor": 4.0, **BUILT[name]}
    settings["model.vocab_size"] = 31
    texts = [(name.removeprefix("config."), str(value)) for name, value in settings.items()]
    setup = configs.make_config(experiment.override(configs.default_config().to_dict(), texts))
    model = models.resolve(setup.model)
    shapes = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))
    return model, changed(model, positions="none", rope_scaling="none"), shapes


TOKENS = np.arange(12, dtype=np.int32)[None]


@pytest.mark.parametrize("name", slow(BUILT, "sparse", "hybrid"))
def test_built(name):
    model, plain, shapes = built(name)
    rng = np.random.default_rng(0)
    # Normals of the host: to compile `init` would take as long as to compile the model.
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
    # Compiled whole: operation by operation would take several times as long.
    logits, other = jax.jit(
        lambda params: [models.apply(one, params, TOKENS) for one in (model, plain)]
    )(params)
    assert np.isfinite(logits).all()
    assert np.abs(logits - other).max() > 1e-6


@pytest.mark.parametrize("name", ["sparse", "hybrid"])
def test_many_kinds_in_one_model_are_traced(name):
    """What `pytest -m slow` builds: the largest programs of this file."""
    model, _, shapes = built(name)
    logits = jax.eval_shape(functools.partial(models.apply, model), shapes, TOKENS)
    assert logits.shape == (1, 12, 31) and logits.dtype == np.float32


def test_refused_on_a_cpu(place, tmp_path, capsys):
    settings = source_settings({**TINY, **TRAINED["d"], **REFUSED["offload"]}, place)
    assert run("train_gpt2_small", {**settings, "config.device": "cpu"}, tmp_path / "run") == 2
    assert "this is a CPU; set model.remat=sqrt" in capsys.readouterr().err


@pytest.mark.parametrize("name", PLANNED)
def test_plan(name, place, tmp_path, capsys):
    settings = {"config.job": "plan", "sweep.budgets": "(1e12,3e12)", "sweep.batch_scale": 0.25}
    settings = source_settings({**settings, **PLANNED[name]}, place)
    assert run("chinchilla_sweep", settings, tmp_path / "run") == 0
    assert "cells" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", FITTED)
def test_fit(name, tmp_path, monkeypatch):
    """A noiseless table of a known law: every choice that keeps its meaning must find it.

    One draws the page's first figure, in every format. The checks beside the law are made by
    tests/scaling/test_documented_examples.py, whose commands leave them on.
    """
    table = tmp_path / "runs.csv"
    names = "params_total,params_non_embedding,params_non_embedding_with_head"
    units = {"nats": lambda x: x, "bits": lambda x: x / math.log(2), "perplexity": math.exp}
    in_unit = units[FITTED[name].get("fit.loss_unit", "nats")]
    epochs = 4.0 if FITTED[name].get("fit.tokens_convention") == "one_epoch" else 1.0
    lines = [f"{names},tokens,epochs,flops,budget,loss,loss_stderr,trunk"]
    for i, budget in enumerate(np.geomspace(1e17, 1e19, 5)):
        best = (budget / 6) ** 0.5 / 5
        for ratio in np.geomspace(0.3, 3, 7):
            params = best * ratio
            tokens = budget / 6 / params
            loss = 1.7 + 400 / params**0.34 + 400 / tokens**0.28
            counted = (tokens / epochs, epochs, budget, budget)
            row = (params, params, params, *counted, in_unit(loss), 0.001)
            lines.append(",".join(f"{x!r}" for x in map(float, row)) + f",t{i}{ratio:.2f}")
    table.write_text("\n".join(lines) + "\n")
    settings = {"fit_table.table": table, "fit.resamples": 4, "fit.starts": 8, "report.dpi": 50}
    settings |= {"fit.diagnostics": False, "fit.holdout_budgets": 0}
    plots = html.choose_plots
    monkeypatch.setattr(html, "choose_plots", lambda *given: plots(*given)[:1])
    if "report.formats" not in FITTED[name]:
        monkeypatch.setattr("gptjax.report.build", lambda *_, **__: "not drawn")
    workdir = tmp_path / "run"
    assert run("fit_table", {**settings, **FITTED[name]}, workdir) == 0
    laws = json.loads((workdir / "laws.json").read_text())["laws"]
    found = laws["chinchilla_parametric"]["params"]
    if not FITTED[name].get("fit.tied_exponents"):
        assert found["E"]["value"] == pytest.approx(1.7, rel=1e-3)
        assert found["alpha"]["value"] == pytest.approx(0.34, rel=1e-2)
    else:
        assert found["alpha"]["value"] == found["beta"]["value"]
    assert ("isoflop" in laws) == ("isoflop" in FITTED[name].get("fit.approaches", "isoflop"))
    for ending in ast.literal_eval(FITTED[name].get("report.formats", "()")):
        assert list((workdir / "figures").glob(f"*.{ending}"))


def test_no_choice_is_left_out():
    chosen: dict[tuple[str, str], set] = {}
    tables = (REFUSED, TRAINED, BUILT, PLANNED, FITTED)
    for settings in (settings for table in tables for settings in table.values()):
        for name, value in settings.items():
            section, _, key = name.rpartition(".")
            texts = value.strip("()").replace("'", "").split(",") if _is_list(value) else [value]
            chosen.setdefault((section, key), set()).update(text for text in texts if text != "")
    missing = []
    for section, cls in {"config": configs.General, **configs.sections()}.items():
        defaults = cls()
        for field in dataclasses.fields(cls):
            if (section, field.name) in ELSEWHERE:
                continue
            allowed = field.metadata.get("choices")
            if isinstance(getattr(defaults, field.name), bool):
                allowed = (not getattr(defaults, field.name),)
            for value in allowed or ():
                if value not in chosen.get((section, field.name), set()):
                    missing.append(f"{section}.{field.name}={value}")
    assert not missing, f"no test reaches {', '.join(missing)} through a config"


def _is_list(value: object) -> bool:
    return isinstance(value, str) and value.startswith("(")
