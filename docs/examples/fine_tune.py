"""From a stock detector's checkpoint to this loss: the same network, so every weight that fits is kept.

python fine_tune.py [KEY VALUE …]
"""

import os
import sys

from detectron2 import model_zoo
from detectron2.data.datasets import register_coco_instances

from paramap_d2.config import check_config, read_config
from paramap_d2.engine import Trainer

DATA = os.environ.get("MY_DATA", "my_data")
STOCK = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
for split in ("train", "val"):
    register_coco_instances(f"tune_{split}", {}, f"{DATA}/{split}.json", f"{DATA}/images")

OPTIONS = {
    "MODEL.META_ARCHITECTURE": "ParamAPRetinaNet",
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,  # no score of a ranking loss is low in itself
    "MODEL.RETINANET.NUM_CLASSES": 3,  # of the last layer the checkpoint has 80: that one begins anew, with a warning
    "MODEL.PARAM_AP.LOSS": "retinanet-coco",
    "MODEL.WEIGHTS": "detectron2://COCO-Detection/retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl",
    "DATASETS.TRAIN": ("tune_train",),
    "DATASETS.TEST": ("tune_val",),
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.BASE_LR": 0.001,  # a tenth or less of what a training from ImageNet's weights takes
    "SOLVER.MAX_ITER": 1000,
    "SOLVER.STEPS": (800,),
}


def main(opts):
    given = [part for pair in OPTIONS.items() for part in pair]
    cfg = read_config(model_zoo.get_config_file(STOCK), [*given, *opts])
    check_config(cfg)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with open(f"{cfg.OUTPUT_DIR}/config.yaml", "w") as file:
        file.write(cfg.dump())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer.train()


if __name__ == "__main__":
    main(sys.argv[1:])
