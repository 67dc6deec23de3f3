"""Retries: only where they can help, and only while the deadline allows it.

``urllib3.Retry`` knows no total deadline, sleeps through ``Retry-After`` however long, and
cannot tell a worker that died from any other 500. tenacity leaves those three to us and
keeps the loop, the exponential backoff and its full jitter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_random,
    wait_random_exponential,
)

from diagonalflip.client._deadline import Deadline
from diagonalflip.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    DiagonalFlipError,
    InternalError,
    ModelNotFound,
    RateLimited,
    RequestTimeout,
    ServerOverloaded,
)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

STRANGERS_ATTEMPTS = 6
"""Attempts to connect to what has never answered: a wrong address must not take a minute."""

NOT_YET = (
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    ModelNotFound,
    RateLimited,
    RequestTimeout,
    ServerOverloaded,
)
"""Errors of a server that is still starting."""

PROBE_S = 5.0
"""Longest wait for one check while the server is coming up."""

T = TypeVar("T")

_BACKOFF = wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)


def retrying(once: Callable[[], T], deadline: Deadline, has_answered: Callable[[], bool]) -> T:
    """Call a function until it succeeds or fails for good; then its own error is raised.

    The first attempt is made without tenacity, which takes as long as a small request's checks.

    Args:
        once: One attempt.
        deadline: No pause ends after it.
        has_answered: Whether the server has ever answered this client.
    """
    try:
        return once()
    except DiagonalFlipError as error:
        if not error.retryable:
            raise
        failed = [error]

    def again() -> T:
        if failed:
            raise failed.pop()
        return once()

    return Retrying(sleep=deadline.sleep, **_policy(deadline, has_answered))(again)


async def retrying_async(
    once: Callable[[], Awaitable[T]], deadline: Deadline, has_answered: Callable[[], bool]
) -> T:
    """Do the same as ``retrying`` for a coroutine function."""
    try:
        return await once()
    except DiagonalFlipError as error:
        if not error.retryable:
            raise
        failed = [error]

    async def again() -> T:
        if failed:
            raise failed.pop()
        return await once()

    return await AsyncRetrying(**_policy(deadline, has_answered))(again)


def until_ready(check: Callable[[Deadline], None], timeout_s: float) -> None:
    """Calls ``check`` until it passes.

    Args:
        check: Proves that the server is ready, within the deadline given.
        timeout_s: Seconds in all.

    Raises:
        DeadlineExceeded: No check passed; says how the last one failed.
    """
    deadline = Deadline(timeout_s)
    try:
        Retrying(sleep=deadline.sleep, **_patience(deadline))(lambda: check(_probe(deadline)))
    except NOT_YET as error:
        raise _never_ready(timeout_s, error) from error


async def until_ready_async(check: Callable[[Deadline], Awaitable[None]], timeout_s: float) -> None:
    """Do the same as ``until_ready`` for a coroutine function."""
    deadline = Deadline(timeout_s)

    async def attempt() -> None:
        await check(_probe(deadline))

    try:
        await AsyncRetrying(**_patience(deadline))(attempt)
    except NOT_YET as error:
        raise _never_ready(timeout_s, error) from error


def _probe(deadline: Deadline) -> Deadline:
    return Deadline(min(PROBE_S, deadline.check()))


def _patience(deadline: Deadline) -> dict[str, Any]:
    return {
        "retry": retry_if_exception_type(NOT_YET),
        "wait": wait_random(0.05, 0.25),
        "stop": lambda state: state.upcoming_sleep >= deadline.left_s(),
        "reraise": True,
    }


def _never_ready(timeout_s: float, error: DiagonalFlipError) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no correct prediction in {timeout_s:g} s", "one", f"the last error was: {error}"
    )


def _policy(deadline: Deadline, has_answered: Callable[[], bool]) -> dict[str, Any]:
    def stop(state: RetryCallState) -> bool:
        if state.upcoming_sleep >= deadline.left_s():
            return True
        lost = isinstance(_error(state), ConnectionFailed)
        return lost and state.attempt_number >= STRANGERS_ATTEMPTS and not has_answered()

    return {
        "retry": _can_help,
        "wait": _pause_s,
        "before_sleep": lambda state: deadline.note(_error(state)),
        "stop": stop,
        "reraise": True,
    }


def _can_help(state: RetryCallState) -> bool:
    error = _error(state)
    return isinstance(error, DiagonalFlipError) and error.retryable


def _pause_s(state: RetryCallState) -> float:
    """The server's own wish, and a random part on top so that not all come back at once."""
    return float(getattr(_error(state), "retry_after_s", 0.0)) + _BACKOFF(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
