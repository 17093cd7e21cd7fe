"""Test data without an object give no fitness: known before anything is trained, whatever form they have."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file
from paramap_d2.search.proxies.config import read_proxy_config

NAME = "nothing_to_find"


@pytest.fixture(params=["none in a file", "a crowd in a file", "none in records"])
def empty(request, tiny_datasets, tmp_path):
    """tiny_val's images without an object, registered as data of a user are."""
    val = MetadataCatalog.get("tiny_val")
    with open(val.json_file) as file:
        content = json.load(file)
    classes = [entry["name"] for entry in content["categories"]]
    if request.param == "none in records":
        records = [
            {"file_name": os.path.join(val.image_root, i["file_name"]), "image_id": i["id"], "annotations": []}
            | {key: i[key] for key in ("width", "height")}
            for i in content["images"]
        ]
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=classes, evaluator_type="coco")
    else:
        from detectron2.data.datasets import register_coco_instances

        crowd = [{**a, "iscrowd": 1} for a in content["annotations"]]
        content["annotations"] = crowd if "crowd" in request.param else []
        (tmp_path / "empty.json").write_text(json.dumps(content))
        register_coco_instances(NAME, {}, str(tmp_path / "empty.json"), val.image_root)
        MetadataCatalog.get(NAME).thing_classes = classes
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.mark.parametrize("kind", ["yaml", "lazy"])
def test_it_is_told(empty, tiny, kind):
    if kind == "yaml":
        config, opts = "shapes_retinanet_R_18_FPN.yaml", [*tiny, "DATASETS.TEST", f"('{NAME}',)"]
    else:
        config = "lazy/shapes_retinanet_R_18_FPN.py"
        opts = ["dataloader.train.dataset.names=tiny_train", f"dataloader.test.dataset.names={NAME}"]
    with pytest.raises(UserError, match=f"^data set {NAME} has no object to find, and a fitness is the AP on it$"):
        read_proxy_config(get_config_file(config), opts)


def test_an_evaluator_of_the_users_own_may_count_something_else(empty, tiny_datasets):
    opts = ["dataloader.train.dataset.names=tiny_train", f"dataloader.test.dataset.names={NAME}"]
    own = "dataloader.evaluator._target_=detectron2.evaluation.COCOEvaluator"
    assert read_proxy_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"), [*opts, own]).own_evaluator
