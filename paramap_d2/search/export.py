"""A search taken out of its store: as a table, and as a study of Optuna's."""

from __future__ import annotations

import datetime
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramap_d2.errors import UserError
from paramap_d2.files import write_whole

from .names import all_names
from .status import read_search, searched_space
from .store import FINISHED, PROXIES, STOPPED, Evaluation

if TYPE_CHECKING:
    import pandas


def load(output: str | os.PathLike[str]) -> pandas.DataFrame:
    """The evaluations of the search in a folder, in the order in which they ended.

    Columns: those of :class:`paramap_d2.search.store.Evaluation` (``metrics`` taken apart, such as ``bbox/AP50``;
    ``fitness`` NaN where there is none), ``name``, what the report calls the loss, and one a gene, such as
    ``dense.rank_numerator.x1``, in [0, 1].

    Raises:
        StoreError: no search is there, or its store cannot be read.
        UserError: pandas is not installed.
    """
    pandas = _pandas()
    evaluations, settings = read_search(output)
    names = searched_space(output, settings).gene_names
    called = all_names(evaluations, settings)
    rows = [{"name": called[tuple(e.genome)], **_row(e, names)} for e in evaluations]
    return pandas.DataFrame(rows, columns=_columns(evaluations, names))


def export(output: str | os.PathLike[str], kind: str, path: str | os.PathLike[str]) -> None:
    """Write the search in a folder to a file that is not there yet.

    Args:
        kind: ``csv`` or ``json``, a row an evaluation and a column a gene; ``optuna``, a storage of Optuna's (SQLite).

    Raises:
        UserError: the search or the file cannot be read or written, or a package is missing.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} is there already; remove it or name another file with --output")
    write = {"csv": _write_csv, "json": _write_json, "optuna": _write_optuna}[kind]
    try:
        write_whole(path, lambda part: write(output, part))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _write_csv(output: str | os.PathLike[str], path: Path) -> None:
    load(output).to_csv(path, index=False)


def _write_json(output: str | os.PathLike[str], path: Path) -> None:
    load(output).to_json(path, orient="records", indent=1, date_format="iso")


def _write_optuna(output: str | os.PathLike[str], path: Path) -> None:
    """Two studies, since what follows the search is not to be ranked with the proxies: one of these, and one, named
    ``… (longer)``, of the final trainings, the run-off and confirmations where there are some."""
    try:
        import optuna
    except ImportError:
        raise UserError("the export for Optuna needs the package optuna: pip install 'paramap_d2[analysis]'") from None
    evaluations, settings = read_search(output)
    names, called = searched_space(output, settings).gene_names, all_names(evaluations, settings)
    metric = settings.get("metric", "AP")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
        proxies = [e for e in evaluations if e.stage in PROXIES]
        longer = [e for e in evaluations if e.stage not in PROXIES]
        title = Path(output).absolute().name
        for name, of in ((title, proxies), (f"{title} (longer)", longer)):
            if of or name == title:
                study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
                study.set_user_attr("metric", metric)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names([metric])  # else a dashboard calls it Objective 0
                study.add_trials([_trial(e, called[tuple(e.genome)], names, optuna) for e in of])
        storage.engine.dispose()
    finally:
        optuna.logging.set_verbosity(verbosity)


def _trial(e: Evaluation, name: str, genes: list[str], optuna: Any) -> Any:
    states = optuna.trial.TrialState
    state = {FINISHED: states.COMPLETE, STOPPED: states.PRUNED}.get(e.status, states.FAIL)
    end = [[e.planned, e.fitness]] if e.curve and state == states.COMPLETE else []
    told = {k: v for k, v in asdict(e).items() if k not in ("genome", "metrics", "curve", "log", "fitness", "started")}
    trial = optuna.trial.create_trial(
        state=state,
        value=e.fitness if state == states.COMPLETE else None,
        params=dict(zip(genes, e.genome, strict=True)),
        distributions={gene: optuna.distributions.FloatDistribution(0.0, 1.0) for gene in genes},
        user_attrs={"name": name, **told, **e.metrics},
        intermediate_values={int(iteration): value for iteration, value in [*e.curve, *end]},
    )
    start = datetime.datetime.fromtimestamp(e.started)
    trial.datetime_start, trial.datetime_complete = start, start + datetime.timedelta(seconds=e.seconds)
    return trial


def _row(e: Evaluation, names: list[str]) -> dict[str, Any]:
    row = {key: value for key, value in asdict(e).items() if key not in ("genome", "metrics")}
    row["fitness"] = e.fitness if e.status in (FINISHED, STOPPED) else None
    row["started"] = _pandas().Timestamp(e.started, unit="s", tz="UTC")
    return {**row, **e.metrics, **dict(zip(names, e.genome, strict=True))}


def _columns(evaluations: list[Evaluation], names: list[str]) -> list[str]:
    plain = ["id", "name", *(key for key in Evaluation.__dataclass_fields__ if key not in ("id", "genome", "metrics"))]
    return [*plain, *sorted({name for e in evaluations for name in e.metrics}), *names]


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise UserError("tables of a search need the package pandas: pip install 'paramap_d2[analysis]'") from None
    return pandas
