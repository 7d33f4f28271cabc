"""Locust's web UI around opfind's engine and search: what `opfind ui` runs; `locust -f` on this file does the same."""

from loadgen.locust_bridge import EngineSearch, EngineUser, use_engine

__all__ = ["EngineSearch", "EngineUser"]

use_engine()
