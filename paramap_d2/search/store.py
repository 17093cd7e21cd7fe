"""What happened in a search, in one SQLite file: the single truth that a search is resumed from."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError

SCHEMA_VERSION = 2

FINISHED = "finished"
"""Status of an evaluation that has an AP."""

STOPPED = "stopped"
"""Status of an evaluation that was ended early as hopeless; its fitness is the AP it had then."""

FAILURES = ("diverged", "no detections", "failed")
"""Statuses of evaluations that ended without an AP and count as fitness 0."""

INTERRUPTED = "interrupted"
"""Status of an evaluation that was cut off and says nothing about its genome; it is evaluated anew on resume."""


SEARCH, REPEAT, FINAL = "search", "repeat", "final"
"""Stages: a genome's first proxy, one more of it from another seed, a longer training of a finalist."""


UNREADABLE, UNWRITABLE = "is not a readable search store", "cannot be written, and holds what it did before"


class StoreError(UserError):
    """A store that cannot be read, is of another version, or belongs to another search."""


@dataclass(frozen=True)
class Evaluation:
    """One training of one genome."""

    generation: int  # in which the genome was asked for
    position: int  # of the genome in that generation
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
    stage: str = SEARCH  # or REPEAT or FINAL
    planned: int = 0  # iterations of the whole training; more than ``iterations`` where it ended early
    curve: list[list[float]] = field(default_factory=list)  # [iteration, metric] of evaluations on the way
    id: int = 0  # order of ending, from 1; given by the store


_COLUMNS = [f.name for f in fields(Evaluation) if f.name != "id"]
_JSON = ("genome", "metrics", "curve")
_TYPES = {"int": "INTEGER NOT NULL DEFAULT 0", "float": "REAL NOT NULL DEFAULT 0"}

_MIGRATIONS = {
    1: (
        "ALTER TABLE evaluations ADD COLUMN stage TEXT NOT NULL DEFAULT 'search'",
        "ALTER TABLE evaluations ADD COLUMN planned INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE evaluations ADD COLUMN curve TEXT NOT NULL DEFAULT '[]'",
        # What the options that came with this version did before there were any.
        "INSERT INTO settings VALUES ('repeats', '1'), ('stopping', '\"none\"')",
    ),
}
"""Statements that bring a store of a version to the next one."""


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
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables and not readonly:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._create()
            version = json.loads(self._db.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} was written by a newer version (schema {version}, here {SCHEMA_VERSION})"
                )
            if not readonly:
                self._migrate(version)
            self._columns = [row[1] for row in self._db.execute("PRAGMA table_info(evaluations)")]
            missing = {"id", *_COLUMNS} - set(self._columns)
            if missing and not (readonly and version < SCHEMA_VERSION):
                raise StoreError(f"{self.path} {UNREADABLE}: it has no {', '.join(sorted(missing))}")
        except StoreError:
            self.close()
            raise
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.close()
            raise StoreError(f"{self.path} {UNREADABLE}: {error}") from None

    def _create(self) -> None:
        body = ", ".join(
            f"{f.name} {_TYPES.get(f.type, 'TEXT NOT NULL')}" for f in fields(Evaluation) if f.name != "id"
        )
        self._commit(
            "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
            f"CREATE TABLE evaluations (id INTEGER PRIMARY KEY AUTOINCREMENT, {body})",
            f"INSERT INTO settings VALUES ('schema', '{SCHEMA_VERSION}')",
        )

    def _migrate(self, version: int) -> None:
        for old in range(version, SCHEMA_VERSION):
            self._commit(*_MIGRATIONS[old], f"UPDATE settings SET value = '{old + 1}' WHERE key = 'schema'")

    def _commit(self, *statements: str) -> None:
        """All of them or none."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in statements:
                self._db.execute(statement)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self, failure: str) -> Iterator[None]:
        """What SQLite cannot do, as a line for a user."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise StoreError(f"{self.path} {failure}: {error}") from None

    def settings(self) -> dict[str, Any]:
        """What the search was started with; empty in a new store.

        Raises:
            StoreError: the file is damaged. So do the other methods, and where it cannot be written.
        """
        with self._told(UNREADABLE):
            rows = self._db.execute("SELECT key, value FROM settings WHERE key != 'schema'")
            return {key: json.loads(value) for key, value in rows}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Add settings or change them."""
        with self._told(UNWRITABLE), self._db:
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
        with self._told(UNWRITABLE):
            cursor = self._db.execute(
                f"INSERT INTO evaluations ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [row[name] for name in _COLUMNS],
            )
        return Evaluation(**{**asdict(evaluation), "id": cursor.lastrowid})

    def evaluations(self) -> list[Evaluation]:
        """All of them, in the order in which they ended."""
        with self._told(UNREADABLE):
            rows = self._db.execute(f"SELECT {', '.join(self._columns)} FROM evaluations ORDER BY id")
            return [_evaluation(dict(zip(self._columns, row, strict=True))) for row in rows]


def _evaluation(values: dict[str, Any]) -> Evaluation:
    for name in _JSON:
        if name in values:  # a store of an older version that is only read may lack one
            values[name] = json.loads(values[name])
    return Evaluation(**values)
