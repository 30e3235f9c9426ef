"""Keys of earlier versions, read as the keys that took their place."""

from collections.abc import Mapping
from typing import Any

from croc_cli.recipe.issues import KeyPath

_TRACKING = ("project", "team", "group")


def renamed(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, KeyPath]]:
    """Return a recipe's values with the keys of today, and for each earlier key the one that took its place.

    `monitor: {tensorboard: true, wandb: {project: p}}` is `monitor: [tensorboard, wandb]` and `tracking: {project: p}`.
    What is wrong in the earlier form stays as it is, for the checks to name.
    """
    monitor = values.get("monitor")
    if not isinstance(monitor, Mapping) or not monitor or not _is_earlier(monitor):
        return dict(values), {}
    wandb = monitor.get("wandb")
    names = [name for name in ("tensorboard", "wandb") if monitor.get(name) not in (None, False)]
    moved: dict[KeyPath, KeyPath] = {("monitor", name): ("monitor",) for name in monitor}
    changed = dict(values) | {"monitor": names}
    if wandb:
        told = {key: value for key, value in wandb.items() if value is not None}
        given = values.get("tracking")
        changed["tracking"] = told | (dict(given) if isinstance(given, Mapping) else {})
        moved |= {("monitor", "wandb", key): ("tracking", key) for key in told}
    return changed, moved


def _is_earlier(monitor: Mapping[str, Any]) -> bool:
    """Tell whether a mapping is what earlier versions took under `monitor`."""
    wandb = monitor.get("wandb")
    return (
        set(monitor) <= {"tensorboard", "wandb"}
        and isinstance(monitor.get("tensorboard", False), bool)
        and (wandb is None or (isinstance(wandb, Mapping) and set(wandb) <= set(_TRACKING) and "project" in wandb))
    )
