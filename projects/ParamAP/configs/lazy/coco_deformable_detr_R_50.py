# Deformable DETR with box refinement, ResNet-50, on COCO: 50 epochs of 32 images, as its authors train it, but for the
# random crop among their augmentations, and that Detectron2 clips the gradient of each parameter to a norm of 0.1, not
# that of the whole model. The functions searched with it are not published: give those of a search of your own with
# model.criterion.param_ap.loss=best.json.
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from fvcore.common.param_scheduler import MultiStepParamScheduler

from paramap_d2.data import build_evaluator
from paramap_d2.engine.solver import warmup

from .common.coco_ssd512 import pixels
from .common.small_deformable_detr import model, optimizer

model.backbone.stem.norm = "FrozenBN"
model.backbone.stages.update(depth=50, norm="FrozenBN", stride_in_1x1=False)
model.backbone.freeze_at = 2
model.num_classes = 80
model.pixel_mean = pixels["mean"]
model.pixel_std = pixels["std"]
model.num_feature_levels = 4
model.num_queries = 300
model.hidden_dim = 256
model.num_heads = 8
model.dim_feedforward = 1024
model.enc_layers = 6
model.dec_layers = 6
model.dropout = 0.1

optimizer.lr = 2e-4
optimizer.params.weight_decay_norm = 1e-4
optimizer.params.lr_factor_func.factors = [["backbone", 0.1], ["sampling_offsets", 0.1], ["reference_points", 0.1]]

lr_multiplier = L(warmup)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[40], num_updates=50),
    warmup_iters=0,
    max_iter="${train.max_iter}",
)

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.filter_empty = False
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = list(range(480, 801, 32))
dataloader.train.total_batch_size = 32
dataloader.evaluator = L(build_evaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}")

train = get_config("common/train.py").train
train.seed = -1
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 184800
train.checkpointer.period = train.eval_period = 18480
train.output_dir = "output/coco_deformable_detr_R_50"

proxy = dict(
    # One epoch, as in the paper's search, on the split that tools/split_dataset.py makes.
    opts=[
        "dataloader.train.dataset.names=coco_2017_train_search",
        "dataloader.test.dataset.names=coco_2017_train_searchval",
        "train.max_iter=3540",
    ]
)
