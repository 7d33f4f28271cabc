from dataclasses import replace

from reports import markdown
from tests.factories import make_answer, make_records, make_run

RUN = make_run()
RECORDS = RUN.steps


def test_comment_begins_with_the_verdict() -> None:
    """The first line, which a notification quotes, is the headline."""
    assert markdown(RUN).startswith("### ✅ Found: p99&#60;200ms holds up to 553 req/s")


def test_bad_ends_carry_their_icon_and_advice() -> None:
    """A verdict that needs action looks different and says what to do."""
    comment = markdown(make_run(steps=RECORDS, answer=make_answer(verdict="undecided"), exit_code=3))
    assert comment.startswith("### ⚠️ Undecided")
    assert "**What to do next.** Give the search more time with --budget" in comment


def test_long_runs_stay_below_githubs_limit() -> None:
    """A comment has at most 65,536 characters, however many steps there were and whatever failed."""
    wordy = {f"{i} {'`<|' * 500}": 1 for i in range(50)}
    many = tuple(
        replace(r, index=i, errors=wordy, step=replace(r.step, purpose="<|>" * 99)) for i, r in enumerate(RECORDS * 20)
    )
    long = make_run(steps=many, answer=make_answer(limited_by="<" * 5000, stop_reason="|" * 5000))
    assert len(markdown(long)) < 65_000
    assert "The first 200 steps are left out." in markdown(long)


def test_run_without_steps_has_no_table_of_steps() -> None:
    """Nothing is folded away where there is nothing."""
    assert "<details>" not in markdown(make_run(steps=()))


def test_errors_are_quoted_with_their_counts() -> None:
    """What the target said most often is one click away."""
    assert "- 63 \N{MULTIPLICATION SIGN} `HTTP 503: queue is full, retry after 1 s`" in markdown(
        make_run(steps=make_records())
    )
