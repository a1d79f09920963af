"""Session: compiled programs and device data that the runs of one process share."""

import contextlib
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

from gptjax.data import Corpus
from gptjax.optim import eval_params
from gptjax.parallel import Layout, collectives
from gptjax.train import evaluate, loss_spikes, micro_batches
from gptjax.train.config import RunSpec, TrainConfig
from gptjax.train.feed import Batch, Feed, TokenFeed, examples_at
from gptjax.train.layout import state_shardings
from gptjax.train.objectives import Objective, next_token
from gptjax.train.pictured import PictureFeed
from gptjax.train.program_cache import Programs
from gptjax.train.state import Hyper, TrainState, init_state, make_hyper
from gptjax.train.step import Metrics, make_train_step
from gptjax.train.watchdog import Watchdog

MAX_STEPS_PER_CALL = 512


class Session:
    """A corpus, the options that do not change results, and the programs compiled for them.

    Attributes:
      corpus: the tokens; not there where a session starts and scores its runs itself.
      fingerprint: of what the runs are trained on, in the names of their checkpoints.
      options: batch of evaluation, where batches are gathered, checkpoint intervals.
      layout_of: where a run's arrays live; None means one device.
      watch: the watchdog, which is told the phases of the process.
      feed: where batches come from; by default next-token windows of the corpus, or its pictures
        with their texts.
      objective_of: what a run minimises; next-token prediction by default.
      shares_programs: whether runs share a `micro_batches.shared_program`, on a CPU; it costs each
        one sum of gradients more, so it is for many runs.
      compile_seconds: time spent compiling so far.
    """

    def __init__(
        self,
        corpus: Corpus | None,
        options: TrainConfig,
        layout_of: Callable[[RunSpec], Layout | None] = lambda spec: None,
        watch: Watchdog | None = None,
        *,
        feed: Feed | None = None,
        objective_of: Callable[[RunSpec], Objective] = next_token,
        shares_programs: bool = False,
    ) -> None:
        self._corpus = corpus
        self.fingerprint = "" if corpus is None else corpus.fingerprint
        self.options = options
        self.layout_of = layout_of
        self.watch = Watchdog() if watch is None else watch
        self.feed = _feed_of(corpus) if feed is None else feed
        self.objective_of = objective_of
        self.shares_programs = shares_programs and jax.default_backend() == "cpu"
        self.compile_seconds = 0.0
        self._programs = Programs()
        self._ahead = threading.local()
        self._arrays: Any = None
        self._windows: dict[int, Any] = {}

    @property
    def corpus(self) -> Corpus:
        """The tokens."""
        assert self._corpus is not None, "a session without a corpus scores its runs itself"
        return self._corpus

    @property
    def on_device(self) -> bool:
        """Whether batches are gathered on the device."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.feed.arrays)) / 2**30
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
        arrays, steps = self._device_arrays(None), jnp.int32(1)
        if members == 1:
            self._advance_program(spec, (state, arrays, hyper, steps), None)
        else:
            state, hyper = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((members, *leaf.shape), leaf.dtype),
                (state, hyper),
            )
            self._stack_program(spec, (state, arrays, hyper, steps))
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
            arrays = self._device_arrays(layout)
            inputs = (state, arrays, *_put(layout, (hyper, jnp.int32(steps))))
            return self._advance_program(spec, inputs, layout)(*inputs)
        return self._advance_from_host(spec, state, hyper, steps)

    def _advance_program(self, spec: RunSpec, inputs: tuple, layout: Layout | None) -> Any:
        shared = self.shares_programs and layout is None and micro_batches.can_share(spec)
        program = micro_batches.shared_program(spec) if shared else spec.program

        def lower() -> Any:
            objective = self.objective_of(program)
            advance = make_advance(program, self.feed, objective, layout, shared=shared)
            return _lower(advance, inputs, layout)

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
        inputs = (state, self._device_arrays(None), hyper, jnp.int32(steps))
        return self._stack_program(spec, inputs)(*inputs)

    def _stack_program(self, spec: RunSpec, inputs: tuple) -> Any:
        def lower() -> Any:
            advance = make_advance(spec.program, self.feed, self.objective_of(spec.program))
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
        self, spec: RunSpec, params: Any, windows: Any, layout: Layout | None
    ) -> Any:
        feed: Any = self.feed

        def program_of(params: Any, windows: Any) -> tuple[Array, Array]:
            return evaluate.window_losses(spec.layout, feed, params, windows)

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

    def _device_arrays(self, layout: Layout | None) -> Any:
        if self._arrays is None:
            put = jnp.asarray if layout is None else layout.put
            self._arrays = jax.tree.map(put, self.feed.arrays)
        return self._arrays

    def _held_out(self, seq_len: int, layout: Layout | None) -> Any:
        if seq_len not in self._windows:
            feed: Any = self.feed
            rows = feed.held_out(seq_len, self.options.eval_batch_size)
            put = jnp.asarray if layout is None else layout.put
            self._windows[seq_len] = jax.tree.map(put, rows)
        return self._windows[seq_len]

    def _advance_from_host(
        self, spec: RunSpec, state: TrainState, hyper: Hyper, steps: int
    ) -> tuple[TrainState, Metrics]:
        rows_of_steps = self.feed.stream(spec, int(loss_spikes.position(state)))
        layout = self.layout_of(spec)
        put = jnp.asarray if layout is None else layout.put_batch
        step = make_host_step(spec.program, self.feed, self.objective_of(spec.program), layout)
        hyper = _put(layout, hyper)
        collected: list[Metrics] = []
        for _ in range(steps):
            inputs = (state, jax.tree.map(put, next(rows_of_steps)), hyper)
            lower = _lowering(step, inputs, layout)
            program = self._compiled(("host", spec.program), lower, layout)
            state, metrics = program(*inputs)
            collected.append(metrics)
        stack = jnp.stack if layout is None else np.stack
        return state, jax.tree.map(lambda *x: stack(x), *collected)


def _feed_of(corpus: Corpus | None) -> Feed:
    assert corpus is not None, "a session needs a corpus or a feed"
    return TokenFeed(corpus) if corpus.train_pictures is None else PictureFeed(corpus)


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
    spec: RunSpec,
    feed: Feed,
    objective: Objective,
    layout: Layout | None = None,
    *,
    shared: bool = False,
) -> Callable[[TrainState, Any, Hyper, Array], tuple[TrainState, Metrics]]:
    """Many steps in one loop, examples gathered on the device from the feed's arrays.

    With `shared` the spec is a `micro_batches.shared_program`.
    """
    train_step = make_train_step(spec, objective, layout, shared=shared)
    count = feed.examples(spec)

    def batch_at(arrays: Any, hyper: Hyper, position: Array) -> Batch:
        if shared:
            examples = micro_batches.shared_examples(spec, hyper, position, count)
            batch = feed.batch(spec, feed.read(spec, arrays, examples))
            return micro_batches.only_filled(spec, hyper, batch)
        examples = examples_at(hyper, position, spec.batch_size, count)
        return feed.batch(spec, feed.read(spec, arrays, examples))

    def advance(
        state: TrainState, arrays: Any, hyper: Hyper, steps: Array
    ) -> tuple[TrainState, Metrics]:
        def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, log = carry
            batch = batch_at(arrays, hyper, loss_spikes.position(state))
            state, metrics = train_step(state, batch, hyper)
            return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), log, metrics)

        empty = Metrics.zeros(spec, objective, MAX_STEPS_PER_CALL)
        return jax.lax.fori_loop(0, steps, body, (state, empty))

    return advance


def make_host_step(
    spec: RunSpec, feed: Feed, objective: Objective, layout: Layout | None = None
) -> Callable[[TrainState, Any, Hyper], tuple[TrainState, Metrics]]:
    """One step on rows that the host gathered."""
    train_step = make_train_step(spec, objective, layout)

    def step(state: TrainState, rows: Any, hyper: Hyper) -> tuple[TrainState, Metrics]:
        return train_step(state, feed.batch(spec, rows), hyper)

    return step
