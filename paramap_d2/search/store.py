"""What happened in a search, in one SQLite file: the single truth that a search is resumed from."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError

SCHEMA_VERSION = 1

FINISHED = "finished"
"""Status of an evaluation that has an AP."""

FAILURES = ("diverged", "no detections", "failed")
"""Statuses of evaluations that ended without an AP and count as fitness 0."""

INTERRUPTED = "interrupted"
"""Status of an evaluation that was cut off and says nothing about its genome; it is evaluated anew on resume."""


class StoreError(UserError):
    """A store that cannot be read, is of another version, or belongs to another search."""


@dataclass(frozen=True)
class Evaluation:
    """One proxy training of one genome."""

    generation: int
    position: int  # in its generation
    genome: list[float]
    seed: int
    status: str  # FINISHED, one of FAILURES, or INTERRUPTED
    fitness: float  # the metric searched for, in percent; 0 for a failure
    metrics: dict[str, float] = field(default_factory=dict)  # all figures of the evaluator, such as "bbox/AP50"
    seconds: float = 0.0
    iterations: int = 0  # trained
    error: str = ""  # why it failed, one line
    log: str = ""  # the end of a failure's log
    started: float = 0.0  # seconds since the epoch
    worker: int = 0
    id: int = 0  # order of ending, from 1; given by the store


_COLUMNS = [f.name for f in fields(Evaluation) if f.name != "id"]
_JSON = ("genome", "metrics")


class Store:
    """The SQLite file of a search. Every row is committed as it is added; finished rows never change.

    One process writes; any number may read at the same time.
    """

    def __init__(self, path: str | os.PathLike[str], readonly: bool = False):
        """
        Raises:
            StoreError: the file is no store, or of a newer version, or (``readonly``) not there.
        """
        self.path = Path(path)
        if readonly and not self.path.is_file():
            raise StoreError(f"{self.path} does not exist: there is no search there")
        address = f"{self.path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        self._db = None
        try:
            self._db = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None)
            if not readonly:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._create()
            (version,) = self._db.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone()
        except (sqlite3.Error, TypeError) as error:
            self.close()
            raise StoreError(f"{self.path} is not a readable search store: {error}") from None
        if json.loads(version) > SCHEMA_VERSION:
            self.close()
            raise StoreError(f"{self.path} was written by a newer version (schema {version}, here {SCHEMA_VERSION})")

    def _create(self) -> None:
        columns = {
            int: "INTEGER NOT NULL",
            float: "REAL NOT NULL",
        }
        body = ", ".join(
            f"{f.name} {columns.get({'int': int, 'float': float}.get(str(f.type)), 'TEXT NOT NULL')}"
            for f in fields(Evaluation)
            if f.name != "id"
        )
        self._db.execute("BEGIN")
        self._db.execute("CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.execute(f"CREATE TABLE IF NOT EXISTS evaluations (id INTEGER PRIMARY KEY AUTOINCREMENT, {body})")
        self._db.execute("INSERT OR IGNORE INTO settings VALUES ('schema', ?)", (json.dumps(SCHEMA_VERSION),))
        self._db.execute("COMMIT")

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def settings(self) -> dict[str, Any]:
        """What the search was started with; empty in a new store."""
        rows = self._db.execute("SELECT key, value FROM settings WHERE key != 'schema'")
        return {key: json.loads(value) for key, value in rows}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Add settings or change them."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in settings.items()],
            )

    def add(self, evaluation: Evaluation) -> Evaluation:
        """Commit one evaluation; returns it with its id."""
        row = asdict(evaluation)
        for name in _JSON:
            row[name] = json.dumps(row[name])
        marks = ", ".join("?" * len(_COLUMNS))
        cursor = self._db.execute(
            f"INSERT INTO evaluations ({', '.join(_COLUMNS)}) VALUES ({marks})",
            [row[name] for name in _COLUMNS],
        )
        return Evaluation(**{**asdict(evaluation), "id": cursor.lastrowid})

    def evaluations(self) -> list[Evaluation]:
        """All of them, in the order in which they ended."""
        rows = self._db.execute(f"SELECT id, {', '.join(_COLUMNS)} FROM evaluations ORDER BY id")
        return [_evaluation(row) for row in rows]


def _evaluation(row: Iterable[Any]) -> Evaluation:
    values = dict(zip(["id", *_COLUMNS], row, strict=True))
    for name in _JSON:
        values[name] = json.loads(values[name])
    return Evaluation(**values)


def best_evaluation(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """The finished evaluation of highest fitness; of equal ones the first that was asked for."""
    finished = [e for e in evaluations if e.status == FINISHED]
    return min(finished, key=lambda e: (-e.fitness, e.generation, e.position), default=None)
