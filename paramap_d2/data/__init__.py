"""Data sets, their evaluators, the search split and the SSD-style augmentation.

Importing this package registers `shapes_{train,val,test}`, `bccd_{train,val,trainval,test}`,
`coco_2017_train_{search,searchval}` and the user's own data sets (`PARAMAP_DATASETS`). It happens on import
because spawned workers know only what they import.
"""

from . import bccd, coco, shapes  # noqa: F401  (registration)
from .augmentation import Expand, MinIoUCrop, SSDMapper, build_train_mapper, color_distortion
from .catalog import DatasetError, check_datasets, datasets_root
from .checks import check_content
from .digest import digest
from .evaluation import build_evaluator
from .voc_evaluation import VOCEvaluator

__all__ = [
    "DatasetError",
    "Expand",
    "MinIoUCrop",
    "SSDMapper",
    "VOCEvaluator",
    "build_evaluator",
    "build_train_mapper",
    "check_content",
    "check_datasets",
    "color_distortion",
    "datasets_root",
    "digest",
]
