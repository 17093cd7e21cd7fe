"""What makes two searches the same, and the store of one that is begun or goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .candidates import last_tries
from .store import SUPERSEDED, Store, StoreError

OPTIONS = {
    "algorithm": "--algorithm",
    "population": "--population",
    "elite": "--elite",
    "seed": "--seed",
    "metric": "--metric",
    "stopping": "--stop",
    "initial": "--init",
    "rounds": "--generations",
    "space.heads": "--heads",
    "space.points": "--points",
    "space.mode": "--mode",
    "space.grad_scale": "--fix-grad-scale",
    "space.fixed": "--fixed",
}
"""The option by which a user says a setting."""

ACCEPTABLE = ("config", "data", "stopping")
"""Settings that may change if the user accepts it: earlier evaluations stay comparable as far as the user knows. With
another algorithm, space or metric they would not belong to the search at all."""


def open_store(
    folder: Path,
    settings: Mapping[str, Any],
    kept: Mapping[str, Any],
    resume: bool,
    accept_changes: bool = False,
    defaults: Mapping[str, str] | None = None,
) -> Store:
    """The store of the search in a folder, new or resumed.

    Args:
        settings: what makes a search the same search: all of it is compared on resume.
        kept: other settings, those of this run.
        accept_changes: of the config, the data and the rule of stopping; what changed is kept in the store's settings
            as ``changes``. A store of a version that did not keep all of it goes on with this alone.
        defaults: values of the config's keys by themselves. A key that came with a newer version is no change where
            it has that value.

    Raises:
        StoreError: a search is there and is not to be resumed, is another one, or has more proxies already than it is
            to end with; there is none to resume.
    """
    path = folder / "search.db"
    if resume and not path.exists():
        raise StoreError(f"{folder} holds no search to resume; leave --resume away to start one")
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(path)
    try:
        before = store.settings()
        if not before:
            store.write_settings({**settings, **kept})
            return store
        known = {key: value for key, value in settings.items() if key in before}
        changes = [(key, text) for key in known for text in _differences(key, before[key], known[key], defaults or {})]
        for key, text in changes:
            if key not in ACCEPTABLE:
                raise StoreError(f"{folder} already holds another search: {text}; choose another output folder")
        if not resume:
            what = f"another search: {changes[0][1]};" if changes else "this search; add --resume to go on, or"
            raise StoreError(f"{folder} already holds {what} choose another output folder")
        missing = [key for key in settings if key not in before]
        if missing:
            changes.append(("", f"an older version kept no {', '.join(missing)} to compare"))
        if changes and not accept_changes:
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise StoreError(
                f"{folder} already holds another search: {changes[0][1]}{more}; "
                "--accept-changes goes on with it all the same, or choose another output folder"
            )
        _check_budget(store, kept)
        accepted = {}
        if changes:
            now = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "changes": [text for _, text in changes]}
            accepted = {**settings, "changes": [*before.get("changes", []), now]}
            if any(key != "stopping" for key, _ in changes):
                store.supersede()  # losses are compared that were trained alike
        store.write_settings({**accepted, **kept})
        return store
    except BaseException:
        store.close()
        raise


def _check_budget(store: Store, kept: Mapping[str, Any]) -> None:
    """That a search goes on to no less than it has: it would be decided by a part of what it knows.

    Raises:
        StoreError: it has more.
    """
    proxies = last_tries(e for e in store.evaluations() if e.round != SUPERSEDED)
    for name, made in (("generations", len(store.told())), ("evaluations", len(proxies))):
        wanted = kept.get(name)
        if wanted is not None and wanted < made:
            raise StoreError(f"--{name} {wanted}: the search has {made} {name} already; give {made} to end it there")


def _differences(name: str, before: Any, now: Any, defaults: Mapping[str, str]) -> list[str]:
    """What differs in a setting and how, nested ones key by key."""
    if isinstance(before, dict) and isinstance(now, dict) and name in ("config", "data", "space"):
        found = []
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) == now.get(key):
                continue
            if name == "config" and key not in before and defaults.get(key) == now[key]:
                continue
            found.append(_difference(name, key, before, now))
        return found
    return [] if before == now else [f"{OPTIONS.get(name, name)} was {_short(before)} there and is {_short(now)} now"]


def _difference(name: str, key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name == "data" and key in before and key in now:
        return f"the content of data set {key} has changed"
    what = {"config": key, "data": f"data set {key}"}.get(name, OPTIONS.get(f"{name}.{key}", f"{name}.{key}"))
    if key not in now:
        return f"{what} was {_short(before[key])} there and is gone now"
    if key not in before:
        return f"{what} was not there and is {_short(now[key])} now"
    return f"{what} was {_short(before[key])} there and is {_short(now[key])} now"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
