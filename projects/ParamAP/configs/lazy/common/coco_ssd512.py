# The paper's training on COCO: SSD's augmentation at 512 pixels, 64 images a batch, 100 epochs of the 117,266 images
# that have objects; tested at 500 pixels. Where the paper is silent it is as in its released configs.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from fvcore.common.param_scheduler import MultiStepParamScheduler

from paramap_d2.data import SSDMapper, build_evaluator
from paramap_d2.data.augmentation import ssd_augmentations
from paramap_d2.engine.solver import warmup

pixels = dict(mean=[123.675, 116.280, 103.530], std=[58.395, 57.120, 57.375])  # RGB, as torchvision's ResNet-50 has it

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.mapper = L(SSDMapper)(
    is_train=True,
    augmentations=L(ssd_augmentations)(
        image_format="${..image_format}",
        color=pixels["mean"],
        then=[L(T.Resize)(shape=512), L(T.RandomFlip)(horizontal=True)],
    ),
    image_format="RGB",
)
dataloader.train.total_batch_size = 64
dataloader.test.mapper.augmentations[0].short_edge_length = 500
dataloader.test.mapper.augmentations[0].max_size = 833
dataloader.evaluator = L(build_evaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}")

optimizer = get_config("common/optim.py").SGD

lr_multiplier = L(warmup)(
    # In epochs; the values that count are the shares of the whole.
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[60, 80], num_updates=100),
    warmup_iters=500,
    max_iter="${train.max_iter}",
)

train = get_config("common/train.py").train
train.seed = -1
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 183228
train.checkpointer.period = train.eval_period = 18323

proxy = dict(
    # One epoch at a constant rate, as in the paper's search, on the split that tools/split_dataset.py makes.
    opts=[
        "dataloader.train.dataset.names=coco_2017_train_search",
        "dataloader.test.dataset.names=coco_2017_train_searchval",
        "train.max_iter=1755",
        "lr_multiplier.scheduler.values=[1.0,1.0,1.0]",
    ]
)
