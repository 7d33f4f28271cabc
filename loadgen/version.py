from importlib import metadata


def version() -> str:
    """Return this program's version."""
    try:
        return metadata.version("opfind")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"
