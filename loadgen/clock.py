"""The one clock of a run: monotonic integer nanoseconds, the same in every process of this machine."""

import time

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

now_ns = time.monotonic_ns
