"""Where request bodies come from, when they are not all the same: lines of a file, or a template with random fields."""

import random
import uuid
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
import msgspec

from loadgen.errors import UsageError
from scenarios.scenario import Target

MOST_RENDERED = 65_536  # different requests of a template, or fewer: as many as fit into the bytes below
_MOST_RENDERED_BYTES = 64 * 1024 * 1024
_WORDS = (  # common ones, each a token or two
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its "
    "about into than them can only other new some could time these two may then do first any my now such like our "
    "over man me even most made after also did many before must through back years where much your way well down "
    "should because each just"
)

_TAKES = {
    "int": "int(1, 9) takes the lowest and the highest whole number",
    "float": "float(0, 1) takes two numbers",
    "choice": "choice('a', 'b') takes one value or more",
    "words": "words(20) takes the number of words",
    "ints": "ints(8, 0, 255) takes how many, the lowest and the highest whole number",
    "floats": "floats(8, 0, 1) takes how many, and two numbers",
    "uuid": "uuid() takes nothing",
}


def bodies_of(target: Target, seed: int) -> Iterator[bytes] | None:
    """Return the bodies of a target that is sent more than one, or None."""
    if target.body_lines is not None:
        return from_lines(Path(target.body_lines))
    if target.body_template is not None:
        return from_template(target.body_template, seed)
    return None


def from_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, each a JSON value; blank ones are skipped.

    Raises:
        UsageError: It cannot be read, a line is not JSON, or there is none.
    """
    found = False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if body := line.strip():
                    _check_json(body, f"{path}: line {number}")
                    found = True
                    yield body
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise UsageError(f"{path}: holds no request: write the JSON body of one on each line")


def _check_json(body: bytes, where: str) -> None:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: is not JSON ({error})") from None


def from_template(text: str, seed: int, *, most_bytes: int = _MOST_RENDERED_BYTES) -> Iterator[bytes]:
    """Render a Jinja template again and again: 65,536 times, or as often as fits into `most_bytes`, at least once.

    Its fields are `_fields` and `seq`, the number of the rendering from 0. The same seed gives the same bodies.

    Raises:
        UsageError: The template is wrong, or fails.
    """
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    del environment.filters["random"]  # it draws without our seed, and so does a global
    draws = _fields(random.Random(f"template {seed}"))
    explained = {name: _explained(field, _TAKES[name]) for name, field in draws.items()}
    environment.globals = {"range": environment.globals["range"], **explained}
    template = _compiled(environment, text)
    left = most_bytes
    for seq in range(MOST_RENDERED):
        try:
            body = template.render(seq=seq).encode()
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 (the template is a program of the user's)
            words = str(error).partition("\n")[0] or type(error).__name__
            raise UsageError(f"the body template fails: {words}") from None
        left -= len(body)
        if left < 0 < seq:
            return
        yield body


def _compiled(environment: jinja2.Environment, text: str) -> jinja2.Template:
    try:
        parsed = environment.parse(text)
        known = {"seq", *environment.globals}
        for name in sorted(jinja2.meta.find_undeclared_variables(parsed) - known):
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"the body template: unknown field '{name}'; {remedy}")
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"the body template, line {error.lineno}: {error.message}") from None


def _explained(field: Callable[..., Any], takes: str) -> Callable[..., Any]:
    """Return a field that answers wrong arguments with what it takes, not with Python's words for its insides."""

    def draw(*given: Any, **named: Any) -> Any:
        try:
            return field(*given, **named)
        except (TypeError, ValueError, IndexError, OverflowError):
            raise UsageError(f"the body template: {takes}") from None

    return draw


def _fields(draw: random.Random) -> dict[str, Callable[..., Any]]:
    """Return what a template may call; both ends of a range belong to it."""
    vocabulary = _WORDS.split()

    def words(count: int) -> str:
        return " ".join(draw.choices(vocabulary, k=count))

    def choice(*options: Any) -> Any:
        return draw.choice(options)

    def ints(count: int, low: int, high: int) -> list[int]:
        return [draw.randint(low, high) for _ in range(count)]

    def floats(count: int, low: float, high: float) -> list[float]:
        return [draw.uniform(low, high) for _ in range(count)]

    def new_uuid() -> str:
        return str(uuid.UUID(int=draw.getrandbits(128), version=4))

    return {
        "int": draw.randint, "float": draw.uniform, "choice": choice, "words": words, "ints": ints, "floats": floats,
        "uuid": new_uuid,
    }  # fmt: skip
