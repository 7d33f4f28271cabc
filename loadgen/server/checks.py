"""Rules for the numbers of a configuration, said in one sentence that names field, value and rule."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

Ranges = Sequence[tuple[str, float, float]]


def check_ranges(owner: Any, ranges: Ranges) -> None:
    """Check that fields of a dataclass are numbers of their kind, in a range.

    Args:
        owner: The dataclass's instance.
        ranges: Field, lowest and highest value; a field annotated `int` must be a whole number.

    Raises:
        ValueError: One is not.
    """
    kinds = {field.name: field.type for field in fields(owner)}
    for name, low, high in ranges:
        value, whole = getattr(owner, name), kinds[name] in (int, "int")
        is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not (is_number and low <= value <= high):
            kind = "whole number" if whole else "number"
            raise ValueError(f"{_words(owner)} {name} {value!r}: must be a {kind} between {low} and {high}")


def check_keys(data: Any, owner: type, what: str) -> Mapping[str, Any]:
    """Check that a parsed table has only keys that a dataclass has.

    Raises:
        ValueError: It is no table, or a key is unknown.
    """
    name = owner.__name__
    if not isinstance(data, dict):
        raise ValueError(f"{name} {data!r}: must be a {what}")  # noqa: TRY004 (a wrong value, whatever its type)
    known = [field.name for field in fields(owner)]
    unknown = sorted(data.keys() - set(known))
    if unknown:
        raise ValueError(f"{name} {unknown[0]}: is no field; there are {', '.join(known)}")
    return data


def check_choice(owner: Any, field: str, choices: Sequence[str]) -> None:
    """Check that a field of a dataclass is one of some words.

    Raises:
        ValueError: It is not.
    """
    value = getattr(owner, field)
    if value not in choices:
        raise ValueError(f"{_words(owner)} {field} {value!r}: must be one of {', '.join(choices)}")


def _words(owner: Any) -> str:
    return type(owner).__name__
