"""What a hostile target, body or scenario says must stay words in every report."""

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from analysis import Estimate, Reason, Run
from reports import html, junit, markdown
from tests.factories import make_answer, make_records, make_run

HOSTILE = (
    "<script>alert(1)</script>",
    "]]><x/>",
    "a | b || c \\| d",
    "`code` ``` ~~~",
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1)) <http://evil.example>",
    "http://evil.example www.evil.example mailto:a@evil.example",
    "@everyone #1 GH-1 $`x`$ &amp; &lt;",
    "</details></table>\n\n# title\n- item\n> quote\n\n| a |\n|---|\n",
    "\x00\x1b[31mred\x1b]8;;http://evil.example\x07",
    "\ud800 lone \udfff surrogates",
    "\u202eevil\u2066",
    '" onload="alert(1)" x=\'',
    "{{ 7*7 }} {% raw %} ${jndi:x}",
    "-->\r\n<!--",
    "`",
    "",
)
_ALL = " ".join(HOSTILE)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
STEPS = make_records()[-3:]
_RATE = Estimate(value=500.0, low=490.0, high=510.0)


def hostile_run(text: str) -> Run:
    """Return a run in which every text that is not ours is this one."""
    steps = [
        replace(
            record,
            reasons=(Reason(kind="target", text=text),),
            errors={text: 3, f"{text} again": 1},
            client={"pacing": text, text: 1.5},
            step=replace(record.step, purpose=text),
            server={text: text},
        )
        for record in STEPS
    ]
    return make_run(
        steps=tuple(steps),
        answer=make_answer(
            verdict="target_failed",
            limited_by=text,
            stop_reason=text,
            method_reason=text,
            notes=(f"{text} again",),
            per_sla={text: _RATE, f"{text} again": _RATE},
        ),
        exit_code=5,
        scenario={"target": text, text: {"nested": [text, None]}},
        environment={"command": text, text: text, "packages": {text: text}},
        started_at=text,
    )


class _Page(HTMLParser):
    """Collect a page's tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _parse(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    parser.close()
    return parser


def _flat(tokens: list[Token]) -> list[Token]:
    return [token for outer in tokens for token in (outer, *_flat(outer.children or []))]


def _render(source: str) -> list[Token]:
    """Return GitHub's reading of Markdown, as near as a CommonMark parser with tables comes to it."""
    return _flat(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(source))


def _shape(tokens: list[Token]) -> list[str]:
    return [token.type for token in tokens if token.type not in ("text", "text_special", "code_inline")]


@cache
def _plain_html() -> str:
    return html(hostile_run("words"))


@pytest.mark.parametrize("text", [*HOSTILE, _ALL])
def test_html_holds_no_more_tags_than_for_plain_words(text: str) -> None:
    """A hostile text adds no tag and no attribute to the page, and leaves no forbidden character in it."""
    source = html(hostile_run(text))
    page, plain = _parse(source), _parse(_plain_html())
    if text:  # what is empty is left out, together with its tags
        assert [(tag, set(attributes)) for tag, attributes in page.tags] == [
            (tag, set(attributes)) for tag, attributes in plain.tags
        ]
    assert not _FORBIDDEN.search(source)


def test_html_shows_hostile_text_as_it_was() -> None:
    """Escaping keeps the words readable."""
    assert "<script>alert(1)</script> again" in _parse(html(hostile_run(HOSTILE[0]))).text


@pytest.mark.parametrize("text", [*HOSTILE, _ALL])
def test_markdown_keeps_the_shape_it_has_for_plain_words(text: str) -> None:
    """A hostile text adds no link, image, HTML, table cell or line to the comment."""
    assert _shape(_render(markdown(hostile_run(text)))) == _shape(_render(markdown(hostile_run("words"))))
    assert not _FORBIDDEN.search(markdown(hostile_run(text)))


def test_markdown_mentions_nobody() -> None:
    """Outside code, where GitHub looks for them, no name, issue or address is left in one piece."""
    words = "".join(token.content for token in _render(markdown(hostile_run(_ALL))) if token.type.startswith("text"))
    assert "everyone" in words
    assert not re.search(r"@\w|#\d|://|\bwww\.|GH-\d", words)


@pytest.mark.parametrize("text", [*HOSTILE, _ALL])
def test_junit_is_well_formed_whatever_was_said(text: str) -> None:
    """An XML 1.0 parser reads the file, and finds no element that we did not write."""
    source = junit(hostile_run(text))
    found = {element.tag for element in ET.fromstring(source).iter()}
    assert found == {"testsuites", "testsuite", "properties", "property", "testcase", "error", "system-out"}
    assert not _FORBIDDEN.search(source)


@pytest.mark.parametrize("report", [html, markdown, junit])
def test_reports_can_be_written_as_utf8(report: object) -> None:
    """No lone surrogate is left that would break the writing of the file."""
    assert callable(report)
    assert report(hostile_run(_ALL)).encode("utf-8")
