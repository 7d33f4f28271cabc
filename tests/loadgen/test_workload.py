"""Bodies and the workload that is rendered from them: what is sent, in which order, and what is refused."""

import itertools
import json
import os
import tempfile
from pathlib import Path

import pytest

from loadgen.bodies import MOST_RENDERED, bodies_of, from_lines, from_template
from loadgen.errors import UsageError
from loadgen.workload import Play, rendered
from scenarios import Target


def head(body_bytes: int) -> bytes:
    """Be the head of a request."""
    return f"POST / HTTP/1.1\r\nContent-Length: {body_bytes}\r\n\r\n".encode()


def played(bodies: list[bytes], shuffle: int | None = None) -> Play:
    """Render and open."""
    with rendered(bodies, head, shuffle=shuffle) as workload:
        return workload.open()


def first(count: int, play: Play, at: int = 0, worker: int = 0, workers: int = 1) -> list[bytes]:
    """Return a worker's first requests, without their heads."""
    return [whole.partition(b"\r\n\r\n")[2] for whole in itertools.islice(play(at, worker, workers), count)]


def lines(folder: Path, text: str | bytes) -> Path:
    """Write a file of request bodies."""
    path = folder / "requests.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# a workload


def test_each_request_is_complete() -> None:
    """What is played is the head, with the length of its own body, and the body."""
    play = played([b"{}", b'{"a": "longer"}', b""])
    bodies = (b"{}", b'{"a": "longer"}', b"", b"{}")
    assert list(itertools.islice(play(0, 0, 1), 4)) == [head(len(body)) + body for body in bodies]


def test_requests_go_round_and_round_in_order() -> None:
    """After the last comes the first, and a step may begin anywhere."""
    play = played([b"1", b"2", b"3"])
    assert first(7, play) == [b"1", b"2", b"3", b"1", b"2", b"3", b"1"]
    assert first(4, play, at=5) == [b"3", b"1", b"2", b"3"]


@pytest.mark.parametrize("shuffle", [None, 7])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_together_send_what_one_would(workers: int, shuffle: int | None) -> None:
    """Worker w of W sends requests w, w + W, … of one stream, wherever the step begins in it."""
    play = played([f"{k}".encode() for k in range(10)], shuffle)
    alone = first(60, play, at=13)
    shares = [first(60 // workers, play, at=13, worker=w, workers=workers) for w in range(workers)]
    assert [share[k] for k in range(60 // workers) for share in shares] == alone


def test_a_shuffle_is_another_one_each_round() -> None:
    """Each round sends every line once, and rounds differ."""
    bodies = [f"{k}".encode() for k in range(50)]
    sent = first(500, played(bodies, shuffle=3))
    rounds = [sent[at : at + 50] for at in range(0, 500, 50)]
    assert all(sorted(one) == sorted(bodies) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 10


def test_the_seed_decides_the_shuffle() -> None:
    """The same seed gives the same order, another seed another."""
    bodies = [f"{k}".encode() for k in range(50)]
    one, same, other = (first(100, played(bodies, shuffle=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_one_line_can_be_shuffled() -> None:
    """A round of one is legal."""
    assert first(3, played([b"1"], shuffle=0)) == [b"1", b"1", b"1"]


def test_the_file_is_gone_before_the_load() -> None:
    """Who has opened a workload plays it on; nothing is left among the temporary files."""
    with rendered([b"{}"], head) as workload:
        play = workload.open()
        assert Path(workload.path).exists()
    assert not Path(workload.path).exists()
    assert first(1, play) == [b"{}"]


def test_what_is_noted_identifies_the_bodies() -> None:
    """The run file gets number, length and a digest, which changes with any body."""
    told = []
    for bodies in ([b"1", b"23"], [b"1", b"23"], [b"12", b"3"]):
        with rendered(bodies, head) as workload:
            told.append(workload.told())
    assert (told[0]["requests"], told[0]["body_bytes"]) == (2, 3)
    assert told[0] == told[1]
    assert told[0]["sha256"] != told[2]["sha256"]


def test_no_room_for_the_rendered_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written to is named, with the remedy."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(UsageError, match=r"/proc/nowhere .*set TMPDIR"), rendered([b"1"], head):
        pass


# lines of a file


def test_lines_are_bodies_as_they_stand(tmp_path: Path) -> None:
    """Blank lines are skipped, white space around a body too; the body is not written anew."""
    path = lines(tmp_path, '{"b": 1.50,  "a": "ü"}\r\n\n   \n  [2]\n"no line feed at the end"')
    assert list(from_lines(path)) == ['{"b": 1.50,  "a": "ü"}'.encode(), b"[2]", b'"no line feed at the end"']


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "requests.jsonl: holds no request"),
        ("\n  \n", "requests.jsonl: holds no request"),
        ('{"a": 1}\n\n{"a": 1\n', "requests.jsonl: line 3: is not JSON"),
        ("{'a': 1}", "requests.jsonl: line 1: is not JSON"),
        (b'"\xff"', "requests.jsonl: line 1: is not JSON"),
        ("[" * 100_000, "requests.jsonl: line 1: is not JSON"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    """A file without a request, and a line that is not JSON, are usage errors."""
    with pytest.raises(UsageError) as caught:
        list(from_lines(lines(tmp_path, content)))
    assert says in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(UsageError, match=r"nowhere.jsonl: cannot be read \(No such file"):
        list(from_lines(tmp_path / "nowhere.jsonl"))


# a template


def some(text: str, count: int = 5, seed: int = 0) -> list[str]:
    """Return the first renderings of a template."""
    return [body.decode() for body in itertools.islice(from_template(text, seed), count)]


def test_fields_keep_to_their_ranges() -> None:
    """Each field gives what its arguments ask for, and a body of them is JSON."""
    text = """{"id": "{{ uuid() }}", "n": {{ seq }}, "int": {{ int(3, 5) }}, "float": {{ float(0, 1) }},
      "kind": "{{ choice('a', 'b') }}", "prompt": "{{ words(int(2, 4)) }}", "ids": {{ ints(3, 0, 9) }},
      "x": {{ floats(2, -1, 1) }}}"""
    bodies = [json.loads(body) for body in some(text, 200)]
    assert [body["n"] for body in bodies] == list(range(200))
    assert {body["int"] for body in bodies} == {3, 4, 5}
    assert all(0 <= body["float"] <= 1 for body in bodies)
    assert {body["kind"] for body in bodies} == {"a", "b"}
    assert {len(body["prompt"].split()) for body in bodies} == {2, 3, 4}
    assert all(len(body["ids"]) == 3 and set(body["ids"]) <= set(range(10)) for body in bodies)
    assert all(len(body["x"]) == 2 and -1 <= min(body["x"]) <= max(body["x"]) <= 1 for body in bodies)
    assert len({body["id"] for body in bodies}) == 200


def test_the_seed_decides_the_fields() -> None:
    """The same seed gives the same bodies, another seed others."""
    text = "{{ uuid() }} {{ words(9) }} {{ choice(1, 2, 3) }}"
    assert some(text, 20, seed=4) == some(text, 20, seed=4)
    assert some(text, 20, seed=4) != some(text, 20, seed=5)


def test_templates_know_loops_and_conditions() -> None:
    """A template is Jinja: a list of messages of random length needs no field of its own."""
    text = '[{% for _ in range(int(1, 3)) %}{{ "," if not loop.first }}{{ loop.index }}{% endfor %}]'
    assert {tuple(json.loads(body)) for body in some(text, 100)} == {(1,), (1, 2), (1, 2, 3)}


def test_a_template_is_rendered_so_often_and_so_long() -> None:
    """The number of renderings is bounded, and so are their bytes; one there always is."""
    assert len(list(from_template("{{ seq }}", 0))) == MOST_RENDERED
    assert len(list(from_template("x" * 10, 0, most_bytes=95))) == 9
    assert len(list(from_template("x" * 10, 0, most_bytes=5))) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ flot(1, 2) }}", "unknown field 'flot'; did you mean 'float'?"),
        ("{% if false %}{{ wrds(3) }}{% endif %}", "unknown field 'wrds'; did you mean 'words'?"),
        ("{{ 1 | random }}", "line 1: No filter named 'random'"),
        ("{{ lipsum() }}", "unknown field 'lipsum'; there are choice, float"),
        ("a\n{{ words(3 }}", "the body template, line 2:"),
        *(
            (f"{{{{ {field} }}}}", f"the body template: {takes}")
            for field, takes in (
                ("int(5)", "int(1, 9) takes the lowest and the highest whole number"),
                ("int(5, 1)", "int(1, 9) takes the lowest and the highest whole number"),
                ("float(0, 'x')", "float(0, 1) takes two numbers"),
                ("choice()", "choice('a', 'b') takes one value or more"),
                ("words('x')", "words(20) takes the number of words"),
                ("ints(2, 9, 1)", "ints(8, 0, 255) takes how many, the lowest and the highest whole number"),
                ("floats(2)", "floats(8, 0, 1) takes how many, and two numbers"),
                ("uuid(4)", "uuid() takes nothing"),
            )
        ),
        ("{{ words.__globals__ }}", "the body template fails: access to attribute '__globals__'"),
        ("{% for _ in range(10 ** 9) %}{% endfor %}", "the body template fails: Range too big"),
    ],
)
def test_a_wrong_template_is_one_sentence(text: str, says: str) -> None:
    """What is unknown, mistyped, failing or forbidden is a usage error, before any request."""
    with pytest.raises(UsageError) as caught:
        some(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_has_its_bodies(tmp_path: Path) -> None:
    """Lines and templates give bodies of their own; a fixed body, or none, does not."""
    path = lines(tmp_path, "[1]\n[2]")
    of_lines, of_template = bodies_of(Target(body_lines=str(path)), 0), bodies_of(Target(body_template="a{{ seq }}"), 0)
    assert list(itertools.islice(of_lines or (), 2)) == [b"[1]", b"[2]"]
    assert list(itertools.islice(of_template or (), 2)) == [b"a0", b"a1"]
    assert bodies_of(Target(body=b"{}"), 0) is None
    assert bodies_of(Target(), 0) is None


def test_lines_may_come_from_a_pipe(tmp_path: Path) -> None:
    """A pipe, which has no length and is read once, is as good as a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)  # both ends, so that opening does not wait
    os.write(writer, b"[1]\n[2]\n")
    assert list(itertools.islice(from_lines(path), 2)) == [b"[1]", b"[2]"]
    os.close(writer)
