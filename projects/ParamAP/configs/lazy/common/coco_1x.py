# Detectron2's own data, optimizer and 1x schedule, for detectors that the paper does not have.
from detectron2.model_zoo import get_config

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train
train.seed = -1
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
proxy = dict(
    opts=[
        "dataloader.train.dataset.names=coco_2017_train_search",
        "dataloader.test.dataset.names=coco_2017_train_searchval",
        "train.max_iter=7019",  # an epoch
    ]
)
