"""The HTTP application: OpenAI's completions and chat completions, models, health and metrics."""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

import starlette.concurrency
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.responses import StreamingResponse as Streaming
from starlette.routing import Route

from gptjax.errors import UserError
from gptjax.infer.generate import Answer
from gptjax.infer.schedule import Full
from gptjax.infer.server import requests
from gptjax.infer.server.metrics import CONTENT_TYPE, Metrics
from gptjax.infer.server.replies import Chat, Completion, Form, error_body
from gptjax.infer.server.requests import Asked, BadRequest
from gptjax.infer.service import Service, Stopped, Ticket

PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src "
    "'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
GONE = 499
"""The status in the metrics of a client that left."""


def make_app(service: Service, *, token: str = "", body_bytes: int = 1_000_000) -> Starlette:
    """The application of a service.

    Args:
      token: what clients send as their API key; "": none is asked for.
      body_bytes: of the largest request.
    """
    api = _Api(service, token, body_bytes)
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/health", api.health),
            Route("/metrics", api.of("metrics", api.metrics_text)),
            Route("/v1/models", api.of("models", api.models)),
            Route("/v1/models/{name:path}", api.of("models", api.one_model)),
            Route("/v1/completions", api.of("completions", api.completions), methods=["POST"]),
            Route("/v1/chat/completions", api.of("chat", api.chat), methods=["POST"]),
        ],
        exception_handlers={404: _no_route, 405: _no_route},  # type: ignore[dict-item]
    )


@dataclasses.dataclass
class _Run:
    """The choices of one request that are under way."""

    tickets: list[Ticket]
    queue: asyncio.Queue[tuple[int, Answer | Stopped]]
    started: float
    grown: dict[int, Answer] = dataclasses.field(default_factory=dict)
    grew: dict[int, float] = dataclasses.field(default_factory=dict)


class _Stream(Streaming):
    """Server-sent events; whatever ends the reply also ends its requests."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._end = end

    async def __call__(self, *scope: Any) -> None:
        try:
            await super().__call__(*scope)
        finally:
            self._end()


class _Api:
    def __init__(self, service: Service, token: str, body_bytes: int) -> None:
        self.service, self.token, self.body_bytes = service, token, body_bytes
        self.batcher, self.model = service.batcher, service.batcher.model
        self.metrics, self.created = Metrics(), int(time.time())

    def of(
        self, name: str, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint behind the token, with every refusal as a reply, counted."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_token(request)
                response = await endpoint(request)
            except UserError as error:
                response = self._refusal(error)
            except Stopped as error:
                response = JSONResponse(error_body(str(error), "server_error"), 503)
            except ClientDisconnect:  # amid its request
                response = Response(status_code=GONE)
            self.metrics.request(name, response.status_code)
            return response

        return guarded

    async def health(self, request: Request) -> Response:
        """200 while requests are taken."""
        why = self.service.refuses
        found = {"status": why or "ok", "model": self.model.name}
        return JSONResponse(found, 503 if why else 200)

    async def metrics_text(self, request: Request) -> Response:
        """Counters, histograms and the state of the batch."""
        batcher = self.batcher
        gauges = {
            "slots": ("Slots of the batch.", batcher.limits.slots),
            "slots_taken": ("Slots that are taken.", batcher.taken),
            "requests_waiting": ("Requests without a slot.", self.service.waiting),
            "cache_bytes": ("Bytes of the caches of all slots.", batcher.cache_bytes),
            "prompt_tokens_read": ("Prompt tokens that were computed.", batcher.read_tokens),
            "prompt_tokens_shared": (
                "Prompt tokens that were copied from another slot.",
                batcher.shared_tokens,
            ),
        }
        return PlainTextResponse(self.metrics.text(gauges), media_type=CONTENT_TYPE)

    async def models(self, request: Request) -> Response:
        """The model, and its adapters under their own names."""
        names = (self.model.name, *self.model.adapters.names)
        return JSONResponse({"object": "list", "data": [self._model(name) for name in names]})

    async def one_model(self, request: Request) -> Response:
        """The model of that name."""
        name = request.path_params["name"]
        self._check_model(name)
        return JSONResponse(self._model(name))

    async def completions(self, request: Request) -> Response:
        """/v1/completions."""
        return await self._answer(request, requests.completion, Completion)

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions."""
        return await self._answer(request, requests.chat, Chat)

    async def _answer(
        self, request: Request, parse: Callable[..., Asked], kind: type[Form]
    ) -> Response:
        body = await self._body(request)
        asked, checked = await starlette.concurrency.run_in_threadpool(self._parse, parse, body)
        name = asked.settings.adapter or self.model.name
        answering = dataclasses.replace(self.model, name=name)
        form, run = kind.new(answering, asked), self._submit(asked, checked)

        def end() -> None:
            self.service.cancel(run.tickets)

        if asked.stream:
            return _Stream(self._events(form, run), end)
        try:
            answers = await _unless_gone(request, self._collect(run))
        finally:
            end()
        if answers is None:
            return Response(status_code=GONE)
        return JSONResponse(form.whole(answers))

    def _parse(self, parse: Callable[..., Asked], body: bytes) -> tuple[Asked, list[Any]]:
        said = requests.read_json(body)
        name = self.model.name if said.get("model") is None else said["model"]
        self._check_model(name)
        asked = parse(said, self.model, self.batcher.length)
        if name != self.model.name:
            settings = dataclasses.replace(asked.settings, adapter=name)
            asked = dataclasses.replace(asked, settings=settings)
        count, limits = len(asked.prompts) * asked.n, self.batcher.limits
        if count > limits.slots + limits.waiting:
            raise BadRequest(
                f"{count} choices are more than the {limits.slots + limits.waiting} that this "
                "server takes; ask for fewer",
                "n",
            )
        field = "messages" if "messages" in said else "prompt"
        return asked, [self._checked(asked, prompt, field) for prompt in asked.prompts]

    def _checked(self, asked: Asked, prompt: Sequence[int], field: str) -> Any:
        """A request for one token serves those who want none of it; `field` holds the prompt."""
        settings = dataclasses.replace(asked.settings, max_tokens=max(1, asked.settings.max_tokens))
        try:
            return self.service.check(prompt, settings)
        except UserError as error:
            code = "context_length_exceeded" if "tokens and" in str(error) else None
            raise requests.refused(error, field, code) from error

    def _submit(self, asked: Asked, checked: Sequence[Any]) -> _Run:
        """All choices, each with a seed of its own: the request's and the number of the choice."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()  # type: ignore[var-annotated]

        def listener(index: int) -> Callable[[Answer | Stopped], None]:
            def listen(news: Answer | Stopped) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(queue.put_nowait, (index, news))

            return listen

        wanted: list[Any] = []
        scores = asked.echo and asked.logprobs is not None
        for ids, settings in checked:
            for choice in range(asked.n):
                seed = (settings.seed + choice) % 2**63 if settings.seed >= 0 else -1
                own = dataclasses.replace(settings, seed=seed)
                wanted.append((ids, own, scores, listener(len(wanted))))
        run = _Run(self.service.submit(wanted), queue, time.perf_counter())
        self.metrics.tokens("prompt", sum(map(len, asked.prompts)))
        return run

    async def _news(self, run: _Run) -> AsyncIterator[tuple[int, Answer | None, Answer]]:
        """(choice, the answer before, the answer now) until all have ended."""
        left = len(run.tickets)
        while left:
            index, news = await run.queue.get()
            if isinstance(news, Stopped):
                raise news
            before, run.grown[index] = run.grown.get(index), news
            self._observe(run, index, before, news)
            left -= news.finish != ""
            yield index, before, news

    async def _collect(self, run: _Run) -> list[Answer]:
        async for _ in self._news(run):
            pass
        return [run.grown[index] for index in range(len(run.tickets))]

    async def _events(self, form: Form, run: _Run) -> AsyncIterator[str]:
        try:
            async for index, before, answer in self._news(run):
                if before is None:
                    for piece in form.begin(index, answer):
                        yield _event(form.piece(piece))
                grown = form.grow(index, before, answer)
                if grown:
                    yield _event(form.piece(grown))
                if answer.finish:
                    yield _event(form.piece(form.end(index, answer)))
        except Stopped as error:
            yield _event(error_body(str(error), "server_error"))
            return
        if form.asked.usage:
            answers = [run.grown[index] for index in range(len(run.tickets))]
            yield _event(form.piece(usage=form.usage(answers)))
        yield "data: [DONE]\n\n"

    def _observe(self, run: _Run, index: int, before: Answer | None, answer: Answer) -> None:
        now = time.perf_counter()
        new = len(answer.tokens) - (len(before.tokens) if before else 0)
        if before is None:
            self.metrics.seconds("first_token", now - run.started)
        elif new > 0:
            for _ in range(new):
                self.metrics.seconds("between_tokens", (now - run.grew[index]) / new)
        run.grew[index] = now
        self.metrics.tokens("generated", new)
        if answer.finish:
            self.metrics.seconds("request", now - run.started)

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequest(
                f"content-type {kind!r} is not application/json; send JSON and say so", status=415
            )
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.body_bytes:
                raise BadRequest(
                    f"the body is more than {self.body_bytes:,} bytes; send a shorter one",
                    status=413,
                )
        return bytes(body)

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise BadRequest(
                "the API key is not this server's; send Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )

    def _check_model(self, name: Any) -> None:
        names = (self.model.name, *self.model.adapters.names)
        if name not in names:
            raise BadRequest(
                f"the model {str(name)[:80]!r} is not here; ask for "
                f"{' or '.join(map(repr, names))}",
                "model",
                status=404,
                code="model_not_found",
            )

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "gptjax",
            "max_model_len": self.batcher.length,
            "parent": None if name == self.model.name else self.model.name,
        }

    def _refusal(self, error: UserError) -> Response:
        if isinstance(error, Full):
            seconds = self.metrics.mean_seconds("request", 1.0)
            wait = seconds * (1 + self.service.waiting / self.batcher.limits.slots)
            return JSONResponse(
                error_body(str(error), "rate_limit_error", code="rate_limit_exceeded"),
                429,
                {"Retry-After": str(max(1, min(60, math.ceil(wait))))},
            )
        if isinstance(error, BadRequest):
            body = error_body(str(error), "invalid_request_error", error.param, error.code)
            return JSONResponse(body, error.status)
        return JSONResponse(error_body(str(error), "invalid_request_error"), 400)


async def _unless_gone(request: Request, work: Any) -> Any:
    """What `work` gives; None when the client leaves first."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


async def _page(request: Request) -> Response:
    page = resources.files("gptjax.infer.server").joinpath("page.html").read_text("utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})


async def _no_route(request: Request, error: Any) -> Response:
    words = f"{request.method} {request.url.path} is not here; see /v1/models for what is"
    return JSONResponse(error_body(words, "invalid_request_error"), error.status_code)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
