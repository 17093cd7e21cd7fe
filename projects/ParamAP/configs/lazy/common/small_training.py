# Optimizer and schedule of the small detectors, and their data but for its names and sizes.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.model_zoo import get_config
from fvcore.common.param_scheduler import CosineParamScheduler

from paramap_d2.data import build_evaluator
from paramap_d2.engine.solver import warmup

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 1e-3
optimizer.weight_decay = 0.01

lr_multiplier = L(warmup)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_iters=20,
    max_iter="${train.max_iter}",
)

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=[128], max_size=128, sample_style="choice"),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=128, max_size=128)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=0,
    ),
    evaluator=L(build_evaluator)(dataset_name="${..test.dataset.names}"),
)

train = get_config("common/train.py").train
train.seed = 0
train.fast_cpu = True
train.eval_period = 0  # after the last iteration alone
train.checkpointer.period = 100
