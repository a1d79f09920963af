"""Odd values for every setting: a sentence or a result, never a traceback, never a hang.

Every setting meets every odd value in the reading and the checks of a config, which takes
milliseconds each. A sample of them, the same each time, goes through a whole command; two thousand
with `-m slow`, forked after the imports but for one in forty, which is a process of its own:

    pytest -m slow -rP tests/fuzz/test_settings.py
"""

import collections
import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptjax import config as configs
from gptjax import experiment, job
from gptjax.errors import UserError
from gptjax.experiment import load, override, setting_types
from gptjax.fields import flattened, make, nested
from gptjax.main import main

sys.path.insert(0, str(Path(__file__).parent))
import forked

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SWEEP = str(EXPERIMENTS / "chinchilla_sweep.py")
FIT_TABLE = str(EXPERIMENTS / "fit_table.py")
REAL = 100  # one command in so many is a process of its own
SECONDS = 120  # of one command; the slowest takes four on an idle core

NUMBERS = ("0", "-0", "-1", "1", "2", "3", "7", "0.5", "1e-9", "1e-400", "1e9", "1e30", "1e308")
STRANGE = ("nan", "inf", "-inf", "1e400", "9" * 20, "9" * 320, "0x10", "1_000", "١", "1e", "--1")
WORDS = ("", " ", "a", "None", "true", "False", "é漢", "%s", "{}", "[]", "()", "'", '"', "\\", "\n")
LISTS = (",", "1,", ",1", "1,,2", "1,1,1", "0,-1", "nan,1", "a,b", "1e9,1e10,1e11", "true,2")
PATHS = ("/", "..", ".", "~", "*", "/dev/null", "/dev/zero", "/proc/no/such", "x" * 300, "a\0b")
ODD = (*NUMBERS, *STRANGE, *WORDS, *LISTS, *PATHS)
JOBS = ("job",)  # names what runs, so that another value is another test
CASES = [(key, value) for key in setting_types() if key not in JOBS for value in ODD]
FIT = ("fit", "report")


@contextlib.contextmanager
def limit(seconds, what):
    def stop(signum, frame):
        raise TimeoutError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_a_sentence(text):
    return 10 < len(text) < 1500 and "Traceback" not in text and text.isprintable()


def changed(config):
    """The settings that are not at their defaults: the same config, and quick to check."""
    usual = flattened(configs.default_config().to_dict())
    return nested({key: value for key, value in flattened(config).items() if value != usual[key]})


def settled(section, config):
    """The dataclass of one section, which says whether its own limits refuse the value."""
    if section in configs.sections():
        return make(configs.sections()[section], config[section], section)
    return config[section]


@pytest.fixture
def known_settings(monkeypatch):
    """The jobs are found and their settings read once, not for each of many thousand values."""
    monkeypatch.setattr(job, "settings", functools.cache(job.settings))
    monkeypatch.setattr(experiment, "setting_types", functools.cache(setting_types))


@pytest.mark.parametrize("section", sorted({key.partition(".")[0] for key, _ in CASES}))
def test_every_setting_meets_every_value(section, known_settings):
    """Read and checked, with the section's settings alone out of the ordinary.

    Most values are refused by the section itself; the others are checked in a whole config, once
    where several words say the same value.
    """
    plain, seen = changed(load(SWEEP)), set()
    for key, value in CASES:
        if key.partition(".")[0] != section:
            continue
        with limit(20, f"{key}={value!r}"):
            try:
                own = override({section: plain.get(section, {})}, [(key, value)])
                if (made := repr(settled(section, own))) not in seen:
                    seen.add(made)
                    configs.make_config(plain | own)
            except UserError as error:
                sentence = " ".join(str(error).split())
                assert is_a_sentence(sentence), (key, value, sentence)
            except Exception as error:
                raise AssertionError(f"--config.{key}={value!r} ends in {error!r}") from error


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small corpus and a table of runs."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "texts").mkdir()
    for number in range(30):
        words = " ".join(f"word{(number * k) % 23} {k % 7}" for k in range(200))
        (folder / "texts" / f"{number}.txt").write_text(f"{number} {words}\n")
    rows = [
        f"{n}e4,{d}e5,{6 * n * d}e9,{1 + 5 / n + 5 / d}\n" for n in range(1, 7) for d in (1, 3, 9)
    ]
    (folder / "runs.csv").write_text("params,tokens,flops,loss\n" + "".join(rows))
    return folder


def command(key, place, work):
    """The command in which a setting is tried: a plan, or a fit for the settings of fits."""
    if key.partition(".")[0] in FIT:
        return [
            f"--config={FIT_TABLE}",
            f"--workdir={work}",
            f"--config.fit_table.table={place / 'runs.csv'}",
            "--config.fit.resamples=8",
            "--config.fit.starts=4",
            "--config.fit.diagnostics=false",
            "--config.fit.compare=chinchilla",
            "--config.report.formats=svg",
        ]
    return [
        f"--config={SWEEP}",
        f"--workdir={work}",
        "--config.job=plan",
        "--config.data.source=text",
        f"--config.data.path={place / 'texts'}",
        "--config.data.heldout_fraction=0.2",
        "--config.sweep.budgets=1e9,3e9,1e10",
        "--config.sweep.sizes=5",
    ]


def run(key, value, place, work, monkeypatch, capsys):
    """The status of the command with one odd value; its error output must be one sentence."""
    work.mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("GPTJAX_CACHE", str(place / "cache"))
    words = ["gptjax", *command(key, place, work / "run"), f"--config.{key}={value}"]
    with limit(SECONDS, f"{key}={value!r}"):
        status = main(words)
    told = capsys.readouterr().err
    assert status in (0, 2), (words, status, told)
    if status == 2:
        assert told.startswith("gptjax: ") and is_a_sentence(told.strip()), (words, told)


def sample(count, seed):
    """The first cases that may pass the checks; those that cannot are seen above."""
    plain = load(SWEEP)

    def passes(key, value):
        try:
            configs.make_config(override(plain, [(key, value)]))
        except UserError:
            return False
        return True

    cases = random.Random(seed).sample(CASES, len(CASES))
    return list(itertools.islice((case for case in cases if passes(*case)), count))


def test_a_few_commands(place, tmp_path, monkeypatch, capsys):
    for key, value in sample(12, seed=0):
        run(key, value, place, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("section", ["sweep", "fit"])
def test_the_commands_that_meet_odd_values_succeed_without_them(section, place, tmp_path):
    words = command(section, place, tmp_path / "run")
    outcome = forked.run(words, tmp_path, {"GPTJAX_CACHE": str(place / "cache")}, SECONDS)
    assert outcome.status == 0, outcome


def judge(words, outcome):
    """A result, or one sentence on standard error and nothing else."""
    told = outcome.err
    assert outcome.status is not None, (words, "hangs")
    assert outcome.status in (0, 2) and "Traceback" not in told, (words, outcome)
    if outcome.status == 2:
        assert told.startswith("gptjax: ") and is_a_sentence(told.strip()), (words, told)


def real_process(words, folder, variables, seconds):
    """The command as a user starts it."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gptjax.main", *words],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return forked.Outcome(None, "", "", seconds)
    return forked.Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


ENDED_IN_A_TRACEBACK = [
    ("fit.extrapolate", "1e308"),
    ("fit.e_fixed", "1e308"),
    ("sweep.batch_scale", "1e308"),
    ("sweep.learning_rate_exponent", "-1e308"),
]


@pytest.mark.parametrize(("key", "value"), ENDED_IN_A_TRACEBACK)
def test_what_ended_in_a_traceback_once(key, value, place, tmp_path):
    words = [*command(key, place, tmp_path / "run"), f"--config.{key}={value}"]
    judge(words, forked.run(words, tmp_path, {"GPTJAX_CACHE": str(place / "cache")}, SECONDS))


@pytest.fixture(scope="module")
def two_thousand():
    return sample(2000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_two_thousand_commands(part, two_thousand, place, tmp_path):
    """Every failure of a part is told at its end."""
    ends, faults = collections.Counter(), []
    slowest = (0.0, [])
    for number, (key, value) in enumerate(two_thousand[200 * part : 200 * part + 200]):
        folder = tmp_path / str(number)
        folder.mkdir()
        words = [*command(key, place, folder / "run"), f"--config.{key}={value}"]
        way = real_process if number % REAL == 0 and "\0" not in value else forked.run
        outcome = way(words, folder, {"GPTJAX_CACHE": str(place / "cache")}, SECONDS)
        ends[outcome.status] += 1
        slowest = max(slowest, (outcome.seconds, [key, value]))
        try:
            judge(words, outcome)
        except AssertionError as fault:
            faults.append((key, value, str(fault)[-300:]))
        shutil.rmtree(folder)
    print(f"part {part}: ends {dict(ends)}, slowest {slowest[0]:.1f} s {slowest[1]}")
    assert not faults, faults
