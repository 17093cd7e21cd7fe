from contextlib import nullcontext

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from paramap_d2.config import (
    ConfigError,
    add_paramap_config,
    check_config,
    detector_heads,
    parse_config,
    read_config,
)
from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file

BASE = "VERSION: 2\nMODEL:\n  META_ARCHITECTURE: ParamAPRetinaNet\n  RETINANET:\n    NUM_CLASSES: 3\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_a_lazy_config_is_for_the_other_script():
    with pytest.raises(ConfigError, match="is a LazyConfig, which lazyconfig_train_net.py"):
        read_config(get_config_file("lazy/shapes_retinanet_R_18_FPN.py"))


def test_keys_do_not_change_a_stock_config():
    cfg = get_cfg()
    before = cfg.clone()
    add_paramap_config(cfg)

    def unchanged(stock, ours):
        return all(
            unchanged(value, ours[key]) if isinstance(value, CfgNode) else ours[key] == value
            for key, value in stock.items()
        )

    assert unchanged(before, cfg)
    assert cfg.MODEL.PARAM_AP.LOSS == "retinanet-coco"


def test_options_have_the_last_word(file):
    cfg = read_config(file(BASE), ["MODEL.PARAM_AP.LOSS", "square", "SOLVER.MAX_ITER", "7"])
    assert cfg.MODEL.PARAM_AP.LOSS == "square" and cfg.SOLVER.MAX_ITER == 7
    assert yaml.unsafe_load(parse_config(cfg.dump()).dump()) == yaml.unsafe_load(cfg.dump())


@pytest.mark.parametrize(
    "text, opts, message",
    [
        ("MODEL: [", (), "config file .*config.yaml: "),
        ("MODLE:\n  X: 1\n", (), "config file .*config.yaml: .*MODLE"),
        ("", (), "config file .*config.yaml: it is empty$"),
        ("MINE:\n  X: 1\n", (), "key: MINE; --import names a module that adds keys of your own"),
        ("_BASE_: nowhere.yaml\n", (), "config file .*config.yaml: .*nowhere.yaml"),
        (BASE, ["NO.SUCH", "1"], "config option NO.SUCH 1: Non-existent key: NO.SUCH$"),
        (BASE, ["SOLVER.MAXITER", "1"], "Non-existent key: SOLVER.MAXITER; did you mean SOLVER.MAX_ITER"),
        ("MODEL:\n  RETINNET:\n    X: 1\n", (), "MODEL.RETINNET; did you mean MODEL.RETINANET"),
        (BASE, ["DATASETS.TRAIN", "my_train"], r"DATASETS.TRAIN; write it \"\('my_train',\)\""),
        (BASE, ["DATASETS.TEST", "a,b"], r"DATASETS.TEST; write it \"\('a', 'b',\)\""),
        (BASE, ["SOLVER.STEPS", "3000"], r"SOLVER.STEPS; write it \"\(3000,\)\""),
        (BASE, ["SOLVER.STEPS", "late"], "for config key: SOLVER.STEPS$"),
        (BASE, ["SOLVER.BASE_LR", "1"], "SOLVER.BASE_LR; write it 1.0"),
        (BASE, ["SEED"], "'SEED' at the end has no partner"),
        (BASE, ["SOLVER.MAX_ITER", "[1]"], "config option SOLVER.MAX_ITER \\[1\\]"),
    ],
)
def test_bad_configs_are_one_line(file, text, opts, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_config(file(text), opts)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN names no data set"),
        (["DATASETS.TRAIN", "('shape_train',)"], "did you mean shapes_train"),
        (["MODEL.RETINANET.NUM_CLASSES", "5"], "shapes_train has 3 classes, and the config's detector 5"),
        (["SOLVER.OPTIMIZER", "LION"], "SOLVER.OPTIMIZER must be SGD or ADAMW, not LION"),
        (["MODEL.PARAM_AP.LOSS", "nowhere"], "'nowhere' is neither a preset"),
        (["MODEL.PARAM_AP.LOSS", "ap-loss", "MODEL.PARAM_AP.TOP_K", "9"], "TOP_K. .* ap-loss has no use for 9"),
        (["MODEL.PARAM_AP.LOSS", "rank-sort", "MODEL.PARAM_AP.QUALITY", "l1"], "rank-sort has no use for 'l1'"),
        (["MODEL.PARAM_AP.LOSS", "ap-loss", "MODEL.PARAM_AP.BLOCK_GRADIENT", "False"], "no use for False: .* True"),
        (["MODEL.PARAM_AP.TOP_K", "-1"], "TOP_K. must be positive, or 0 for all, not -1"),
        (["MODEL.PARAM_AP.GRAD_SCALE", "-0.5"], "GRAD_SCALE. must be positive, .* not -0.5"),
        (["MODEL.PARAM_AP.END_LOSS", "nowhere"], "'nowhere' is neither a preset"),
        (["MODEL.PARAM_AP.END_LOSS", "fasterrcnn-coco"], "END_LOSS: .* has no head 'dense', which this detector needs"),
        (
            ["MODEL.PARAM_AP.END_LOSS", "ap-loss", "MODEL.PARAM_AP.QUALITY", "l1"],
            "END_LOSS: quality .* ap-loss has no use for 'l1'",
        ),
        (
            ["MODEL.PARAM_AP.END_LOSS", "linear", "MODEL.META_ARCHITECTURE", "ParamAPBaselineRetinaNet"],
            "END_LOSS is linear, and the config's detector has no loss whose place it takes: leave it ''",
        ),
        (
            ["MODEL.PARAM_AP.END_LOSS", "linear", "MODEL.PARAM_AP.END_LOSS_FROM", "1.0"],
            "END_LOSS_FROM must lie between 0 and 1, a part of the iterations, not 1.0",
        ),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER must be at least 1, not 0"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED needs a GPU, and torch sees none"),
        (["MODEL.WEIGHTS", "gone.pth"], "MODEL.WEIGHTS is gone.pth, which does not exist"),
        (["MODEL.PARAM_AP.QUALITY", "diou"], "QUALITY. must be one of giou, iou, l1, not 'diou'"),
        (
            ["MODEL.PARAM_AP.LOSS", "fasterrcnn-coco"],
            "has no head 'dense', which this detector needs; it has 'rpn', 'roi'",
        ),
    ],
)
def test_checks(file, opts, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg = read_config(file(BASE), ["DATASETS.TRAIN", "('shapes_train',)", *opts])
    with pytest.raises(UserError, match=message):
        check_config(cfg)


@pytest.mark.parametrize(
    "opts, processes, message",
    [
        (["SOLVER.IMS_PER_BATCH", "0"], 1, "IMS_PER_BATCH must be at least 1, not 0"),
        (["SOLVER.IMS_PER_BATCH", "3"], 2, "IMS_PER_BATCH 3 must be a multiple of the number of GPUs, 2"),
        (["SOLVER.IMS_PER_BATCH", "3", "SOLVER.REFERENCE_WORLD_SIZE", "1"], 2, None),  # Detectron2 makes it 6
        (["SOLVER.IMS_PER_BATCH", "3"], 0, None),  # --num-gpus 0: one process on the CPU
    ],
)
def test_a_batch_that_the_processes_cannot_share(file, opts, processes, message):
    cfg = read_config(file(BASE), ["DATASETS.TRAIN", "('shapes_train',)", *opts])
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_config(cfg, processes=processes)


@pytest.mark.parametrize(
    "opts, eval_only, told",
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.PARAM_AP.LOSS", "square"], False, True),
        (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.PARAM_AP.LOSS", "square"], True, False),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], False, False),  # a baseline
        (["MODEL.PARAM_AP.LOSS", "square"], False, False),
    ],
)
def test_a_loss_that_nothing_trains_with_is_told(file, caplog, tmp_path, opts, eval_only, told):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"\x80")
    opts += ["DATASETS.TRAIN", "('shapes_train',)", "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(weights)]
    check_config(read_config(file(BASE), opts), eval_only)
    expected = "MODEL.PARAM_AP.LOSS square is not used: this RetinaNet trains with losses of its own"
    assert (expected in caplog.messages) == told


def test_an_output_folder_that_cannot_be_one_is_known_before_anything_is_built(file, tmp_path):
    (tmp_path / "mine").write_text("mine")
    cfg = read_config(file(BASE), ["DATASETS.TRAIN", "('shapes_train',)", "OUTPUT_DIR", str(tmp_path / "mine")])
    with pytest.raises(UserError, match="mine cannot be the output folder .*; choose another one"):
        check_config(cfg)
    check_config(cfg, fitness=True)  # a search has its own


@pytest.mark.parametrize("eval_only", [False, True])
def test_weights_are_needed_where_no_checkpoint_is_resumed(file, tmp_path, eval_only):
    options = ["DATASETS.TRAIN", "('shapes_train',)", "OUTPUT_DIR", str(tmp_path)]
    gone = read_config(file(BASE), [*options, "MODEL.WEIGHTS", "gone.pth"])
    with pytest.raises(UserError, match="gone.pth, which does not exist"):
        check_config(gone, eval_only, resume=True)
    with pytest.raises(UserError, match="names no weights") if eval_only else nullcontext():
        check_config(read_config(file(BASE), [*options, "MODEL.WEIGHTS", ""]), eval_only, resume=True)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    check_config(gone, eval_only, resume=True)


@pytest.mark.parametrize(
    "processes, more, refused", [(1, [], False), (2, [], True), (2, ["MODEL.PARAM_AP.GLOBAL_BATCH", "False"], False)]
)
def test_the_highest_scores_are_those_of_one_process(file, processes, more, refused):
    cfg = read_config(file(BASE), ["DATASETS.TRAIN", "('shapes_train',)", "MODEL.PARAM_AP.TOP_K", "9", *more])
    with pytest.raises(UserError, match="with 2 of them, add .*GLOBAL_BATCH") if refused else nullcontext():
        check_config(cfg, processes=processes)


@pytest.mark.parametrize(
    "opts, heads",
    [
        ([], ("dense",)),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], ()),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.ROI_HEADS.NAME", "ParamAPROIHeads"], ("roi",)),
        (
            [
                "MODEL.META_ARCHITECTURE",
                "GeneralizedRCNN",
                "MODEL.PROPOSAL_GENERATOR.NAME",
                "ParamAPRPN",
                "MODEL.ROI_HEADS.NAME",
                "ParamAPCascadeROIHeads",
            ],
            ("rpn", "roi"),
        ),
    ],
)
def test_heads(file, opts, heads):
    assert detector_heads(read_config(file(BASE), opts)) == heads
