"""Spans of the phases of a search, for whoever traces the request (gavel/web/tracing.py); nothing is traced without."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

StartSpan = Callable[[str], AbstractContextManager[object]]

NO_SPAN: AbstractContextManager[object] = nullcontext()
SPANS: ContextVar[StartSpan | None] = ContextVar("spans", default=None)  # of the request of this context


def start_span(phase: str) -> AbstractContextManager[object]:
    """Start the span of a phase of this request, which lasts as long as the block; none if nobody traces the request."""
    start = SPANS.get()
    return NO_SPAN if start is None else start(phase)
