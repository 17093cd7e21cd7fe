# A project with a LazyConfig, made from Detectron2's model zoo. It registers its data itself, and what it registers is
# known in every worker, for a search executes this file there, too. What this loss adds is marked +.
#
#     paramap train-lazy --config-file lazy_project.py
#     paramap evolve --config-file lazy_project.py --output-dir output/search
#     paramap train-lazy --config-file lazy_project.py model.param_ap.loss=output/search/best.json
import os

from detectron2.config import LazyCall as L
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.model_zoo import get_config

from paramap_d2.modeling import ParamAPRetinaNet  # +

DATA = os.environ.get("MY_DATA", "my_data")
for split in ("train", "val"):
    register_coco_instances(f"my_lazy_{split}", {}, f"{DATA}/{split}.json", f"{DATA}/images")

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "my_lazy_train"
dataloader.train.mapper.use_instance_mask = False
dataloader.train.total_batch_size = 8
dataloader.test.dataset.names = "my_lazy_val"
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")

model = get_config("common/models/retinanet.py").model
model.num_classes = 3
model._target_ = ParamAPRetinaNet  # +
model.param_ap = dict(loss="retinanet-coco")  # + a preset, or a search's best.json
model.test_score_thresh = 0.0  # + no score of a ranking loss is low in itself

optimizer = get_config("common/optim.py").SGD
optimizer.lr = 0.005
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train
train.max_iter = 3000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"

proxy = dict(opts=["train.max_iter=300"])  # + how much shorter the trainings of a search are
