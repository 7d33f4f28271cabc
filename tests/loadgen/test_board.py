"""What the page shows while a search tells of itself, and after it has ended."""

import json
import re
from pathlib import Path
from typing import Any

from loadgen.board import Board
from tests.factories import make_run
from tests.reports.test_live import FIRST, LIVE, STEP

BAND = re.compile(r'<rect class="interval" x="([\d.]+)" y="12" width="([\d.]+)"')


def bands(board: Board) -> list[tuple[str, str]]:
    """Return the bands in the curve that say where the operating point lies."""
    return BAND.findall(board.fragment())


def test_the_operating_point_stays_in_the_curve_when_the_search_has_ended(tmp_path: Path) -> None:
    """There is none before anything is known; then the one so far, which the answer's own replaces at the end."""
    board = Board()
    board.begin()
    board.take(FIRST | {"event": "begin"})
    telling: dict[str, Any] = LIVE | {"event": "progress", "step": STEP | {"x": 700.0}}
    board.take(telling)
    assert not bands(board)
    board.take(telling | {"interval": {"value": 500.0, "low": 300.0, "high": 650.0}})
    (so_far,) = bands(board)
    (tmp_path / "run.json").write_text(json.dumps(make_run().as_json()))
    board.take({"event": "end", "error": None, "folder": str(tmp_path)})
    board.end(0, None)
    (answered,) = bands(board)
    assert float(answered[0]) > float(so_far[0])
    assert float(answered[1]) < float(so_far[1])
    board.begin()
    assert not bands(board)
