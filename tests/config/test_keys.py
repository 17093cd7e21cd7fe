import subprocess
import sys

from detectron2.config import CfgNode, get_cfg

from paramap_d2.config import add_paramap_config
from paramap_d2.config.lazy import DEFAULTS


def test_what_only_makes_a_cpu_faster_is_off_unless_asked_for():
    cfg = get_cfg()
    add_paramap_config(cfg)
    assert cfg.MODEL.PARAM_AP.FAST_CPU is False and DEFAULTS["train"]["fast_cpu"] is False


def test_twice_is_once_and_keeps_what_was_set_meanwhile():
    once = get_cfg()
    add_paramap_config(once)
    twice = get_cfg()
    add_paramap_config(twice)
    assert twice == once
    twice.merge_from_list(["MODEL.PARAM_AP.LOSS", "square", "SOLVER.OPTIMIZER", "ADAMW"])
    add_paramap_config(twice)
    assert twice.MODEL.PARAM_AP.LOSS == "square" and twice.SOLVER.OPTIMIZER == "ADAMW"


def test_in_any_order_with_another_projects_keys():
    def add_other_config(cfg):
        cfg.SOLVER.OPTIMIZER = "ADAMW"  # a key of ours that others, too, are known to add
        cfg.MODEL.OTHER = CfgNode({"WIDTH": 3})

    first, last = get_cfg(), get_cfg()
    add_other_config(first), add_paramap_config(first)
    add_paramap_config(last), add_other_config(last)
    assert first == last and first.MODEL.OTHER.WIDTH == 3 and first.SOLVER.OPTIMIZER == "ADAMW"


def test_it_registers_the_models_and_data_of_others_are_left_alone():
    code = """
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from paramap_d2.config import add_paramap_config
before = DatasetCatalog.list()
assert "ParamAPRetinaNet" not in META_ARCH_REGISTRY
add_paramap_config(get_cfg())
assert "ParamAPRetinaNet" in META_ARCH_REGISTRY and "ParamAPROIHeads" in ROI_HEADS_REGISTRY
assert DatasetCatalog.list() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
