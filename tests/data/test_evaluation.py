import multiprocessing
import os

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from paramap_d2.data import DatasetError, build_evaluator, shapes
from paramap_d2.data.evaluation import NumberedCOCOEvaluator

from .voc_form import write_voc


@pytest.fixture
def bccd_root(tmp_path, monkeypatch):
    write_voc(
        tmp_path / "BCCD",
        {
            "a": [("RBC", 11, 21, 60, 80), ("RBC", 200, 210, 300, 330), ("WBC", 400, 50, 400, 90)],
            "b": [("Platelets", 1, 1, 640, 480), ("WBC", 100, 100, 180, 220)],
            "c": [],
        },
        {"val": ["a", "b", "c"]},
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def predict(evaluator, name, score=0.9, shift=0.0, skip=()):
    """Give the evaluator the data set's own boxes, moved by `shift`; returns its results."""
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        items = [item for item in record["annotations"] if tuple(item["bbox"]) not in skip]
        boxes = [BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS) for item in items]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) + shift)
        instances.scores = torch.full((len(items),), score)
        instances.pred_classes = torch.tensor([item["category_id"] for item in items], dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


def test_both_evaluators_on_voc_form(bccd_root, tmp_path):
    evaluator = build_evaluator("bccd_val", str(tmp_path / "out"))
    results = predict(evaluator, "bccd_val")
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP-Platelets"] == pytest.approx(100)
    assert results["voc"]["AP"] == pytest.approx(100)  # the WBC without width is no object, here and there
    assert type(results["voc"]["AP"]) is float
    assert (tmp_path / "out" / "coco_instances_results.json").is_file()


def test_without_vocs_figures_cocos_are_the_same(bccd_root):
    both = predict(build_evaluator("bccd_val"), "bccd_val", shift=3.0)
    alone = predict(build_evaluator("bccd_val", voc=False), "bccd_val", shift=3.0)
    assert set(alone) == {"bbox"} and 0 < alone["bbox"]["AP"] < 100
    assert alone["bbox"] == pytest.approx(both["bbox"], rel=0, abs=0, nan_ok=True)


def test_wrong_boxes_score_worse_by_both(bccd_root):
    good = predict(build_evaluator("bccd_val"), "bccd_val")
    shifted = predict(build_evaluator("bccd_val"), "bccd_val", shift=12.0)
    missed = predict(build_evaluator("bccd_val"), "bccd_val", skip={(10.0, 20.0, 60.0, 80.0)})
    for key in ("bbox", "voc"):
        assert shifted[key]["AP"] < good[key]["AP"] - 20
        assert missed[key]["AP50"] < good[key]["AP50"] - 10


def test_no_detections(bccd_root):
    results = predict(build_evaluator("bccd_val"), "bccd_val", skip=_everything("bccd_val"))
    assert results["voc"] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert results["bbox"]["AP"] != results["bbox"]["AP"]  # Detectron2 says NaN


def _everything(name):
    return {tuple(item["bbox"]) for record in DatasetCatalog.get(name) for item in record["annotations"]}


def test_no_file_and_no_path_stay_behind(bccd_root, tmp_path):
    """Left to itself COCOEvaluator keeps the first output folder's path for good, and reads stale files."""
    for run in ("one", "two"):
        build_evaluator("bccd_val", str(tmp_path / run))
        assert not hasattr(MetadataCatalog.get("bccd_val"), "json_file")
        assert not (tmp_path / run).exists()
    (bccd_root / "BCCD/ImageSets/Main/val.txt").write_text("b\na\n")
    evaluator = build_evaluator("bccd_val")
    assert len(evaluator._evaluators[0]._coco_api.imgs) == 2


def test_difficult_objects_as_voc_has_it(tmp_path):
    """Neither finding nor missing a difficult object changes VOC's figure."""
    name = "difficult_2007_test"
    difficult = (300, 300, 400, 420)
    write_voc(
        tmp_path / "VOC2007",
        {"000001": [("cow", 10, 20, 90, 120), ("cow", *difficult, 1)], "000002": [("dog", 5, 5, 50, 60)]},
        {"test": ["000001", "000002"]},
    )
    register_pascal_voc(name, str(tmp_path / "VOC2007"), "test", 2007, ("cow", "dog"))
    MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    try:
        found = predict(build_evaluator(name), name)
        missed = predict(build_evaluator(name), name, skip={(299.0, 299.0, 400.0, 420.0)})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert found["voc"]["AP50"] == missed["voc"]["AP50"] == pytest.approx(100)
    assert missed["bbox"]["AP50"] < found["bbox"]["AP50"]  # COCO's form knows no difficult objects


@pytest.fixture
def small_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(shapes, "SPLITS", {"train": 2, "val": 6})


def test_shapes_has_coco_alone(small_shapes):
    evaluator = build_evaluator("shapes_val")
    assert type(evaluator) is NumberedCOCOEvaluator
    results = predict(evaluator, "shapes_val")
    assert set(results) == {"bbox"} and results["bbox"]["AP"] == pytest.approx(100)


def test_detectron2s_own_evaluator_draws_shapes_itself(small_shapes):
    evaluator = COCOEvaluator("shapes_val")  # before the catalog's function was ever called
    assert len(evaluator._coco_api.imgs) == 6


def test_as_a_lazy_call(small_shapes):
    evaluator = instantiate(LazyCall(build_evaluator)(dataset_name="shapes_val", output_dir=None))
    assert type(evaluator) is NumberedCOCOEvaluator


def _in_child(folder, queue):
    os.environ["DETECTRON2_DATASETS"] = folder
    import paramap_d2.data as data

    data.shapes.SPLITS = {"val": 6}
    queue.put(len(data.build_evaluator("shapes_val")._coco_api.imgs))


@pytest.mark.slow
def test_in_a_spawned_child(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(str(tmp_path), queue))
    child.start()
    assert queue.get(timeout=120) == 6
    child.join(60)
    assert child.exitcode == 0


def test_other_kinds_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="'shapes_vla' is not registered: did you mean shapes_val"):
        build_evaluator("shapes_vla")
    DatasetCatalog.register("of_another_kind", list)
    MetadataCatalog.get("of_another_kind").evaluator_type = "sem_seg"
    try:
        with pytest.raises(DatasetError, match="evaluator type 'sem_seg'"):
            build_evaluator("of_another_kind", str(tmp_path))
    finally:
        DatasetCatalog.remove("of_another_kind")
        MetadataCatalog.remove("of_another_kind")
