"""Training of one run: state, the pure step, checkpoints, evaluation, the loop."""

from gptjax.train.checkpoint import Checkpointer, OtherRun
from gptjax.train.config import RunSpec, TrainConfig
from gptjax.train.evaluate import Evaluation
from gptjax.train.feed import Batch, Feed, TokenFeed, next_token_batch
from gptjax.train.interrupt import EXIT_RESUMABLE, Interrupted, StopFlag, Superseded, stop_on_signal
from gptjax.train.layout import cuts, layout_over, make_layout, state_shardings
from gptjax.train.loop import Diverged, Fork, Hooks, Progress, RunResult, grow_trunk, run
from gptjax.train.mup import transfer_width
from gptjax.train.objectives import Objective, Terms, next_token, token_losses
from gptjax.train.session import Session
from gptjax.train.stack import Branches, StackHooks, run_stack
from gptjax.train.state import Hyper, TrainState, init_state, make_hyper
from gptjax.train.step import Metrics, make_train_step

__all__ = [
    "EXIT_RESUMABLE",
    "Batch",
    "Branches",
    "Checkpointer",
    "Diverged",
    "Evaluation",
    "Feed",
    "Fork",
    "Hooks",
    "Hyper",
    "Interrupted",
    "Metrics",
    "Objective",
    "OtherRun",
    "Progress",
    "RunResult",
    "RunSpec",
    "Session",
    "StackHooks",
    "StopFlag",
    "Superseded",
    "Terms",
    "TokenFeed",
    "TrainConfig",
    "TrainState",
    "cuts",
    "grow_trunk",
    "init_state",
    "layout_over",
    "make_hyper",
    "make_layout",
    "make_train_step",
    "next_token",
    "next_token_batch",
    "run",
    "run_stack",
    "state_shardings",
    "stop_on_signal",
    "token_losses",
    "transfer_width",
]
