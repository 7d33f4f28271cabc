"""Cases of one test, begun ahead of their turn and a few at a time."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
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
    computes: bool = False,
) -> Iterator[dict[str, Future[T]]]:
    """Begin every case of a test that was chosen for this session; yield what becomes of it, by case.

    Args:
        request: Of a module's fixture.
        name: Of the test's function.
        argument: Of it, the one that names the case.
        run: Runs a case, in a thread, or in a process where it computes: there it is a module's function.
        at_once: How many run beside each other.
        alone: Cases that are not begun: they are for the test to run by itself, once all others have ended.
        computes: It would keep others from running, rather than wait.
    """
    cases = [
        str(item.callspec.params[argument])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and item.originalname == name
    ]
    request.getfixturevalue("tmp_path_factory").getbasetemp()  # before two threads at once make two
    pools = ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) if computes else ThreadPoolExecutor(at_once)
    with pools as pool:
        yield {case: pool.submit(run, case) for case in cases if case not in alone}
        pool.shutdown(cancel_futures=True)
