"""What a user may say about a search; what is not said when it is resumed is as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError

from .store import NEWER, Store, StoreError

ENVIRONMENT = ("DETECTRON2_DATASETS", "PARAMAP_DATASETS")
"""Where data lies: kept with a search, and taken from it where the user's environment does not say."""

FRESH = ("output_dir", "resume", "accept_changes")
"""Options of one run, not of the search."""

OF_RAY = ("ray_address", "cpus_per_proxy", "gpus_per_proxy", "env")
"""Options of that executor alone."""


@dataclass(frozen=True)
class SearchOptions:
    """See ``paramap evolve --help``. With ``resume`` they are all the options that the search goes on with:
    :func:`resumed_options` gives its own."""

    config_file: str
    output_dir: str
    population: int = 8
    generations: int | None = None
    evaluations: int | None = None
    seed: int = 0
    workers: int = 1
    resume: bool = False
    accept_changes: bool = False
    executor: str = "process"
    algorithm: str = "ga"
    mode: str = "separate"
    points: int = 4
    elite: int = 1
    init: Sequence[str] | None = None
    heads: Sequence[str] | None = None
    fixed: str | None = None
    fix_grad_scale: float | None = None
    metric: str = "AP"
    timeout: float | None = None
    reevaluate: int = 1
    stop: str = "none"
    final_iters: int | None = None
    finalists: int = 3
    retries: int = 2
    confirm: int = 3
    threads: int | None = None
    hours: float | None = None
    checkpoint_proxies: int | None = None
    keep_finalists: bool = False
    env: Sequence[str] = ()
    ray_address: str | None = None
    cpus_per_proxy: float | None = None
    gpus_per_proxy: float | None = None
    imports: Sequence[str] = ()
    opts: Sequence[str] = field(default_factory=list)

    def to_store(self) -> dict[str, Any]:
        """Settings from which :func:`resumed_options` makes the same options, in whatever folder it is called."""
        options = {key: value for key, value in asdict(self).items() if key not in (*FRESH, "hours")}
        options["config_file"] = _absolute(self.config_file)
        options["init"] = self.init and [_absolute(name) for name in self.init]
        options["fixed"] = self.fixed and _absolute(self.fixed)
        options["opts"] = [_with_absolute_loss(o) if isinstance(o, str) else o for o in self.opts]  # Python's numbers
        named = {"DETECTRON2_DATASETS": "datasets", **os.environ}  # Detectron2's own default
        places = {name: os.path.abspath(named[name]) for name in ENVIRONMENT if named.get(name)}
        return {"options": options, "environment": places, "folder": os.getcwd()}


def _absolute(name: str) -> str:
    """Of a file; a preset's name stays."""
    return os.path.abspath(name) if os.path.exists(name) else name


def _with_absolute_loss(option: str) -> str:
    """Of a config's option, ``KEY=VALUE`` or a VALUE alone, that names a loss file."""
    key, equals, value = option.rpartition("=")
    return key + equals + _absolute(value) if value.endswith(".json") else option


def resumed_options(given: Mapping[str, Any]) -> SearchOptions:
    """The options of the search in ``given["output_dir"]``, and those given in place of its own: of the config's
    options, each key for itself. Puts the places of its data into the environment where that does not name them.

    Raises:
        StoreError: there is no search, or its store cannot be read.
    """
    with Store(Path(given["output_dir"]) / "search.db", readonly=True) as store:
        settings = store.settings()
    for name, value in settings.get("environment", {}).items():
        if os.path.exists(value):  # it may be another machine
            os.environ.setdefault(name, value)
    if (folder := settings.get("folder")) and folder not in sys.path:
        sys.path.append(folder)  # of the user's own modules
    before = settings.get("options") or _options_of_version_2(settings)
    if unknown := [name for name in before if name not in SearchOptions.__dataclass_fields__]:
        raise StoreError(f"{given['output_dir']} {NEWER} (it has the options {', '.join(sorted(unknown))})")
    executor = given.get("executor", before.get("executor"))
    if executor != before.get("executor"):  # what was said of the one before is not said of this one
        passed = (*OF_RAY, "workers", "timeout") if executor == "inline" else OF_RAY
        before = {name: value for name, value in before.items() if name not in passed}
    config_file = given.get("config_file") or before.get("config_file")
    if config_file is None:
        raise UserError(f"{given['output_dir']} does not say which config it searched with; give it with --config-file")
    opts = merged_opts(before.get("opts", []), given.get("opts", []), config_file.endswith(".py"))
    return SearchOptions(**{**before, **given, "opts": opts})


def _options_of_version_2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As far as it kept them: not how the first losses and those of fixed heads were named."""
    same = ("config_file", "population", "generations", "evaluations", "seed", "workers", "executor", "algorithm")
    found = {key: settings[key] for key in (*same, "elite", "metric", "opts", "imports") if key in settings}
    space = settings.get("space", {})
    other = {
        "reevaluate": settings.get("repeats"),
        "stop": settings.get("stopping"),
        "final_iters": settings.get("final_iterations"),
        "mode": space.get("mode"),
        "points": space.get("points"),
        "fix_grad_scale": space.get("grad_scale"),
        "heads": space.get("heads"),
    }
    return {**found, **{key: value for key, value in other.items() if value is not None}}


def merged_opts(before: Sequence[str], given: Sequence[str], lazy: bool) -> list[str]:
    """The config's options with some of them given anew."""
    if lazy:
        return list({option.partition("=")[0]: option for option in [*before, *given]}.values())
    if len(given) % 2:
        return [*before, *given]  # for who reads it to complain of
    pairs = [*zip(before[::2], before[1::2], strict=True), *zip(given[::2], given[1::2], strict=True)]
    return [part for pair in dict(pairs).items() for part in pair]
