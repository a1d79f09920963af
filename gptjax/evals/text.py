"""From texts to requests: the seam of context and continuation, and windows of long documents."""

from collections.abc import Iterator, Sequence

from gptjax.errors import UserError
from gptjax.evals.score import Request
from gptjax.infer.model import Model


def prefix_of(model: Model) -> int:
    """The token before a text: its tokenizer's own, or the end of the document before it.

    Raises:
      UserError: without a tokenizer.
    """
    if not model.end_ids:
        raise UserError(
            f"{model.name} has no tokenizer, so texts cannot be scored; put the tokenizer's file "
            "into its folder"
        )
    return (*model.end_ids[:1], *model.begins)[-1]


def request_of(model: Model, context: str, continuation: str) -> Request:
    """The request for a continuation, split as lm-evaluation-harness splits it.

    Spaces at the end of the context go to the continuation, both are encoded together, and the
    context's length is that of its own encoding. Where a token lies across the seam and that
    leaves the continuation empty, it begins at the first token in which the encodings differ. A
    published tokenizer's own tokens stand before the context.

    Raises:
      UserError: for an empty continuation.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not continuation:
        raise UserError("a continuation is empty; give at least one character")
    if not context:
        return Request((prefix_of(model),), tuple(model.encode(continuation)))
    before, whole = model.encode(context), model.encode(context + continuation)
    cut = len(before)
    if cut >= len(whole):
        cut = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
            len(whole) - 1,
        )
    head = (*model.begins, *whole[:cut]) or (prefix_of(model),)
    return Request(head, tuple(whole[cut:]))


def windows(ids: Sequence[int], prefix: int, length: int, stride: int = 0) -> Iterator[Request]:
    """Requests that score every token of a text once, each in a window of at most `length` inputs.

    The first window scores up to `length` tokens after the prefix, every later one the next
    `stride`, with as many tokens before them as fit: for a stride of the length,
    lm-evaluation-harness's rolling windows.

    Args:
      stride: 1 … length; 0: length.

    >>> [(r.context, r.tokens) for r in windows([1, 2, 3], 0, 2)]
    [((0,), (1, 2)), ((1, 2), (3,))]
    """
    stride = min(stride or length, length)
    first = min(length, len(ids))
    if first:
        yield Request((prefix,), tuple(ids[:first]))
    done = first
    while done < len(ids):
        count = min(stride, len(ids) - done)
        end = done + count
        yield Request(tuple(ids[max(end - length - 1, 0) : done]), tuple(ids[done:end]))
        done = end
