"""Programs and data that runs of one process share: compiled once, uploaded once."""

import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import data
from gptjax.data import Corpus
from gptjax.optim import eval_params
from gptjax.parallel import Layout, collectives
from gptjax.train import evaluate, loss_spikes
from gptjax.train.config import RunSpec, TrainConfig
from gptjax.train.layout import state_shardings
from gptjax.train.program_cache import Programs
from gptjax.train.state import Hyper, TrainState, init_state, make_hyper
from gptjax.train.step import Batch, Metrics, make_batch, make_train_step
from gptjax.train.watchdog import Watchdog

MAX_STEPS_PER_CALL = 512


class Session:
    """A corpus, the options that do not change results, and what was compiled for them.

    Attributes:
      corpus: the tokens.
      options: batch of evaluation, where batches are gathered, checkpoint intervals.
      layout_of: where a run's arrays live; None means one device.
      watch: told what the process is at.
      shares_parts: whether batches of parts of one size share a program, on a CPU; it costs each a
        sum of gradients more, so for runs that are many.
      compile_seconds: time spent compiling so far.
    """

    def __init__(
        self,
        corpus: Corpus,
        options: TrainConfig,
        layout_of: Callable[[RunSpec], Layout | None] = lambda spec: None,
        watch: Watchdog | None = None,
        *,
        shares_parts: bool = False,
    ) -> None:
        self.corpus = corpus
        self.options = options
        self.layout_of = layout_of
        self.watch = Watchdog() if watch is None else watch
        self.shares_parts = shares_parts and jax.default_backend() == "cpu"
        self.compile_seconds = 0.0
        self._programs = Programs()
        self._ahead = threading.local()
        self._tokens: Array | None = None
        self._windows: dict[int, Array] = {}

    @property
    def on_device(self) -> bool:
        """Whether batches are gathered on the device."""
        size = self.corpus.train.nbytes / 2**30
        return self.options.feed == "device" or (
            self.options.feed == "auto" and size <= self.options.device_data_gb
        )

    def compile_ahead(self, spec: RunSpec, members: int = 1) -> None:
        """Compile what a run of `spec`, or a stack of so many, will need; for a thread of its own.

        The time does not count as `compile_seconds`. Runs on a mesh, or with batches from the host,
        compile when they begin.
        """
        if self.layout_of(spec) is not None or not self.on_device:
            return
        self._ahead.here = True
        try:
            self._compile_all(spec, members)
        finally:
            self._ahead.here = False

    def _compile_all(self, spec: RunSpec, members: int) -> None:
        state = jax.eval_shape(lambda key: init_state(spec.origin, key), jax.random.key(0))
        self._init_program(spec)
        hyper, params = make_hyper(spec), eval_params(state.opt_state, state.params)
        tokens, steps = self._device_tokens(None), jnp.int32(1)
        if members == 1:
            self._advance_program(spec, (state, tokens, hyper, steps), None)
        else:
            state, hyper = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype),
                (state, hyper),
            )
            self._stack_program(spec, (state, tokens, hyper, steps))
        self._evaluate_program(spec, params, self._held_out(spec.model.seq_len, None), None)

    def init(self, spec: RunSpec) -> TrainState:
        """The initial state of a run."""
        layout = self.layout_of(spec)

        if layout is not None:
            return self._init_on(layout, spec)
        return self._init_program(spec)(jax.random.key(spec.seed))

    def _init_program(self, spec: RunSpec) -> Any:
        return self._compiled(
            ("init", spec.origin),
            lambda: jax.jit(lambda key: init_state(spec.origin, key)).lower(jax.random.key(0)),
            None,
        )

    def _init_on(self, layout: Layout, spec: RunSpec) -> TrainState:
        """The same bits, each part made where it lives."""

        def fresh(seed: Array) -> TrainState:
            return init_state(spec.origin, jax.random.key(seed))

        seed = layout.put(np.uint32(spec.seed))
        shardings = state_shardings(layout, jax.eval_shape(fresh, seed))
        program = self._compiled(
            ("init", spec.origin),
            lambda: jax.jit(fresh, out_shardings=shardings).lower(seed),
            layout,
        )
        return program(seed)

    def advance(
        self, spec: RunSpec, state: TrainState, hyper: Hyper, steps: int
    ) -> tuple[TrainState, Metrics]:
        """Run `steps` updates in one compiled call; metrics are padded to MAX_STEPS_PER_CALL.

        `state` is donated. The number of steps is a traced input, so the bits of the result do
        not depend on how a run is cut into calls.
        """
        layout = self.layout_of(spec)
        if self.on_device:
            tokens = self._device_tokens(layout)
            inputs = (state, tokens, *_put(layout, (hyper, jnp.int32(steps))))
            return self._advance_program(spec, inputs, layout)(*inputs)
        return self._advance_from_host(spec, state, hyper, steps)

    def _advance_program(self, spec: RunSpec, inputs: tuple, layout: Layout | None) -> Any:
        roomy = self.shares_parts and layout is None and spec.only_sums_parts
        program = spec.shared_program if roomy else spec.program

        def lower() -> Any:
            return _lower(make_advance(program, self.corpus, layout, roomy=roomy), inputs, layout)

        return self._compiled(("advance", program), lower, layout)

    def exchanges(self, spec: RunSpec) -> str:
        """The collectives of a run's compiled step, in words; '' where it has none."""
        layout = self.layout_of(spec)
        programs = (self._programs.made((kind, spec.program)) for kind in ("advance", "host"))
        program = next((one for one in programs if one is not None), None)
        if layout is None or program is None:
            return ""
        count: Counter = Counter()
        for one in collectives(program.as_text() or "", layout.mesh.shape):
            count[f"{one.kind} over {' and '.join(one.axes)}"] += one.times
        words = ", ".join(f"{name} ({times} times)" for name, times in sorted(count.items()))
        return f"the collectives of a step are {words}" if words else ""

    def advance_stack(
        self, spec: RunSpec, state: TrainState, hyper: Hyper, steps: int
    ) -> tuple[TrainState, Metrics]:
        """`advance` for runs of one program: every leaf of `state` and `hyper` is [members, …].

        Batches are gathered on the device, whatever `on_device` says.
        """
        inputs = (state, self._device_tokens(None), hyper, jnp.int32(steps))
        return self._stack_program(spec, inputs)(*inputs)

    def _stack_program(self, spec: RunSpec, inputs: tuple) -> Any:
        def lower() -> Any:
            advance = make_advance(spec.program, self.corpus)
            return _lower(jax.vmap(advance, in_axes=(0, None, 0, None)), inputs, None)

        return self._compiled(("stack", inputs[0].step.shape[0], spec.program), lower, None)

    def evaluate(self, spec: RunSpec, params: Any) -> evaluate.Evaluation:
        """Score `params` on every complete held-out window."""
        layout = self.layout_of(spec)
        windows = self._held_out(spec.model.seq_len, layout)
        program = self._evaluate_program(spec, params, windows, layout)
        sums, counts = program(params, windows)
        return evaluate.summarise(spec, self.corpus, np.asarray(sums), np.asarray(counts))

    def _evaluate_program(
        self, spec: RunSpec, params: Any, windows: Array, layout: Layout | None
    ) -> Any:
        def program_of(params: Any, windows: Array) -> tuple[Array, Array]:
            return evaluate.window_losses(spec.layout, self.corpus.end_of_document, params, windows)

        options: dict[str, Any] = {} if layout is None else {"out_shardings": layout.replicated}
        return self._compiled(
            ("evaluate", spec.layout),
            lambda: jax.jit(program_of, **options).lower(params, windows),
            layout,
        )

    def _compiled(self, key: Any, lower: Callable[[], Any], layout: Layout | None) -> Any:
        started = time.perf_counter()

        def make() -> Any:
            with contextlib.nullcontext() if layout is None else layout.context():
                return lower().compile(compiler_options=_compiler_options())

        if getattr(self._ahead, "here", False):
            return self._programs.get(key, make)
        with self.watch.phase("compiling", limited=False):
            program = self._programs.get(key, make)
        self.compile_seconds += time.perf_counter() - started
        return program

    def _device_tokens(self, layout: Layout | None) -> Array:
        if self._tokens is None:
            tokens = np.asarray(self.corpus.train)
            self._tokens = jnp.asarray(tokens) if layout is None else layout.put(tokens)
        return self._tokens

    def _held_out(self, seq_len: int, layout: Layout | None) -> Array:
        if seq_len not in self._windows:
            rows = evaluate.held_out_windows(self.corpus, seq_len, self.options.eval_batch_size)
            self._windows[seq_len] = jnp.asarray(rows) if layout is None else layout.put(rows)
        return self._windows[seq_len]

    def _advance_from_host(
        self, spec: RunSpec, state: TrainState, hyper: Hyper, steps: int
    ) -> tuple[TrainState, Metrics]:
        from gptjax.data.host_loader import host_loader

        corpus, length = self.corpus, spec.model.seq_len
        start = int(loss_spikes.position(state))
        batches = host_loader(corpus.train, length, spec.seed, start, spec.batch_size)
        layout = self.layout_of(spec)
        step = make_host_step(spec.program, corpus, layout)
        hyper = _put(layout, hyper)
        collected: list[Metrics] = []
        for _ in range(steps):
            batch = next(batches)
            if layout is None:
                inputs_BT, targets_BT = (jnp.asarray(x, jnp.int32) for x in batch)
            else:
                inputs_BT, targets_BT = (layout.put_batch(x.astype(np.int32)) for x in batch)
            inputs = (state, inputs_BT, targets_BT, hyper)
            lower = _lowering(step, inputs, layout)
            program = self._compiled(("host", spec.program), lower, layout)
            state, metrics = program(*inputs)
            collected.append(metrics)
        stack = jnp.stack if layout is None else np.stack
        return state, jax.tree.map(lambda *x: stack(x), *collected)


def _compiler_options() -> dict[str, int] | None:
    """On a CPU the first level, which compiles faster to as fast a program; XLA_FLAGS go first."""
    named = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    on_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 1} if on_cpu and not named else None


def _put(layout: Layout | None, tree: Any) -> Any:
    return tree if layout is None else layout.put(tree)


def _lowering(function: Callable, inputs: tuple, layout: Layout | None) -> Callable[[], Any]:
    return lambda: _lower(function, inputs, layout)


def _lower(function: Callable, inputs: tuple, layout: Layout | None) -> Any:
    """Lower `(state, …) -> (state, metrics)`, the state donated and staying where it is."""
    options: dict[str, Any] = {}
    if layout is not None:
        options["out_shardings"] = (state_shardings(layout, inputs[0]), layout.replicated)
    return jax.jit(function, donate_argnums=0, **options).lower(*inputs)


def make_advance(
    spec: RunSpec, corpus: Corpus, layout: Layout | None = None, *, roomy: bool = False
) -> Callable[[TrainState, Array, Hyper, Array], tuple[TrainState, Metrics]]:
    """Many steps in one loop, windows gathered on the device from the flat token array.

    With `roomy` the micro-batches of `spec` are the most there can be, and `Hyper.parts` of them
    are filled.
    """
    train_step = make_train_step(spec, corpus.end_of_document, layout)
    length, room = spec.model.seq_len, spec.micro_batches
    count = data.num_windows(len(corpus.train), length)

    def batch_at(tokens: Array, hyper: Hyper, position: Array) -> Batch:
        if not roomy:
            windows = data.windows_jax(hyper.seed, position, spec.batch_size, count)
            return make_batch(
                spec, *data.gather_jax(tokens, length, windows), corpus.end_of_document
            )
        # Part p of a step of k parts is step k·position + p of a run whose batch is one part.
        steps = position * hyper.parts + jnp.arange(room)
        each = jax.vmap(
            lambda step: data.windows_jax(hyper.seed, step, spec.batch_size // room, count)
        )(steps)
        batch = make_batch(
            spec, *data.gather_jax(tokens, length, each.reshape(-1)), corpus.end_of_document
        )
        filled = jnp.repeat(jnp.arange(room) < hyper.parts, spec.batch_size // room)
        return dataclasses.replace(
            batch, mask_BT=batch.mask_BT * filled[:, None], parts=hyper.parts
        )

    def advance(
        state: TrainState, tokens: Array, hyper: Hyper, steps: Array
    ) -> tuple[TrainState, Metrics]:
        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, log = carry
            batch = batch_at(tokens, hyper, loss_spikes.position(state))
            state, metrics = train_step(state, batch, hyper)
            return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), log, metrics)

        empty = Metrics.zeros(spec, MAX_STEPS_PER_CALL)
        return jax.lax.fori_loop(0, steps, body, (state, empty))

    return advance


def make_host_step(
    spec: RunSpec, corpus: Corpus, layout: Layout | None = None
) -> Callable[[TrainState, Array, Array, Hyper], tuple[TrainState, Metrics]]:
    """One step on a batch that the host gathered."""
    train_step = make_train_step(spec, corpus.end_of_document, layout)

    def step(
        state: TrainState, inputs_BT: Array, targets_BT: Array, hyper: Hyper
    ) -> tuple[TrainState, Metrics]:
        batch = make_batch(spec, inputs_BT, targets_BT, corpus.end_of_document)
        return train_step(state, batch, hyper)

    return step
