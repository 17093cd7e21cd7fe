"""What happened in a search, in one SQLite file: the single truth that a search is resumed from."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from paramap_d2.errors import UserError

from .older_stores import told_by_version_2
from .snapshot import snapshot

SCHEMA_VERSION = 4

FINISHED = "finished"
"""Status of an evaluation that has an AP."""

STOPPED = "stopped"
"""Status of an evaluation that was ended early as hopeless; its fitness is the AP it had then."""

DIVERGED, NO_DETECTIONS, FAILED = "diverged", "no detections", "failed"
FAILURES = (DIVERGED, NO_DETECTIONS, FAILED)
"""Statuses of evaluations that ended without an AP."""

LOSS = "loss"
"""Cause of ``failed`` that is the loss's own: it counts as fitness 0, as ``diverged`` and ``no detections`` do."""

KILLED, MEMORY, DISK, FILE, TIME, OTHER = "killed", "memory", "disk", "file", "time", "exception"
MACHINE = (KILLED, MEMORY, DISK, FILE, TIME, OTHER)
"""Causes of ``failed`` that say nothing about the loss: a worker that died, no memory or room on a disk, a file that
cannot be read or written, the time limit, any other exception outside the loss. Such a training is tried again."""

INTERRUPTED = "interrupted"
"""Status of an evaluation that was cut off and says nothing about its genome; it is evaluated anew on resume."""


SEARCH, ENQUEUED, REPEAT = "search", "enqueued", "repeat"
FINAL, RUN_OFF, CONFIRM = "final", "run-off", "confirm"
"""Stages: the first proxy of a genome that the algorithm asked for, or of one that the user enqueued, one more of it
from another seed; a longer training of a finalist, one of the run-off between the centre and the best seen, and one
that confirms the challenger or the start, both from seeds that nothing else had."""

SUPERSEDED = -1
"""Round of the trainings of :data:`LAST` that were made before the user accepted a change of config or data: with
them nothing is decided any more."""

PROXIES = (SEARCH, ENQUEUED, REPEAT)
"""Stages of the search itself."""

LAST = (FINAL, RUN_OFF, CONFIRM)
"""Stages of what follows it: longer, or from seeds of their own."""


NEWER = "was written by a newer version of paramap_d2: go on with that one"
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
    status: str  # FINISHED, STOPPED, one of FAILURES, or INTERRUPTED
    fitness: float  # the metric searched for, in percent; 0 for a failure
    metrics: dict[str, float] = field(default_factory=dict)  # all figures of the evaluator, such as "bbox/AP50"
    seconds: float = 0.0
    iterations: int = 0  # trained
    error: str = ""  # why it failed, one line
    log: str = ""  # the end of a failure's log
    started: float = 0.0  # seconds since the epoch
    worker: int = 0
    stage: str = SEARCH  # one of PROXIES or LAST
    planned: int = 0  # iterations of the whole training; more than ``iterations`` where it ended early
    curve: list[list[float]] = field(default_factory=list)  # [iteration, metric] of evaluations on the way
    cause: str = ""  # why it is FAILED: LOSS or one of MACHINE
    attempt: int = 1  # at this training, from 1: what the machine failed is tried again
    versions: dict[str, str] = field(default_factory=dict)  # of what it was trained with, by package; and the machine
    round: int = 0  # of a FINAL or RUN_OFF: the proxies asked for when it last decided; or SUPERSEDED
    id: int = 0  # order of ending, from 1; given by the store

    @property
    def counts(self) -> bool:
        """Whether it says anything about its genome: it was not cut off, and the machine did not fail it."""
        return self.status != INTERRUPTED and not self.by_machine

    @property
    def by_machine(self) -> bool:
        """Whether the machine failed it."""
        return self.status == FAILED and self.cause != LOSS


@dataclass(frozen=True)
class Told:
    """What an algorithm was told after a generation. It stays told, whatever is found out later: all generations
    after it hang on it."""

    fitnesses: list[float]  # of the genomes asked for, in their order, and of those enqueued beside them
    revised: dict[tuple[float, ...], float]  # better known ones of genomes, of this generation too


_COLUMNS = [f.name for f in fields(Evaluation) if f.name != "id"]
_JSON = ("genome", "metrics", "curve", "versions")
_TYPES = {"int": "INTEGER NOT NULL DEFAULT 0", "float": "REAL NOT NULL DEFAULT 0"}
_TOLD_TABLE = "CREATE TABLE told (generation INTEGER PRIMARY KEY, fitnesses TEXT NOT NULL, revised TEXT NOT NULL)"

_ROUND = (
    "(SELECT COUNT(DISTINCT earlier.generation || ' ' || earlier.position) FROM evaluations AS earlier "
    f"WHERE earlier.id < evaluations.id AND earlier.stage = '{SEARCH}' AND earlier.status != '{INTERRUPTED}')"
)
"""Of a final training in a store of version 2 or 3, which did not keep it."""

_MIGRATIONS = {
    1: (
        "ALTER TABLE evaluations ADD COLUMN stage TEXT NOT NULL DEFAULT 'search'",
        "ALTER TABLE evaluations ADD COLUMN planned INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE evaluations ADD COLUMN curve TEXT NOT NULL DEFAULT '[]'",
        # What the options that came with this version did before there were any.
        "INSERT INTO settings VALUES ('repeats', '1'), ('stopping', '\"none\"')",
    ),
    2: (
        "ALTER TABLE evaluations ADD COLUMN cause TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE evaluations ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE evaluations ADD COLUMN versions TEXT NOT NULL DEFAULT '{}'",
        f"UPDATE evaluations SET cause = '{OTHER}' WHERE status = '{FAILED}'",
        _TOLD_TABLE,
    ),
    3: (
        "ALTER TABLE evaluations ADD COLUMN round INTEGER NOT NULL DEFAULT 0",
        f"UPDATE evaluations SET round = {_ROUND} WHERE stage = '{FINAL}'",
        # It goes on as it began: see paramap_d2.search.algorithms.sampling.DRAWS.
        "INSERT OR IGNORE INTO settings VALUES ('draws', '1')",
    ),
}
"""Statements that bring a store of a version to the next one."""


class Store:
    """The SQLite file of a search. Every row is committed as it is added; finished rows never change, but for the round
    of a final training that decides once more.

    One process writes; any number may read at the same time, each what was there when it began
    (:mod:`paramap_d2.search.snapshot`).
    """

    def __init__(self, path: str | os.PathLike[str], readonly: bool = False):
        """
        Raises:
            StoreError: the file is no store, or of a newer version, or (``readonly``) not there.
        """
        self.path = Path(path)
        if readonly and not self.path.is_file():
            raise StoreError(f"{self.path} does not exist: there is no search there")
        self._db, self._open = None, ExitStack()
        try:
            place = self._open.enter_context(snapshot(self.path)) if readonly else self.path
            address = f"{place.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
            self._db = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None)
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables and not readonly:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._create()
            version = json.loads(self._db.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise StoreError(f"{self.path} {NEWER} (schema {version}, here {SCHEMA_VERSION})")
            if not readonly:
                self._migrate(version)
            self._columns = [row[1] for row in self._db.execute("PRAGMA table_info(evaluations)")]
            missing = {"id", *_COLUMNS} - set(self._columns)
            if missing and not (readonly and version < SCHEMA_VERSION):
                raise StoreError(f"{self.path} {UNREADABLE}: it has no {', '.join(sorted(missing))}")
            if unknown := set(self._columns) - {"id", *_COLUMNS}:
                raise StoreError(f"{self.path} {NEWER} (it keeps {', '.join(sorted(unknown))} of an evaluation)")
        except StoreError:
            self.close()
            raise
        except (sqlite3.Error, TypeError, ValueError, OSError) as error:
            self.close()
            raise StoreError(f"{self.path} {UNREADABLE}: {error}") from None

    def _create(self) -> None:
        body = ", ".join(
            f"{f.name} {_TYPES.get(f.type, 'TEXT NOT NULL')}" for f in fields(Evaluation) if f.name != "id"
        )
        with self._transaction():
            self._db.execute("CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute(f"CREATE TABLE evaluations (id INTEGER PRIMARY KEY AUTOINCREMENT, {body})")
            self._db.execute(_TOLD_TABLE)
            self._db.execute(f"INSERT INTO settings VALUES ('schema', '{SCHEMA_VERSION}')")

    def _migrate(self, version: int) -> None:
        for old in range(version, SCHEMA_VERSION):
            with self._transaction():
                for statement in _MIGRATIONS[old]:
                    self._db.execute(statement)
                if old == 2:
                    for generation, (fitnesses, revised) in told_by_version_2(self._rows_of_version_2()).items():
                        self._insert_told(generation, Told(fitnesses, revised))
                self._db.execute(f"UPDATE settings SET value = '{old + 1}' WHERE key = 'schema'")

    def _rows_of_version_2(self) -> list[dict[str, Any]]:
        names = ("id", "generation", "position", "genome", "seed", "stage", "status", "fitness")
        rows = self._db.execute(f"SELECT {', '.join(names)} FROM evaluations ORDER BY id")
        return [{**dict(zip(names, row, strict=True)), "genome": json.loads(row[3])} for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is executed in it, or nothing."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._open.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _one_line(self, failure: str) -> Iterator[None]:
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
        with self._one_line(UNREADABLE):
            rows = self._db.execute("SELECT key, value FROM settings WHERE key != 'schema'")
            return {key: json.loads(value) for key, value in rows}

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Add settings or change them."""
        with self._one_line(UNWRITABLE), self._db:
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
        with self._one_line(UNWRITABLE):
            cursor = self._db.execute(
                f"INSERT INTO evaluations ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [row[name] for name in _COLUMNS],
            )
        return Evaluation(**{**asdict(evaluation), "id": cursor.lastrowid})

    def evaluations(self, after: int = 0) -> list[Evaluation]:
        """All of them, or those after the one with this id, in the order in which they ended."""
        with self._one_line(UNREADABLE):
            columns = dict(zip(self._columns, self._columns, strict=True))
            if "stage" in columns:  # a store of version 2 or 3 that is only read has no rounds
                columns.setdefault("round", f"CASE stage WHEN '{FINAL}' THEN {_ROUND} ELSE 0 END")
            chosen = f"SELECT {', '.join(columns.values())} FROM evaluations WHERE id > ? ORDER BY id"
            rows = self._db.execute(chosen, (after,))
            found = [_evaluation(dict(zip(columns, row, strict=True))) for row in rows]
        for e in found:
            if not isinstance(e.genome, list) or len(e.genome) != len(found[0].genome):
                raise StoreError(
                    f"{self.path} {UNREADABLE}: the genome of evaluation {e.id} is not as long as the first one's"
                )
            if not all(isinstance(gene, int | float) and 0 <= gene <= 1 for gene in e.genome):
                raise StoreError(f"{self.path} {UNREADABLE}: a gene of evaluation {e.id} is no number from 0 to 1")
        return found

    def decides_in(self, round_: int, finals: Iterable[Evaluation]) -> None:
        """Commit that final trainings of an earlier round decide in this one too."""
        with self._one_line(UNWRITABLE), self._transaction():
            marks = [(round_, e.id) for e in finals]
            self._db.executemany("UPDATE evaluations SET round = ? WHERE id = ?", marks)

    def supersede(self) -> None:
        """Commit that the final and confirming trainings so far, and run-offs, decide nothing any more."""
        with self._one_line(UNWRITABLE):
            self._db.execute("UPDATE evaluations SET round = ? WHERE stage IN (?, ?, ?)", (SUPERSEDED, *LAST))

    def tell(self, generation: int, told: Told) -> None:
        """Commit what the algorithm is about to be told."""
        with self._one_line(UNWRITABLE):
            self._insert_told(generation, told)

    def _insert_told(self, generation: int, told: Told) -> None:
        revised = json.dumps([[list(genome), fitness] for genome, fitness in told.revised.items()])
        self._db.execute("INSERT INTO told VALUES (?, ?, ?)", (generation, json.dumps(told.fitnesses), revised))

    def told(self) -> dict[int, Told]:
        """What the algorithm was told, by generation."""
        with self._one_line(UNREADABLE):
            return {
                generation: Told(json.loads(fitnesses), {tuple(genes): f for genes, f in json.loads(revised)})
                for generation, fitnesses, revised in self._db.execute("SELECT * FROM told ORDER BY generation")
            }


def _evaluation(values: dict[str, Any]) -> Evaluation:
    for name in _JSON:
        if name in values:  # a store of an older version that is only read may lack one
            values[name] = json.loads(values[name])
    return Evaluation(**values)
