from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadgen import flags


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (flags.duration_s, "200ms", 0.2),
        (flags.share, "5%", 0.05),
        (flags.share, "0", 0),
        (flags.precision, "0.02", 0.02),
        (flags.precision, "2%", 0.02),
        (flags.duration_s, "3m", 180.0),
        (flags.duration_s, "180s", 180.0),
        (flags.rate_rps, "500", 500),
        (flags.rate_rps, "0.5/s", 0.5),
        (flags.rate_rps, "1e6", 1e6),
        (flags.rate_rps, "2.5E-1 rps", 0.25),
        (flags.count, "7", 7),
        (flags.seed, "0", 0),
        (flags.port, "0", 0),
        (flags.workers, "auto", "auto"),
        (flags.workers, "2", 2),
        (flags.arrivals, "poisson", ("poisson", "")),
        (flags.arrivals, "gamma:2.5", ("gamma", "2.5")),
        (flags.arrivals, "replay:a/b:c.txt", ("replay", "a/b:c.txt")),
        (flags.header, "A: b: c ", ("A", "b: c")),
        (flags.header, "A:", ("A", "")),
        (flags.folder, "a/b", Path("a/b")),
        (flags.path, "a/b", Path("a/b")),
        (flags.sizes, "1,2,8", (1, 2, 8)),
        (flags.place, "cpu", None),
        (flags.place, "3", 3),
        (flags.place, "cuda:0", 0),
    ],
)
def test_reads(read: Callable[[str], Any], text: str, value: Any) -> None:
    """A flag's text becomes its value."""
    assert read(text) == pytest.approx(value) if isinstance(value, float) else read(text) == value


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (flags.duration_s, ["0s", "3", "-1s", ""]),
        (flags.path, [""]),
        (flags.sizes, ["", "1", "2,1", "1,1", "0,1", "1,x", "1,,2", "1,1234567"]),
        (flags.place, ["", "gpu", "cuda:", "-1", "99"]),
        (flags.share, ["1", "100%", "-1", "x", "nan", ""]),
        (flags.precision, ["0", "0%"]),
        (flags.rate_rps, ["0", "-5", "inf", "nan", "1e12", "1e999", "0e5", "1e", "e5", "x"]),
        (flags.count, ["0", "-1", "1.5", "1000001", "²"]),
        (flags.seed, ["-1", "x", str(2**54)]),
        (flags.port, ["65536", "-1", "http"]),
        (flags.workers, ["0", "all", "2000"]),
        (flags.arrivals, ["", "gamma", "gamma:", "gamma:0", "gamma:-1", "replay", "replay:", "poisson:3", "Poisson"]),
        (flags.header, ["", "abc", ": x"]),
        (flags.folder, [""]),
    ],
)
def test_refuses(read: Callable[[str], Any], texts: list[str]) -> None:
    """What is wrong is refused in one sentence, with the text or an example in it."""
    for text in texts:
        with pytest.raises(ValueError, match=r".") as caught:
            read(text)
        assert "\n" not in str(caught.value)


def test_a_bad_header_is_never_quoted() -> None:
    """A header without a colon may be all secret, so the message does not repeat it."""
    with pytest.raises(ValueError, match=r"^write 'Name: value'$"):
        flags.header("Bearer hunter2")
