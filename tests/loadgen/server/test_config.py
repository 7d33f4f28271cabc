from typing import Any

import pytest

from loadgen.server.config import ServerConfig


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("t0_ms", -1, "between 0 and"),
        ("t0_ms", float("nan"), "between 0 and"),
        ("t1_ms", "2", "must be a number between"),
        ("jitter_sigma", 9, "between 0 and 3"),
        ("max_batch_size", 0, "between 1 and"),
        ("max_batch_size", 1.5, "must be a whole number between"),
        ("max_batch_size", True, "must be a whole number between"),
        ("max_queue_delay_us", -1, "between 0 and"),
        ("instances", 0, "between 1 and"),
        ("max_queue_size", 0, "between 1 and"),
        ("max_body_bytes", 0, "between 1 and"),
        ("drain_s", -1, "between 0 and"),
        ("seed", -1, "between 0 and"),
        ("preferred_batch_sizes", (0,), "between 1 and max_batch_size 32"),
        ("preferred_batch_sizes", (33,), "between 1 and max_batch_size 32"),
        ("preferred_batch_sizes", 4, "between 1 and max_batch_size 32"),
        ("preferred_batch_sizes", [1, "2"], "between 1 and max_batch_size 32"),
    ],
)
def test_wrong_value_names_field_value_and_rule(field: str, value: Any, rule: str) -> None:
    """Every rule's error names the field, the value and the rule."""
    with pytest.raises(ValueError, match=f"ServerConfig {field} .*{rule}") as error:
        ServerConfig.from_json({field: value})
    assert str(value).strip("[](),") in str(error.value)


def test_json_fills_what_it_names() -> None:
    """Absent fields keep their defaults; a list becomes the tuple of sizes."""
    config = ServerConfig.from_json({"instances": 2, "preferred_batch_sizes": [4, 8]})
    assert config == ServerConfig(instances=2, preferred_batch_sizes=(4, 8))


@pytest.mark.parametrize(("data", "problem"), [({"t2_ms": 1}, "t2_ms: is no field"), ([1], "must be a JSON object")])
def test_unknown_json_is_refused(data: Any, problem: str) -> None:
    """An unknown field and a non-object are named."""
    with pytest.raises(ValueError, match=problem):
        ServerConfig.from_json(data)
