"""A script with its own registration, mapper and Trainer, which trains and searches from Python.

python own_script.py search    # then: python own_script.py train output/search/best.json
python own_script.py train retinanet-coco
"""

import copy
import json
import os
import sys

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import detection_utils as utils
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode

from paramap_d2.config import add_paramap_config
from paramap_d2.search.session import SearchOptions, run_search

DATA = os.environ.get("MY_DATA", "my_data")
OUTPUT = os.environ.get("MY_OUTPUT", "output")
ITERATIONS = int(os.environ.get("MY_ITERATIONS", 3000))
SEARCH = json.loads(os.environ.get("MY_SEARCH", '{"population": 8, "generations": 8, "seed": 0}'))


def read(split):
    """Any form will do; here it is COCO's, read by hand."""
    with open(f"{DATA}/{split}.json") as file:
        content = json.load(file)
    boxes = {image["id"]: [] for image in content["images"]}
    numbers = {c["id"]: i for i, c in enumerate(content["categories"])}
    for a in content["annotations"]:
        box = {"bbox": a["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": numbers[a["category_id"]]}
        boxes[a["image_id"]].append(box)
    return [
        {"file_name": os.path.join(DATA, "images", image["file_name"]), "image_id": image["id"]}
        | {"height": image["height"], "width": image["width"], "annotations": boxes[image["id"]]}
        for image in content["images"]
    ]


for split in ("train", "val"):
    DatasetCatalog.register(f"own_{split}", lambda split=split: read(split))
    MetadataCatalog.get(f"own_{split}").set(thing_classes=["circle", "square", "triangle"])


def mapper(record):
    """Mirrors every second image, and nothing else."""
    record = copy.deepcopy(record)
    image = utils.read_image(record["file_name"], "BGR")
    instances = utils.annotations_to_instances(record.pop("annotations"), image.shape[:2])
    if torch.rand(()) < 0.5:
        image = image[:, ::-1]
        instances.gt_boxes.tensor[:, [0, 2]] = image.shape[1] - instances.gt_boxes.tensor[:, [2, 0]]
    return {**record, "image": torch.as_tensor(image.transpose(2, 0, 1).copy()), "instances": instances}


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def config(loss="retinanet-coco"):
    cfg = get_cfg()
    add_paramap_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ParamAPRetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[x, x * 2**0.5] for x in (16, 32, 64, 128, 256)]
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0  # no score of a ranking loss is low in itself
    cfg.MODEL.PARAM_AP.LOSS = loss
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.DATALOADER.NUM_WORKERS = 0  # processes that read images: worth their start for larger trainings
    cfg.INPUT.MIN_SIZE_TEST = 0  # images as they are, as the mapper has them
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = 4, 0.005, ITERATIONS
    cfg.OUTPUT_DIR = f"{OUTPUT}/trained"
    cfg.PROXY.TRAINER = "own_script:Trainer"
    cfg.PROXY.OPTS = ["SOLVER.MAX_ITER", max(1, ITERATIONS // 10)]
    return cfg


def main(what, loss="retinanet-coco"):
    cfg = config(loss)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    if what == "train":
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        return trainer.train()
    with open(f"{OUTPUT}/own.yaml", "w") as file:
        file.write(cfg.dump())
    best = run_search(SearchOptions(f"{OUTPUT}/own.yaml", f"{OUTPUT}/search", imports=["own_script"], **SEARCH))
    print(f"AP {best.mean:.1f}: {OUTPUT}/search/best.json")


if __name__ == "__main__":  # a search's workers import this file again
    main(*sys.argv[1:])
