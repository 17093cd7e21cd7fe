"""Every config of the project: it loads, its parts fit each other, and its detector can be built."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.modeling import build_model

import paramap_d2.data  # noqa: F401
import paramap_d2.modeling  # noqa: F401
from paramap_d2.config import detector_heads, merge_options, read_config
from paramap_d2.config import lazy as lazy_config
from paramap_d2.engine.lazy import build_model as build_lazy_model
from paramap_d2.losses import head_losses, load_loss

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "projects" / "ParamAP" / "configs"
YAML = sorted(path.name for path in CONFIGS.glob("*.yaml"))
RECIPES = [name for name in YAML if not name.startswith(("base_", "small_"))]
LAZY = sorted(path.name for path in (CONFIGS / "lazy").glob("*.py"))


def yaml_config(name, *opts):
    return read_config(CONFIGS / name, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *opts])


def lazy_model(name):
    return build_lazy_model(lazy_config.read_lazy_config(CONFIGS / "lazy" / name, ["train.device=cpu"]))


def thresholds(model, *names):
    """What the parts of a detector have under these names."""
    return {getattr(part, name) for part in model.modules() for name in names if hasattr(part, name)}


def drops_no_score(model):
    """Whether all detections are kept, however low their scores: a ranking loss leaves open where zero is, and its
    detectors lose AP by any other threshold."""
    return thresholds(model, "test_score_thresh", "score_thresh") == {0.0}


@pytest.mark.parametrize("name", YAML)
def test_yaml_configs_build(name):
    if "deformable_detr" in name:
        pytest.importorskip("transformers")
    cfg = yaml_config(name)
    heads = detector_heads(cfg)
    if heads:
        head_losses(load_loss(cfg.MODEL.PARAM_AP.LOSS), heads, cfg.MODEL.PARAM_AP.LOSS)
    model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert not heads or drops_no_score(model)


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_recipes_are_whole(name):
    cfg = yaml_config(name)
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    assert cfg.OUTPUT_DIR == f"output/{Path(name).stem}"
    merged = cfg.clone()
    merge_options(merged, cfg.PROXY.OPTS)
    parts = (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME)
    ours = any(part.startswith("ParamAP") and "Baseline" not in part for part in parts)
    assert ours == bool(detector_heads(cfg)) == bool(cfg.PROXY.OPTS)
    assert merged.SOLVER.MAX_ITER < cfg.SOLVER.MAX_ITER or not ours
    for each in (cfg, merged):
        if each.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
            steps = list(each.SOLVER.STEPS)
            assert steps == sorted(steps)
            assert all(each.SOLVER.WARMUP_ITERS < step < each.SOLVER.MAX_ITER for step in steps)


@pytest.mark.parametrize(
    "ours, baselines",
    [
        ("coco_retinanet_R_50_FPN_param_ap.yaml", ["focal_l1", "focal_giou"]),
        ("voc_retinanet_R_50_FPN_param_ap.yaml", ["focal_l1", "focal_giou"]),
        ("coco_faster_rcnn_R_50_FPN_param_ap.yaml", ["ce_l1", "ce_giou"]),
    ],
)
def test_baselines_differ_by_their_loss_alone(ours, baselines):
    config = yaml_config(ours)
    for baseline in baselines:
        other = yaml_config(ours.replace("param_ap", baseline))
        assert not detector_heads(other)
        for part in ("SOLVER", "INPUT", "DATASETS", "DATALOADER", "TEST"):
            here, there = config[part].clone(), other[part].clone()
            if part == "SOLVER" and "rcnn" in ours:  # each at its own rate, as released
                assert (here.pop("BASE_LR"), there.pop("BASE_LR")) == (0.024, 0.04)
            assert here == there, (baseline, part)
        for part in ("BACKBONE", "RESNETS", "FPN", "ANCHOR_GENERATOR", "PIXEL_MEAN", "PIXEL_STD"):
            assert config.MODEL[part] == other.MODEL[part], (baseline, part)


@pytest.mark.parametrize(
    "name, lr, steps",
    [
        ("coco_retinanet_R_50_FPN_param_ap.yaml", 0.016, (0.60, 0.80)),
        ("coco_faster_rcnn_R_50_FPN_param_ap.yaml", 0.024, (0.75, 0.95)),
    ],
)
def test_the_papers_training(name, lr, steps):
    cfg = yaml_config(name)
    epoch = 117_266 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER == pytest.approx(100 * epoch, abs=1)
    assert [step / cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS] == pytest.approx(steps, abs=1e-4)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (
        64,
        lr,
        0.9,
        1e-4,
    )
    assert cfg.SOLVER.WARMUP_ITERS == 500
    merge_options(cfg, cfg.PROXY.OPTS)
    assert not cfg.SOLVER.STEPS and cfg.SOLVER.WARMUP_ITERS == 500  # the released search: a constant rate
    assert cfg.INPUT.SSD_AUGMENTATION and cfg.INPUT.SSD_SIZE == 512 and cfg.INPUT.MIN_SIZE_TEST == 500
    lazy = lazy_config.read_lazy_config(CONFIGS / "lazy" / f"{name.removesuffix('_param_ap.yaml')}.py")
    assert lazy.train.max_iter == yaml_config(name).SOLVER.MAX_ITER and lazy.optimizer.lr == lr
    assert lazy.lr_multiplier.warmup_iters == 500
    scheduler = lazy.lr_multiplier.scheduler
    assert [m / scheduler.num_updates for m in scheduler.milestones] == pytest.approx(steps)
    lazy_config.apply_options(lazy, lazy.proxy.opts)
    rates = instantiate(lazy.lr_multiplier)
    assert [rates(share) for share in (0.5, 0.7, 0.99)] == [1.0] * 3


@pytest.mark.parametrize(
    "name, nms",
    [
        ("coco_retinanet_R_50_FPN_param_ap.yaml", 0.6),
        ("voc_retinanet_R_50_FPN_param_ap.yaml", 0.6),
        ("coco_faster_rcnn_R_50_FPN_param_ap.yaml", 0.5),
        ("coco_retinanet_R_50_FPN.py", 0.6),
        ("coco_faster_rcnn_R_50_FPN.py", 0.5),
    ],
)
def test_the_papers_suppression(name, nms):
    model = build_model(yaml_config(name)) if name.endswith(".yaml") else lazy_model(name)
    assert thresholds(model, "test_nms_thresh") == {nms}


@pytest.mark.parametrize("name", LAZY)
def test_lazy_configs_build(name):
    if "deformable_detr" in name:
        pytest.importorskip("transformers")
    cfg = lazy_config.read_lazy_config(CONFIGS / "lazy" / name, ["train.device=cpu"])
    assert lazy_config.detector_heads(cfg) == (
        ("rpn", "roi") if "rcnn" in name else ("detr",) if "detr" in name else ("dense",)
    )
    key = "param_ap.loss" if "rcnn" in name else f"model.{'criterion.' * ('detr' in name)}param_ap.loss"
    assert lazy_config.loss_keys(cfg) == [key]
    for head in lazy_config.detector_heads(cfg):
        loss = lazy_config.OmegaConf.select(cfg, lazy_config.loss_keys(cfg)[0])
        head_losses(load_loss(loss), (head,), loss)
    assert cfg.train.output_dir == f"output/{Path(name).stem}"
    full = cfg.train.max_iter
    lazy_config.apply_options(cfg, cfg.proxy.opts)
    assert cfg.train.max_iter < full
    model = build_lazy_model(cfg)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert drops_no_score(model)


@pytest.mark.parametrize("name", [name for name in RECIPES if (CONFIGS / "lazy" / f"{Path(name).stem}.py").exists()])
def test_lazy_configs_have_the_parameters_of_their_yaml(name):
    if "deformable_detr" in name:
        pytest.importorskip("transformers")
    model = build_model(yaml_config(name))
    lazy = lazy_model(f"{Path(name).stem}.py")
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model, lazy)]
    assert shapes[0] == shapes[1]


SCRIPTS = {
    "projects/ParamAP/train_net.py": "train",
    "projects/ParamAP/lazyconfig_train_net.py": "train-lazy",
    "tools/evolve.py": "evolve",
    "tools/split_dataset.py": "split",
}
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", CONFIGS.parent / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """Those on lines of their own, the examples' scripts apart: tests/docs runs these."""
    text = page.read_text().replace("\\\n", " ")
    beginnings = re.findall(r"\bbegin=\((.+)\)$", text, re.MULTILINE)  # of a script's search: anew, resumed
    for line in re.findall(r"^ *((?:python|paramap) .+?)(?: &)?$", text, re.MULTILINE):
        if not (EXAMPLES / line.split()[1]).exists():
            yield from {line.replace('"${begin[@]}"', words): None for words in beginnings or [""]}


def parser_of(program, name):
    if name.startswith("benchmarks/"):
        return importlib.import_module(name.removesuffix(".py").replace("/", ".")).parser()
    command = name if program == "paramap" else SCRIPTS[name]
    return importlib.import_module(f"paramap_d2.cli.{command.replace('-', '_')}").build_parser()


@pytest.mark.parametrize("page, command", [(page.name, command) for page in PAGES for command in commands(page)])
def test_commands_of_the_pages_parse(page, command, monkeypatch):
    program, name, *words = shlex.split(command)
    monkeypatch.chdir(ROOT)
    assert program == "paramap" or Path(name).is_file()
    if not words:
        return
    args = parser_of(program, name).parse_args(words)
    file = getattr(args, "config_file", None)
    if file and not (EXAMPLES / file).exists():
        file = file if file != "CONFIG" else CONFIGS / "bccd_retinanet_lite0_FPN.yaml"
        read = lazy_config.read_lazy_config if str(file).endswith(".py") else read_config
        read(file, args.opts)


def test_the_readme_names_every_recipe():
    text = (CONFIGS.parent / "README.md").read_text()
    for name in [*RECIPES, *LAZY]:
        assert Path(name).stem in text
    for name in re.findall(r"`((?:lazy/)?[a-z_]+R_\d+\w*\.(?:yaml|py))`", text):
        assert (CONFIGS / name).exists(), name
