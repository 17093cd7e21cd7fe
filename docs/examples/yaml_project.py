"""A project with YAML configs and a train_net.py of its own. What this loss adds to it are the two lines marked +.

python yaml_project.py --config-file yaml_project.yaml
paramap evolve --config-file yaml_project.yaml --import yaml_project --output-dir output/search
python yaml_project.py --config-file yaml_project.yaml MODEL.PARAM_AP.LOSS output/search/best.json
"""

import os

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import RandomBrightness, RandomFlip, ResizeShortestEdge
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator

from paramap_d2.config import add_paramap_config  # +

DATA = os.environ.get("MY_DATA", "my_data")
for split in ("train", "val"):
    register_coco_instances(f"my_{split}", {}, f"{DATA}/{split}.json", f"{DATA}/images")


def add_mine_config(cfg):
    cfg.INPUT.MINE = CfgNode({"BRIGHTNESS": 0.0})


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        some = 1 - cfg.INPUT.MINE.BRIGHTNESS, 1 + cfg.INPUT.MINE.BRIGHTNESS
        sizes = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, "choice")
        mapper = DatasetMapper(cfg, augmentations=[sizes, RandomFlip(), RandomBrightness(*some)])
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def main(args):
    cfg = get_cfg()
    add_mine_config(cfg)
    add_paramap_config(cfg)  # +
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
