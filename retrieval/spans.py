"""Spans of the phases of a search. They are recorded only if the server traces the request (gavel/web/tracing.py)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

StartSpan = Callable[[str], AbstractContextManager[object]]

NO_SPAN: AbstractContextManager[object] = nullcontext()
SPANS: ContextVar[StartSpan | None] = ContextVar("spans", default=None)  # for this context's request; None if it is not traced


def start_span(phase: str) -> AbstractContextManager[object]:
    """Return a span of a phase of this request, which lasts as long as its `with` block; NO_SPAN if it is not traced."""
    start = SPANS.get()
    return NO_SPAN if start is None else start(phase)
