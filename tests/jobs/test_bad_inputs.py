"""What users get wrong: one sentence on standard error, status 2, nothing written, no traceback."""

import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax import config as configs
from gptjax.engines import ray as ray_tasks
from gptjax.engines import workdir
from gptjax.experiment import load, override
from gptjax.main import main

REPO = Path(__file__).parents[2]
EXPERIMENTS = REPO / "experiments"
SWEEP = f"--config={EXPERIMENTS / 'chinchilla_sweep.py'}"
FIT_TABLE = f"--config={EXPERIMENTS / 'fit_table.py'}"
PREDICT = f"--config={EXPERIMENTS / 'predict.py'}"
TRAIN = f"--config={EXPERIMENTS / 'train_gpt2_small.py'}"
CPU_SECONDS = 5.0

HEAD = "params,tokens,flops,loss\n"
ROWS = [f"{n}e4,{d}e5,{6 * n * d}e9,{1 + 5 / n + 5 / d}\n" for n in range(1, 5) for d in (1, 3, 9)]
PLAIN = """from gptjax.config import default_config
def get_config():
    config = default_config()
    %s
    return config
"""
TEXTS = {
    "empty.txt": b"",
    "latin.txt": b"plain\ncaf\xe9\n",
    "short.txt": b"abc\n" * 3,
    "good.csv": (HEAD + "".join(ROWS)).encode(),
    "empty.csv": b"",
    "head.csv": HEAD.encode(),
    "two.csv": (HEAD + "".join(ROWS[:2])).encode(),
    "nan.csv": (HEAD + "".join(ROWS) + "1e4,1e5,6e9,nan\n").encode(),
    "infinite.csv": (HEAD + "".join(ROWS) + "1e4,1e5,6e9,inf\n").encode(),
    "negative.csv": (HEAD + "".join(ROWS) + "-1e4,1e5,6e9,3\n").encode(),
    "words.csv": (HEAD + "".join(ROWS) + "1e4,1e5,6e9,low\n").encode(),
    "columns.csv": (HEAD.replace("tokens", "tokenz") + "".join(ROWS)).encode(),
    "constant.csv": (HEAD + "".join(f"{n}e4,{n}e5,{n * n}e9,3\n" for n in range(1, 9))).encode(),
    "latin.csv": HEAD.encode() + b"caf\xe9,1,1,1\n",
    "broken.json": b'{"laws": {',
    "list.json": b"[1, 2]",
    "nolaws.json": b'{"laws": {}}',
    "hollow.json": b'{"laws": {"isoflop": {"params": 3}}}',
    "syntax.py": b"def get_config(:\n",
    "binary.py": b"\x00\x01\x02",
    "bare.py": b"x = 1\n",
    "raises.py": (PLAIN % "raise KeyError('lost')").encode(),
    "imports.py": b"import no_such_module\n",
    "nothing.py": b"def get_config():\n    pass\n",
    "typed.py": (PLAIN % "config.sweep.sizes = 'many'").encode(),
    "misspelt.py": (PLAIN % "config.sweep.bugets = (1e9,)").encode(),
    "added.py": b"def get_config():\n    return {'sweep': {'bugets': (1e9,)}}\n",
    "notes.md": b"# notes\n",
    "afile/inside.txt": b"x",
    "records_only/records/1.json": b"{}",
    "broken_config/config.json": b"{",
    "list_config/config.json": b"[]",
    "no_laws/runs.csv": b"x\n",
}

DATA = (
    "--config.data.source=text",
    "--config.data.path=texts",
    "--config.data.cache_dir=cache",
    "--config.data.heldout_fraction=0.2",
)
SMALL = (SWEEP, *DATA, "--workdir=work")


def sweep(*overrides: str) -> tuple[str, ...]:
    return (*SMALL, *(f"--config.{text}" for text in overrides))


def table(name: str, *overrides: str) -> tuple[str, ...]:
    return (FIT_TABLE, "--workdir=work", f"--config.fit_table.table={name}", *overrides)


FLOPS, NEGATIVE = "--config.predict.flops=1e24", "--config.predict.flops=-1"


def predict(laws: str, *flops: str) -> tuple[str, ...]:
    return (PREDICT, f"--config.predict.laws={laws}", *flops)


CASES: dict[str, tuple] = {
    # flags
    "no flags": ((), "--config names no experiment; try --config=experiments/"),
    "unknown flag": ((SWEEP, "--wrkdir=x"), "--wrkdir=x is not a flag; did you mean --workdir?"),
    "flag without config": ((SWEEP, "--sweep.sizes=7"), "did you mean --config.sweep.sizes?"),
    "stray word": ((SWEEP, "plan"), "'plan' is not a flag; write --config=FILE"),
    "workdir without value": ((SWEEP, "--workdir"), "--workdir has no value, perhaps"),
    "no value": (sweep("sweep.sizes"), "--config.sweep.sizes has no value; write"),
    # experiment files
    "no experiment": (("--config=chin.py",), "--config=chin.py does not exist; give the path"),
    "folder": (("--config=texts",), "--config=texts is a folder; give the path"),
    "not .py": (("--config=notes.md",), "--config=notes.md is not a .py file; "),
    "not Python": (("--config=syntax.py",), "--config=syntax.py line 1 is not Python"),
    "binary": (("--config=binary.py",), "--config=binary.py is not Python (", "correct it"),
    "no get_config": (
        ("--config=bare.py",),
        "has no function get_config(); return gptjax.config.",
    ),
    "raises": (("--config=raises.py",), "--config=raises.py line 4 raised KeyError (lost);"),
    "missing import": (("--config=imports.py",), "line 1 raised ModuleNotFoundError", "correct"),
    "no config": (("--config=nothing.py",), "returned a NoneType; return a ConfigDict"),
    "text for int": (("--config=typed.py",), "line 4 raised TypeError", "correct the file"),
    "misspelt": (("--config=misspelt.py",), "line 4 raised", 'Did you mean "budgets"'),
    "plain dict": (("--config=added.py",), "sweep.bugets is not a setting; did you mean budgets?"),
    "argument": (("--config=added.py:large",), "added.py raised TypeError", "correct the file"),
    # keys
    "unknown key": (sweep("sweep.bugets=1"), "config.sweep.bugets is not", "did you mean budgets?"),
    "unknown section": (sweep("swep.sizes=1"), "did you mean config.sweep.sizes?"),
    "key of another section": (sweep("model.sizes=7"), "did you mean config.sweep.sizes?"),
    "key without section": (sweep("batch_size=7"), "did you mean config.train.batch_size?"),
    "unknown top key": (sweep("jobb=plan"), "config.jobb is not a setting; did you mean job?"),
    "section as value": (sweep("sweep=3"), "config.sweep is a section; set config.sweep.<key>"),
    "nothing like it": (sweep("zzz=3"), "config.zzz is not a setting; choose one of: "),
    # types
    "int": (sweep("sweep.sizes=many"), "sweep.sizes='many' is not a whole number; write it like"),
    "half": (sweep("sweep.sizes=2.5"), "sweep.sizes='2.5' is not a whole number"),
    "float": (sweep("optim.b1=high"), "optim.b1='high' is not a number; write it like"),
    "bool": (sweep("train.wandb=maybe"), "train.wandb='maybe' is not a truth value; write"),
    "list": (sweep("sweep.budgets=abc"), "sweep.budgets[0]='abc' is not a number; write"),
    "list element": (sweep("sweep.budgets=(1e12,x)"), "sweep.budgets[1]='x' is not a number"),
    "open bracket": (sweep("sweep.budgets=(1e12,3e12"), "sweep.budgets[0]='(1e12' is not a"),
    "nested": (sweep("sweep.budgets=((1e12,),2)"), "sweep.budgets[0]='(1000000000000.0,)'"),
    # values
    "choice": (sweep("optim.schedule=cosin"), "optim.schedule='cosin' is", "did you mean cosine?"),
    "job": (sweep("job=train_all"), "config.job='train_all' is not known; "),
    "choice in list": (sweep("fit.approaches=isoflops"), "[0]='isoflops'", "isoflop?"),
    "minimum": (sweep("model.depth=0"), "model.depth=0 must be at least 1"),
    "above": (sweep("sweep.budgets=0"), "sweep.budgets[0]=0.0 must be above 0"),
    "infinite": (sweep("sweep.budgets=1e999"), "sweep.budgets[0]=inf is not finite; give a number"),
    "not a number": (sweep("optim.learning_rate=nan"), "optim.learning_rate=nan is not finite"),
    "below": (sweep("data.heldout_fraction=1"), "data.heldout_fraction=1.0 must be below 1"),
    "preset": (sweep("model.preset=gpt9"), "model.preset='gpt9'", "did you mean gpt"),
    "experiment name": (sweep("experiment=../x"), "experiment='../x' is not the name", "give"),
    "wrong law form": (
        table("good.csv", "--config.fit.forms=chinchila"),
        "chinchila",
        "did you mean",
    ),
    # values against each other
    "heads": (sweep("model.num_heads=3"), "model.width=128 is not", "num_heads=3; try num_heads=2"),
    "kv heads": (sweep("model.num_kv_heads=3"), "model.num_heads=4 is not", "try num_kv_heads=2"),
    "vocabulary": (sweep("model.vocab_size=9"), "model.vocab_size=9 is smaller", "set model.vocab"),
    "odd width": (sweep("sweep.widths=7,16"), "sweep.widths has 7, which is odd; give even"),
    "micro batches": (
        sweep("sweep.rule=fixed", "train.micro_batches=5"),
        "train.batch_size=32 is not a multiple of train.micro_batches=5; change one",
    ),
    "parts twice": (
        sweep("sweep.part_tokens=512", "train.micro_batches=2"),
        "sweep.part_tokens=512 and train.micro_batches=2 both cut a batch",
    ),
    "memory of many runs": (
        sweep("model.remat=auto"),
        "model.remat=auto is for one run",
        "for example model.remat=",
    ),
    "noise of one batch": (
        sweep("train.noise_scale=true"),
        "train.noise_scale=True compares micro-batches",
        "set train.micro_batches=2",
    ),
    "grid of nothing": (sweep("sweep.plan=grid"), "sweep.plan=grid needs sweep.widths=()", "give"),
    "one size": (
        sweep("sweep.sizes=1", "sweep.budgets=1e12"),
        "the plan has one size only",
        "raise sweep.sizes=1 or give more sweep.widths",
    ),
    "tiny budget": (sweep("sweep.budgets=1e6"), "steps of", "larger budgets than", "budgets=1e+06"),
    "no length": (
        (TRAIN, *DATA, "--workdir=work", "--config.train.tokens=0"),
        "train.steps=0 and train.tokens=0 give the run no length; set one",
    ),
    # corpora
    "no corpus": (sweep("data.path=textz"), "data.path='textz' does not exist; did you mean texts"),
    "empty corpus": (sweep("data.path=empty.txt"), "data.path='empty.txt' holds no text"),
    "not UTF-8": (sweep("data.path=latin.txt"), "'latin.txt' is not UTF-8 at byte 9 (0xe9); conv"),
    "no held-out": (sweep("data.path=short.txt"), "data.heldout_fraction=", "part without any"),
    "window": (
        sweep("model.seq_len=99999"),
        "train tokens, fewer than one window of model.seq_len=99999",
        "or a shorter seq_len",
    ),
    "no path": (sweep("data.path="), "data.path='' names no file", "give a file"),
    "tokenizer": (
        sweep("data.tokenizer=bpe", "data.tokenizer_path=none.json"),
        "data.tokenizer_path='none.json' cannot be read",
    ),
    "cache": (sweep("data.cache_dir=notes.md"), "data.cache_dir", "notes.md", ";"),
    # folders
    "workdir is a file": ((*sweep(), "--workdir=notes.md"), "--workdir=notes.md is a file; give"),
    "workdir under a file": ((*sweep(), "--workdir=notes.md/x"), "notes.md is a file; give"),
    "workdir of another config": (
        (*sweep(), "--workdir=other"),
        "--workdir=other was made with sweep.sizes=9, not 6; choose another --workdir",
    ),
    "workdir of an unset variable": ((*sweep(), "--workdir="), "--workdir has no value, perhaps"),
    "a seed twice": (sweep("sweep.seeds=1,1"), "sweep.seeds has 1 twice, which is one run; give"),
    "a seed twice by its bits": (sweep("sweep.seeds=0,4294967296"), "sweep.seeds[1]=4294967296"),
    "no seed": (sweep("sweep.seeds=()"), "sweep.seeds=() makes no run; give at least one"),
    "no budget for a sweep": (sweep("sweep.budgets=()"), "sweep.budgets=() plans no cell; give"),
    "records without config": ((*sweep(), "--workdir=records_only"), "records but no config.json"),
    "broken config": ((*sweep(), "--workdir=broken_config"), "config.json cannot be read as JSON"),
    "list for config": ((*sweep(), "--workdir=list_config"), "list_config/config.json is not a"),
    "fit of nothing": (sweep("job=fit"), "--workdir=work holds no sweep", "run job=sweep first"),
    "fit before a run": (
        (*sweep("job=fit", "sweep.sizes=9"), "--workdir=other"),
        "--workdir=other has no finished run to fit; run job=sweep",
    ),
    "report of nothing": (sweep("job=report"), "--workdir=work has no runs.csv; run job=sweep"),
    "report without laws": ((*sweep("job=report"), "--workdir=no_laws"), "has no laws.json; run"),
    "join nothing": (sweep("job=work"), "--workdir=work holds no sweep to join; start job=sweep"),
    "compiled programs": (sweep("compilation_cache=notes.md"), "cache=notes.md is a file; give"),
    # devices and extras
    "device": (sweep("device=cdu"), "config.device='cdu' is not known; did you mean cpu?"),
    "no TPU": (sweep("device=tpu"), "config.device=tpu is not usable here", "--config.device=cpu"),
    "no wandb": (
        (TRAIN, *DATA, "--workdir=work", "--config.train.wandb"),
        "train.wandb=True needs Weights & Biases; pip install 'gptjax[wandb]'",
    ),
    # tables
    "no table": (
        (FIT_TABLE,),
        "table='' names no table; give --config.fit_table.table=",
    ),
    "missing table": (table("none.csv"), "fit_table.table=none.csv is not a file; give the path"),
    "empty table": (table("empty.csv"), "empty.csv", ";"),
    "head only": (table("head.csv"), "table=head.csv has no rows; give a header line and a line"),
    "two rows": (table("two.csv"), "needs at least", "runs and the table has 2; add runs"),
    "NaN": (table("nan.csv"), "nan.csv row 14: loss is missing or NaN; remove the row"),
    "infinite loss": (table("infinite.csv"), "infinite.csv row 14: loss=inf is not finite; remove"),
    "negative params": (table("negative.csv"), "row 14: params=-10000 must be above zero; remove"),
    "words for numbers": (table("words.csv"), "words.csv", "row 14", "'low'", ";"),
    "missing column": (table("columns.csv"), "columns.csv", "tokens", "did you mean tokenz?"),
    "wrong column": (
        table("good.csv", "--config.fit.column_loss=los"),
        "good.csv",
        "los",
        "did you mean loss?",
    ),
    "constant loss": (table("constant.csv"), "every run has loss=3", "check the column"),
    "table not UTF-8": (table("latin.csv"), "latin.csv", "UTF-8", ";"),
    "no such rows": (table("good.csv", "--config.fit.where=loss=7"), "'loss=7' matches no row"),
    # laws
    "no laws": (
        (PREDICT,),
        "laws='' names no law; give --config.predict.laws=RUN/",
    ),
    "no budget": (
        predict("nolaws.json"),
        "predict.flops=() names no budget; give --",
    ),
    "missing laws": (
        predict("none.json", FLOPS),
        "none.json does not exist;",
    ),
    "broken laws": (
        predict("broken.json", FLOPS),
        "broken.json cannot be read as",
    ),
    "list for laws": (
        predict("list.json", FLOPS),
        "list.json holds no laws; give",
    ),
    "laws without laws": (
        predict("nolaws.json", FLOPS),
        "laws holds no laws; give",
    ),
    "hollow laws": (
        predict("hollow.json", FLOPS),
        "laws.isoflop is incomplete;",
    ),
    "negative budget": (
        predict("nolaws.json", NEGATIVE),
        "predict.flops[0]=-1.0 must",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that are all wrong in some way, a corpus that is right and a sweep of nine sizes."""
    root = tmp_path_factory.mktemp("wrong")
    for name, content in TEXTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rng = random.Random(0)
    (root / "texts").mkdir()
    for i in range(80):
        words = " ".join(rng.choices(["loss", "tokens", "in", "nats", "für", "東京"], k=60))
        (root / "texts" / f"{i:02}.txt").write_text(f"{i}: {words}\n", encoding="utf-8")
    pairs = [flag.removeprefix("--config.").partition("=")[::2] for flag in DATA]
    config = override(load(SWEEP.removeprefix("--config=")), [*pairs, ("sweep.sizes", "9")])
    with contextlib.chdir(root):
        workdir.open_workdir(configs.make_config(config), root / "other")
    return root


@pytest.fixture
def here(folder, monkeypatch):
    """The working directory of a user's mistakes; no process may be started."""
    monkeypatch.chdir(folder)

    def refuse(*args, **kwargs):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    return folder


def tree(root: Path) -> dict[str, bytes]:
    """Everything under `root` but the token cache and byte code, which any run may fill."""
    skipped = ("cache", "__pycache__")
    paths = [path for path in sorted(root.rglob("*")) if not set(path.parts) & set(skipped)]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


def one_sentence(errors: str) -> str:
    assert "Traceback" not in errors
    assert errors.startswith("gptjax: ")
    assert errors.count("\n") == 1 and errors.endswith("\n"), errors
    return errors


def test_there_are_enough():
    assert len(CASES) >= 45


@pytest.mark.parametrize("name", CASES)
def test_refused(here, capsys, name):
    arguments, *hints = CASES[name]
    before = tree(here)
    assert main(["gptjax", *arguments]) == 2
    output = capsys.readouterr()
    sentence = one_sentence(output.err)
    for hint in hints:
        assert hint in sentence
    assert output.out == ""
    assert tree(here) == before


@pytest.mark.parametrize("installed", [False, True])
def test_no_ray(folder, capsys, monkeypatch, installed):
    """Ray is not installed, or nothing answers where its cluster should be."""
    monkeypatch.chdir(folder)
    if installed:
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'gptjax[ray]'")
        hint = "sweep.address=127.0.0.1:9 has no Ray cluster that answers"
    else:
        monkeypatch.setattr(ray_tasks.importlib.util, "find_spec", lambda name: None)
        hint = "sweep.engine=ray needs Ray; pip install 'gptjax[ray]' or set sweep.engine=local"
    before = tree(folder)
    assert main(["gptjax", *sweep("sweep.engine=ray", "sweep.address=127.0.0.1:9")]) == 2
    assert hint in one_sentence(capsys.readouterr().err)
    assert tree(folder) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_no_space(here, capsys, monkeypatch, number):
    """The disk fills while the workdir is made: nothing of it stays."""
    assert main(["gptjax", *sweep("job=plan")]) == 0
    capsys.readouterr()
    before = tree(here)

    def full(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["gptjax", *SMALL]) == 2
    sentence = one_sentence(capsys.readouterr().err)
    assert f"cannot write work/config.json: {os.strerror(number)}; free some space" in sentence
    assert tree(here) == before


SIZE_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from gptjax.main import main
sys.exit(main(sys.argv))
"""
PROCESSES: dict[str, tuple] = {
    "key": (("-m", "gptjax.main", *sweep("sweep.bugets=1")), "did you mean budgets?"),
    "corpus": (("-m", "gptjax.main", *sweep("data.path=textz")), "data.path='textz' does not"),
    "table": (("-m", "gptjax.main", *table("nan.csv")), "nan.csv row 14: loss is missing or NaN"),
    "full disk": (("-c", SIZE_LIMITED, *sweep()), "cannot write ", "File too large; free"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n != "key" else ()) for n in PROCESSES],
)
def test_refused_by_a_process(folder, name):
    """The same from outside, within five seconds of CPU time."""
    arguments, *hints = PROCESSES[name]
    before, used = tree(folder), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 2
    sentence = one_sentence(result.stderr)
    for hint in hints:
        assert hint in sentence
    assert result.stdout == ""
    assert tree(folder) == before
    assert spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime < CPU_SECONDS
