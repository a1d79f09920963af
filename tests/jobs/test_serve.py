"""job=serve from the command line: a process that SIGTERM ends after its answers, and mistakes."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import compiled_model
import numpy as np
import pytest

from gptjax import models
from gptjax.convert import own_folder, peft
from gptjax.convert.own_folder import KeptTokenizer
from gptjax.data import DataConfig
from gptjax.main import main

CONFIG = models.ModelConfig(
    vocab_size=257, depth=1, width=8, num_heads=2, seq_len=512, init_scale=0.5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve") / "tiny"
    params = compiled_model.drawn(CONFIG)
    own_folder.save_model(place, CONFIG, params, KeptTokenizer(DataConfig(tokenizer="bytes")))
    return place


def flags(folder, *given):
    own = [f"--config.serve.{flag}" for flag in (f"model={folder}", *given)]
    return ["gptjax", "--config=experiments/serve.py", *own]


def small_server(folder, tmp_path, port):
    """The flags of a server with a key and an adapter."""
    (tmp_path / "key").write_text("secret\n")
    pair = np.ones((1, 8, 1)), np.ones((1, 1, 8))
    tuned = peft.Adapter(1, 1.0, {"blocks/attention/value": pair})
    peft.write_adapter(tmp_path / "tuned", CONFIG, tuned)
    return [
        f"adapters=tuned={tmp_path}/tuned",
        f"port={port}",
        "slots=2",
        f"token_file={tmp_path}/key",
        "warm=false",
        "name=small",
    ]


BODY = {"prompt": "x", "max_tokens": 150, "stream": True, "logit_bias": {"256": -100}}


def stopped_amid(port, stop):
    """The rest of an answer after the signal that came amid it."""
    reply = post(port, BODY)
    assert reply.readline().startswith(b"data: ")
    stop()
    return reply.read()


def test_a_signal_ends_the_job_after_its_answers(folder, tmp_path, capfd, monkeypatch):
    """SIGTERM to the test's own process, amid an answer to a thread of it."""
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)  # closes pytest's own
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = []

    def client():
        until = time.monotonic() + 120
        while time.monotonic() < until and not found:
            with contextlib.suppress(ConnectionRefusedError):
                found.append(stopped_amid(port, lambda: os.kill(os.getpid(), signal.SIGTERM)))
            time.sleep(0.05)

    before = signal.signal(signal.SIGTERM, lambda *given: None)
    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    try:
        assert main(flags(folder, *small_server(folder, tmp_path, port))) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    thread.join(5)
    (rest,) = found
    assert rest.endswith(b"data: [DONE]\n\n") and b'"finish_reason": "length"' in rest
    said = capfd.readouterr().out
    assert "small and tuned: 2 slots of 512 tokens, " in said and said.endswith("\nstopped\n")
    assert f"http://127.0.0.1:{port}/ for a browser" in said


@pytest.mark.slow
def test_a_process_serves_and_ends_after_its_answers(folder, tmp_path):
    """python -m pytest -m slow tests/jobs/test_serve.py"""
    given = small_server(folder, tmp_path, 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "gptjax.main", *flags(folder, *given)[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        said = process.stdout.readline() + process.stdout.readline()
        assert "small and tuned: 2 slots of 512 tokens, " in said
        port = int(re.search(r"http://127.0.0.1:(\d+)/", said)[1])
        rest = stopped_amid(port, lambda: process.send_signal(signal.SIGTERM))
        assert rest.endswith(b"data: [DONE]\n\n") and b'"finish_reason": "length"' in rest
        assert process.wait(60) == 0 and process.stdout.read() == "stopped\n"
    finally:
        process.kill()
        process.wait()


def post(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection.getresponse()


def test_a_port_in_use_is_told(folder, capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(flags(folder, f"port={port}")) == 2
    err = capfd.readouterr().err
    assert f"serve.port={port} is in use on 127.0.0.1" in err and err.count("\n") == 1


def test_a_folder_without_tokenizer_is_told(tmp_path, capfd):
    own_folder.save_model(tmp_path / "bare", CONFIG, compiled_model.drawn(CONFIG))
    assert main(flags(tmp_path / "bare", "port=0")) == 2
    assert "has no tokenizer, so texts cannot be served" in capfd.readouterr().err


@pytest.mark.parametrize(
    "given, words",
    [
        (["model="], "serve.model='' names no folder"),
        (["token_file=nowhere"], "serve.token_file=nowhere cannot be read"),
        (["host=no.such.host.invalid"], "cannot listen on serve.host=no.such.host.invalid"),
        (["length=4096", "port=0"], "slots of 4096 tokens are longer than the context of tiny"),
        (["slots=0"], "serve.slots=0 must be at least 1"),
    ],
)
def test_mistakes_are_told(folder, given, words, capfd):
    assert main(flags(folder, *given)) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_missing_extra_is_named(folder, capfd, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert main(flags(folder)) == 2
    assert "pip install 'gptjax[serve]'" in capfd.readouterr().err
