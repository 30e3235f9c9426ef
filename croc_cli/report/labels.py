"""Short names for folders that stand side by side on a page."""

from collections.abc import Sequence


def distinct_names(folders: Sequence[str]) -> list[str] | None:
    """Return the end of each path, without what all end in, until all differ; None where two are the same."""
    parts = [folder.rstrip("/").split("/") for folder in folders]
    while len(parts) > 1 and len({one[-1] for one in parts}) == 1 and all(any(one[:-1]) for one in parts):
        parts = [one[:-1] for one in parts]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return None
