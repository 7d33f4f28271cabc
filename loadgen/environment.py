"""Where a run took place: the machine, the versions, the command. Collected once; nothing secret goes in."""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from loadgen.mask import mask_command
from loadgen.version import version

_PACKAGES = ("click", "hdrhistogram", "httptools", "msgspec", "numpy", "protobuf", "rich", "scipy", "uvloop")
_CGROUP = Path("/sys/fs/cgroup")


def collect(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the run's environment as plain values; what a machine does not tell is None."""
    return {
        "opfind": version(),
        "command": mask_command(arguments),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "affinity_cores": _affinity_cores(),
        "cgroup_cores": cgroup_cores(_own_cgroup()),
        "memory_bytes": _memory_bytes(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "git_commit": git_commit(Path.cwd()),
    }


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _affinity_cores() -> int | None:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _own_cgroup() -> Path:
    """Return the folder of this process's group (version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _CGROUP
    return next((_CGROUP / line.removeprefix("0::/") for line in lines if line.startswith("0::/")), _CGROUP)


def cgroup_cores(group: Path, root: Path = _CGROUP) -> float | None:
    """Return the tightest CPU limit of a control group and those above it, in cores; None: no limit."""
    limits = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder, `+changes` behind it where files differ; None: no checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        commit, changes = (
            subprocess.run([git, *command], cwd=folder, capture_output=True, text=True, timeout=2, check=True)
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
