"""Cases of one test that mostly wait, begun ahead of their turn and a few at a time."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")


@contextmanager
def ahead(
    request: pytest.FixtureRequest,
    name: str,
    argument: str,
    run: Callable[[str], T],
    at_once: int,
    *,
    alone: Collection[str] = (),
) -> Iterator[dict[str, Future[T]]]:
    """Begin every case of a test that was chosen for this session; yield what becomes of it, by case.

    Args:
        request: Of a module's fixture.
        name: Of the test's function.
        argument: Of it, the one that names the case.
        run: Runs a case, in a thread.
        at_once: How many run beside each other.
        alone: Cases that are not begun: they are for the test to run by itself, once all others have ended.
    """
    cases = [
        str(item.callspec.params[argument])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and item.originalname == name
    ]
    with ThreadPoolExecutor(at_once) as pool:
        yield {case: pool.submit(run, case) for case in cases if case not in alone}
        pool.shutdown(cancel_futures=True)
