"""The search over the users of another locustfile: what `opfind run --locustfile my.py` adds to it."""

from loadgen.locust_bridge import OperatingPointShape

__all__ = ["OperatingPointShape"]
