"""The start-up check of the three generically named packages: another distribution may hide one of them."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from loadgen.errors import UsageError

PACKAGES = ("analysis", "reports", "scenarios")
_HOME = Path(__file__).resolve().parent.parent


def check(home: Path = _HOME) -> None:
    """Make sure that importing a package of ours will find ours, which lie side by side in `home`. Imports none.

    Raises:
        UsageError: One is hidden or missing; the sentence names what hides it.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            raise UsageError(f"opfind's own package '{name}' is missing from {home}: install opfind again")
        ours = home / name / "__init__.py"
        found = Path(spec.origin).resolve() if spec.origin else None
        if found != ours:
            where = found or ", ".join(spec.submodule_search_locations or ["an unknown place"])
            raise UsageError(
                f"'{name}' is found in {where}{_owner(name)} instead of {ours.parent}: "
                "install opfind into a virtual environment of its own, and run it in another folder"
            )


def _owner(name: str) -> str:
    """Name the other distributions that install a package of this name; slow, so only asked when it matters."""
    others = sorted(set(metadata.packages_distributions().get(name, ())) - {"opfind"})
    return f" (distribution {', '.join(others)})" if others else ""
