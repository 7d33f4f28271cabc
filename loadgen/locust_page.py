"""The Operating point tab: our page among the ones of Locust's web UI, and our verdict in Locust's own report."""

import re
import time
from collections.abc import Callable
from typing import Any, Protocol

from locust.runners import STATE_CLEANUP
from locust.web import WebUI, request  # Flask's, which comes with Locust

from loadgen.board import Board
from reports.live import page

KEY, TITLE = "opfind", "Operating point"
_ROOT = '<div id="root"'
_SETTLE_S = 5.0
# Opens our tab unless the address names another, and shows the page in it: a tab of the stock bundle knows only tables.
# The form's own fields, "Custom parameters", are folded away there; here they are what matters.
_SCRIPT = """<script>(() => {
const url = new URL(location.href);
if (!url.searchParams.has("tab")) { url.searchParams.set("tab", "KEY"); history.replaceState(null, "", url); }
const frame = document.createElement("iframe");
frame.id = "operating-point"; frame.title = "TITLE"; frame.src = "./KEY/";
frame.style.cssText = "border:0;width:100%;height:70vh;display:none";
let opened = false;
setInterval(() => {
  const ours = [...document.querySelectorAll("button")].find(one => one.textContent === "Custom parameters");
  if (ours && !opened) { opened = true; if (ours.getAttribute("aria-expanded") === "false") ours.click(); }
  if (!ours) opened = false;
  const tabs = document.querySelector('[role="tablist"]');
  const box = tabs && tabs.closest(".MuiContainer-root");
  const chosen = box && box.querySelector('[role="tab"][aria-selected="true"]');
  const on = Boolean(chosen) && chosen.textContent.trim() === "TITLE";
  if (on && frame.parentNode !== box) box.appendChild(frame);
  frame.style.display = on ? "block" : "none";
  const body = on && frame.contentDocument && frame.contentDocument.getElementById("live");
  if (body) frame.style.height = `${body.scrollHeight + 24}px`;
}, 200);
})();</script>""".replace("KEY", KEY).replace("TITLE", TITLE)


class Searching(Protocol):
    """What the page needs of whoever runs the searches."""

    board: Board

    def objection(self, form: dict[str, str]) -> str | None:
        """Return why a search with these fields cannot start, or None; waits for one that is just ending."""


def add_page(web_ui: WebUI, base: str, searches: Searching, *, needs_host: bool) -> None:
    """Add the tab, its page, the reports and the checks of the start form to Locust's web UI.

    Args:
        web_ui: Not serving yet.
        base: Of `--web-base-path`.
        searches: Whose board is shown.
        needs_host: Locust is to warn where no host is named.
    """
    app, board = web_ui.app, searches.board
    assert app is not None
    web_ui.template_args |= {
        "extended_tabs": [{"title": TITLE, "key": KEY}],
        "extended_csv_files": [
            {"href": f"./{KEY}/report/last/download", "title": "Download the operating point's report"}
        ],
    }

    def add(path: str, view: Callable[..., Any]) -> None:
        app.add_url_rule(f"{base}/{KEY}/{path}", f"{KEY}.{path}", web_ui.auth_required_if_enabled(view))

    add("", lambda: page("live"))
    add("live", lambda: (board.fragment(), 200, {"Cache-Control": "no-store"}))
    add("report/<number>", lambda number: _report(board, number))
    add("report/<number>/download", lambda number: _report(board, number, as_file=True))
    calm = "" if needs_host else "<script>templateArgs.missing_host_warning = false</script>"
    ends = (("<head>", f"<head>{_SCRIPT}"), ("</body>", f"{calm}</body>"))
    _wrap(app, "locust.index", lambda html: html.replace(*ends[0], 1).replace(*ends[1], 1))
    _wrap(app, "locust.stats_report", lambda html: with_banner(html, board))
    for endpoint in ("locust.index", "locust.request_stats"):
        app.view_functions[endpoint] = _once_settled(app.view_functions[endpoint], web_ui)
    start = app.view_functions["locust.swarm"]

    def swarm() -> Any:
        why = searches.objection(request.form.to_dict())
        if why is None:
            return start()
        board.notice = why
        return {"success": False, "message": why, "host": web_ui.environment.host}

    # In place of Locust's own, which lets in whom it lets in: ours is asked first, so it asks the same way.
    app.view_functions["locust.swarm"] = web_ui.auth_required_if_enabled(swarm)


def with_banner(html: str, board: Board) -> str:
    """Put the verdict into Locust's report, before what its script draws; the script's own text holds tags as well."""
    before, root, after = html.rpartition(_ROOT)
    return f"{before}{board.banner()}{root}{after}" if root else html


def _once_settled(view: Callable[..., Any], web_ui: WebUI) -> Callable[..., Any]:
    """Answer when a test that is just ending has ended: Locust's page asks no more once it was told `cleanup`."""

    def settled(*args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + _SETTLE_S
        while web_ui.environment.runner.state == STATE_CLEANUP and time.monotonic() < deadline:
            time.sleep(0.05)
        return view(*args, **kwargs)

    return settled


def _wrap(app: Any, endpoint: str, change: Callable[[str], str]) -> None:
    """Change the HTML that an endpoint returns; what is no page, such as the way to the login, stays as it is."""
    original = app.view_functions[endpoint]

    def changed(*args: Any, **kwargs: Any) -> Any:
        reply = original(*args, **kwargs)
        if isinstance(reply, str):
            return change(reply)
        if getattr(reply, "status_code", 0) == 200:
            reply.set_data(change(reply.get_data(as_text=True)))
        return reply

    app.view_functions[endpoint] = changed


def _report(board: Board, number: str, *, as_file: bool = False) -> Any:
    """Return the report of the n-th search, or of the last one."""
    last = len(board.folders) if board.has_report else 0
    index = last if number == "last" else int(number) if number.isdecimal() and len(number) < 9 else 0
    path = board.folders[index - 1] / "report.html" if 0 < index <= len(board.folders) else None
    if path is None or not path.is_file():
        return "There is no such report: a search writes it when it ends.", 404
    name = f"opfind-{re.sub(r'[^A-Za-z0-9_.-]+', '_', path.parent.name)}.html"  # a header takes no other letters
    headers = {"Content-Type": "text/html; charset=utf-8"}
    if as_file:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return path.read_text(encoding="utf-8"), 200, headers
