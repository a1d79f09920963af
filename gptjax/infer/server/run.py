"""A running server: its socket, its process's signals, and its end."""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from gptjax.errors import UserError
from gptjax.infer.service import Service

WORDS = "the server is stopping and takes no more requests; ask again when it is back"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
      UserError: where the host is not this machine's, or the port is in use.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"serve.port={port} is in use on {host}; stop the program that listens there, or "
                "give another port (0: any that is free)"
            ) from error
        raise UserError(
            f"cannot listen on serve.host={host}, serve.port={port} ({error.strerror or error}); "
            "give an address of this machine and a port that you may use"
        ) from error
    return listening


def run(app: Any, service: Service, listening: socket.socket, *, grace: float) -> None:
    """Serve until SIGTERM or SIGINT; then answers under way get `grace` seconds to finish.

    A second signal ends at once.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(grace) + 5,
    )
    asyncio.run(_serve(_Server(config), service, listening, grace))


class _Server(uvicorn.Server):
    """uvicorn, with its signals left to us: it would end the process by them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    server: uvicorn.Server, service: Service, listening: socket.socket, grace: float
) -> None:
    loop = asyncio.get_running_loop()
    ends: list[Any] = []

    def close(seconds: float) -> None:
        ends.append(loop.run_in_executor(None, lambda: service.close(WORDS, seconds=seconds)))

    def stop() -> None:
        again, server.should_exit = server.should_exit, True
        close(0.0 if again else grace)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await server.serve(sockets=[listening])
    finally:
        close(0.0)
        await asyncio.gather(*ends)
