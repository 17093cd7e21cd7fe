"""Whether an evaluator gives the figure that is to be the fitness, known before anything is trained."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from paramap_d2.errors import UserError

from .executors.local import Executor
from .proxies.config import ProxyConfig
from .proxies.failures import first_line
from .proxies.proxy import Outcome, Task, figures_of
from .store import FAILED, FINISHED

AREAS = {"APs": (0, 32**2), "APm": (32**2, 96**2), "APl": (96**2, math.inf)}
"""Square pixels of the objects that COCO's figures by size count."""

COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""What the project's own evaluator always gives; and the AP of each class."""


@dataclass(frozen=True)
class Untrained:
    """Evaluates the untrained detector on two images: in a worker, where a search's process would keep its memory."""

    config: ProxyConfig

    def __call__(self, task: Task) -> Outcome:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            try:
                figures = figures_of(self.config.untrained(Path(folder)))
            except Exception as error:  # of a user's evaluator: anything
                frame = traceback.extract_tb(error.__traceback__)[-1]
                return Outcome(FAILED, error=f"{first_line(error)} ({frame.filename}, line {frame.lineno})")
            _forget(folder)
        return Outcome(FINISHED, metrics=dict.fromkeys(figures, 0.0))


def _forget(folder: str) -> None:
    """Detectron2's COCOEvaluator writes data of another form as COCO's, and the data set then refers to that file: it
    must not once the folder is gone."""
    from detectron2.data import MetadataCatalog

    for name in MetadataCatalog.list():
        metadata = MetadataCatalog.get(name)
        # What somebody has set: a property of metadata may make a whole data set when it is asked.
        if str(vars(metadata).get("json_file", "")).startswith(folder):
            del metadata.json_file


def _counted(dataset: str, metric: str) -> bool:
    """Whether a data set has an object that a figure by size or of a class counts."""
    from paramap_d2.data.evaluation import read_truth

    truth = read_truth(dataset)
    objects = [item for item in truth.coco.get("annotations", ()) if not item["iscrowd"]]
    if metric in AREAS:
        low, high = AREAS[metric]
        return any(low <= item["area"] <= high for item in objects)
    names = truth.class_names
    name = metric.removeprefix("AP-")
    return name not in names or any(names[item["category_id"] - 1] == name for item in objects)


def check_metric(config: ProxyConfig, metric: str, executor: Executor) -> None:
    """
    Raises:
        UserError: the config's evaluator fails, or gives no such figure; the message has those that it gives. Or the
            test data have nothing that it could be of.
    """
    if not config.own_evaluator:
        partial = metric in AREAS or metric.startswith("AP-")
        if partial and config.tested and not _counted(config.tested[0], metric):
            raise UserError(f"--metric {metric}: data set '{config.tested[0]}' has no object that it counts")
        if metric in COCO:
            return
    ((_, outcome),) = executor.run(Untrained(config), [Task(0, 0, [], 0)])
    if outcome.status != FINISHED:
        raise UserError(f"the untrained detector cannot be evaluated on two images: {outcome.error}")
    if f"bbox/{metric}" not in outcome.metrics:
        boxes = [name.removeprefix("bbox/") for name in outcome.metrics if name.startswith("bbox/")]
        given = f"of boxes (bbox) it gives {', '.join(boxes)}" if boxes else "it gives no figures of boxes (bbox)"
        raise UserError(f"--metric {metric}: the evaluator gives no such figure; {given}")
