"""What one training of the paper's tables is, and the SQLite file that holds a row for each that has ended."""

from __future__ import annotations

import functools
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paramap_d2.config import read_config
from paramap_d2.errors import UserError
from paramap_d2.losses import list_presets, load_loss
from paramap_d2.losses.loss_file import loss_content
from paramap_d2.model_zoo import get_config_file

RESULTS = Path(__file__).parent / "results"

CONFIGS = {
    ("bccd", "retinanet"): "bccd_retinanet_lite0_FPN.yaml",
    ("bccd", "faster_rcnn"): "bccd_faster_rcnn_lite0_FPN.yaml",
    ("bccd", "deformable_detr"): "bccd_deformable_detr_lite0.yaml",
    ("own", "retinanet"): "own_coco_retinanet_lite0_FPN.yaml",
    ("shapes", "retinanet"): "shapes_retinanet_lite0_FPN.yaml",
}
"""Data set and detector: the shipped config. Its splits are called <data set>_train, _val and _test. ``own`` are those
of a user, named by a file that PARAMAP_DATASETS points to."""

PLAIN_RETINANET = ["MODEL.META_ARCHITECTURE", "ParamAPBaselineRetinaNet"]
GIOU = ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "giou"]

BASELINES: dict[str, dict[str, list[Any]]] = {
    "retinanet": {
        "focal-l1": PLAIN_RETINANET,
        "focal-giou": [*PLAIN_RETINANET, *GIOU, "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", 2.0],  # the paper's weight
        "focal-giou-weight-1": [*PLAIN_RETINANET, *GIOU],
    },
    "faster_rcnn": {"ce-l1": ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"]},
    "deformable_detr": {"focal-l1-giou": ["MODEL.DEFORMABLE_DETR.CRITERION", "focal"]},
}
"""Losses that are not this project's, by detector: the config's keys that make them."""

SEARCHED_END = str(RESULTS / "losses" / "bccd_retinanet_end.json")
"""Of a search whose proxies begin where the published loss has trained for half of the iterations (docs/results.md)."""

VARIANTS: dict[str, dict[str, Any]] = {
    "retinanet-coco-l1": {"LOSS": "retinanet-coco", "QUALITY": "l1"},
    "retinanet-coco-linear": {"LOSS": "retinanet-coco", "END_LOSS": "linear", "END_LOSS_FROM": 0.5},
    "retinanet-coco-searched": {"LOSS": "retinanet-coco", "END_LOSS": SEARCHED_END, "END_LOSS_FROM": 0.5},
}
"""The published losses with another box quality, or with another loss for the end of a training: keys of
MODEL.PARAM_AP by the name that they have here."""

RANKING = ("ap-loss", "rank-sort")
"""Values of MODEL.PARAM_AP.LOSS that are neither presets nor loss files."""

NOT_OF_THE_RECIPE = ("PROXY", "OUTPUT_DIR", "VERSION", "SEED", "DATASETS")
SET_FOR_ALL = ("BASE_LR", "MAX_ITER")
"""Of SOLVER; like seed and data, every training says them itself."""


def of_data(dataset: str) -> list[Any]:
    """KEY VALUE pairs that a config of one's own data must be told.

    Raises:
        UserError: the data is not there.
    """
    if dataset != "own":
        return []
    from paramap_d2.data import check_datasets
    from paramap_d2.data.evaluation import read_truth

    check_datasets("own_train")
    return ["MODEL.RETINANET.NUM_CLASSES", len(read_truth("own_train").class_names)]


@dataclass(frozen=True)
class Training:
    """Everything that makes two trainings the same.

    Args:
        dataset, detector: of :data:`CONFIGS`.
        loss: a baseline's name, one of :data:`RANKING` or :data:`VARIANTS`, a preset, or the name of a loss file in
            results/losses.
        learning_rate: at its highest.
        iterations: of the training; its cosine ends there.
        split: whose AP the row tells, ``val`` or ``test``. It is trained on ``train``.
    """

    dataset: str
    detector: str
    loss: str
    learning_rate: float
    seed: int
    iterations: int
    split: str = "val"
    block_gradient: bool = True

    @property
    def config_file(self) -> str:
        """
        Raises:
            UserError: there is no config of this data set and detector.
        """
        if (self.dataset, self.detector) not in CONFIGS:
            known = ", ".join(f"{dataset} {detector}" for dataset, detector in CONFIGS)
            raise UserError(f"there is no config of {self.dataset} {self.detector}; there are {known}")
        return get_config_file(CONFIGS[self.dataset, self.detector])

    @property
    def is_baseline(self) -> bool:
        return self.loss in BASELINES[self.detector]

    @property
    def loss_file(self) -> Path | None:
        """Where the loss is a file of a search, which may not have been made yet."""
        named = self.is_baseline or self.loss in (*RANKING, *VARIANTS) or self.loss in list_presets()
        return None if named else RESULTS / "losses" / f"{self.loss}.json"

    def options(self) -> list[Any]:
        """KEY VALUE pairs on top of the config."""
        options = [*of_data(self.dataset), "SOLVER.BASE_LR", self.learning_rate]
        options += ["SOLVER.MAX_ITER", self.iterations, "SEED", self.seed]
        options += ["DATASETS.TRAIN", f"('{self.dataset}_train',)", "DATASETS.TEST", f"('{self.dataset}_val',)"]
        if self.is_baseline:
            return options + BASELINES[self.detector][self.loss]
        keys = {"LOSS": str(self.loss_file or self.loss), "BLOCK_GRADIENT": self.block_gradient}
        for key, value in (keys | VARIANTS.get(self.loss, {})).items():
            options += [f"MODEL.PARAM_AP.{key}", value]
        return options

    def digest(self) -> str:
        """Of the loss: its functions and gradient scales, whatever it is called. Of what has none, its name.

        Raises:
            UserError: the loss file is not there.
        """
        if self.is_baseline or self.loss in RANKING:
            return self.loss
        if self.loss in VARIANTS:
            keys = VARIANTS[self.loss]
            return _sha256({key: _content(value) if key.endswith("LOSS") else value for key, value in keys.items()})
        return _sha256(_content(self.loss_file or self.loss))

    def recipe(self) -> str:
        """Digest of what the config and its bases say; keys that they leave out may come and go."""
        return _recipe(self.config_file)

    def key(self) -> str:
        """The same for two trainings that are the same, 16 hexadecimal digits."""
        what = {**asdict(self), "loss": self.digest(), "recipe": self.recipe()}
        if self.dataset == "own":
            what["data"] = _own_data()
        if self._of_a_proxy():
            what["proxy"] = self._of_a_proxy()
        return _sha256(what)

    def config(self) -> Any:
        """The Detectron2 config that is trained."""
        return read_config(self.config_file, [*self.options(), *self._of_a_proxy()])

    def _of_a_proxy(self) -> list[Any]:
        """What a search changes beside the iterations, where this training has as many as its proxies."""
        changed = dict(_proxy_options(self.config_file))
        if changed.pop("SOLVER.MAX_ITER", None) != self.iterations:
            return []
        return [part for pair in changed.items() for part in pair]

    def describe(self) -> str:
        extra = "" if self.block_gradient else ", gradient not blocked"
        return (
            f"{self.dataset} {self.detector} {self.loss}{extra}, lr {self.learning_rate:g}, seed {self.seed}, "
            f"{self.iterations} iterations, {self.split}"
        )


def _content(loss: str | Path) -> Any:
    return loss_content(load_loss(loss))["heads"]


@functools.cache
def _own_data() -> Any:
    """Digest of what PARAMAP_DATASETS names; None where that is not there, and so is nobody's own."""
    from paramap_d2.data import DatasetError
    from paramap_d2.data.digest import digest

    try:
        return digest([f"own_{split}" for split in ("train", "val", "test")])
    except DatasetError:
        return None


@functools.cache
def _proxy_options(config_file: str) -> list[tuple[str, Any]]:
    opts = read_config(config_file).PROXY.OPTS
    return list(zip(opts[::2], opts[1::2], strict=True))


@functools.cache
def _recipe(config_file: str) -> str:
    from detectron2.config import CfgNode

    said = CfgNode.load_yaml_with_base(config_file)
    solver = {key: value for key, value in said.get("SOLVER", {}).items() if key not in SET_FOR_ALL}
    return _sha256({**{key: value for key, value in said.items() if key not in NOT_OF_THE_RECIPE}, "SOLVER": solver})


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

SCHEMA = f"""CREATE TABLE IF NOT EXISTS trainings (
    key TEXT PRIMARY KEY, table_name TEXT, dataset TEXT, detector TEXT, loss TEXT, loss_digest TEXT,
    block_gradient INTEGER, seed INTEGER, learning_rate REAL, iterations INTEGER, split TEXT,
    status TEXT, {", ".join(f"{name} REAL" for name in FIGURES)}, figures TEXT, curve TEXT, seconds REAL,
    cpu_seconds REAL, recipe TEXT, data TEXT, versions TEXT, error TEXT, ended TEXT DEFAULT CURRENT_TIMESTAMP)"""

RESAMPLED = "ALTER TABLE trainings ADD COLUMN resampled TEXT NOT NULL DEFAULT '[]'"
"""Of files that were made before test images were drawn."""


class Rows:
    """The trainings that have ended. Several processes may write to the file.

    Args:
        path: of the SQLite file, made where there is none.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")  # another process may be making them now
            db.execute(SCHEMA)
            if "resampled" not in _columns(db, "main"):
                db.execute(RESAMPLED)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(f"file:{self.path.resolve()}", timeout=60, uri=True)
        db.row_factory = sqlite3.Row
        return db

    def add(self, table: str, training: Training, result: Mapping[str, Any]) -> None:
        """Keep what came of a training; of one that is there already, the first.

        Args:
            table: that asked for it.
            result: status, error, figures (of the split, by name), curve ([iteration, AP on val] pairs), seconds,
                cpu_seconds, data, versions and resampled (the AP of draws of the split's images, on test); as
                ``paper_training.py`` gives it.
        """
        kept = {key: result[key] for key in ("status", "error", "seconds", "cpu_seconds")}
        kept.update({name: result["figures"].get(name) for name in FIGURES})
        kept.update({key: json.dumps(result[key]) for key in ("figures", "curve", "data", "versions", "resampled")})
        row = {"key": training.key(), "table_name": table, "recipe": training.recipe(), **asdict(training), **kept}
        row["loss_digest"] = training.digest()
        names = ", ".join(row)
        with closing(self._connect()) as db, db:
            db.execute(
                f"INSERT OR IGNORE INTO trainings ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()]
            )

    def merge(self, other: Path) -> int:
        """Take over the rows of another such file, of another machine perhaps, that are not here yet; how many.

        Raises:
            UserError: the file is not there, or no such file.
        """
        if not other.is_file():
            raise UserError(f"--merge {other}: there is no such file")
        with closing(self._connect()) as db:
            try:
                db.execute("ATTACH ? AS other", [f"file:{other.resolve()}?mode=ro"])
                names = ", ".join(name for name in _columns(db, "main") if name in _columns(db, "other"))
                with db:
                    taken = db.execute(f"INSERT OR IGNORE INTO trainings ({names}) SELECT {names} FROM other.trainings")
            except sqlite3.DatabaseError as error:
                raise UserError(f"--merge {other}: not a file of this benchmark's rows ({error})") from None
            return taken.rowcount

    def all(self) -> dict[str, dict[str, Any]]:
        """By key, in the order in which they were kept, with the curve and the APs of draws as lists."""
        with closing(self._connect()) as db:
            rows = [dict(row) for row in db.execute("SELECT * FROM trainings ORDER BY rowid")]
        lists = ("curve", "resampled")
        return {row["key"]: {**row, **{name: json.loads(row[name]) for name in lists}} for row in rows}


def _columns(db: sqlite3.Connection, schema: str) -> list[str]:
    return [row["name"] for row in db.execute(f"PRAGMA {schema}.table_info(trainings)")]
