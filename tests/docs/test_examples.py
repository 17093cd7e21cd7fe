"""The examples of docs/own_project.md, each run on a handful of small images."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data.datasets import register_coco_instances

from paramap_d2 import cli
from paramap_d2.losses import load_loss
from paramap_d2.search.session import SearchOptions, run_search
from paramap_d2.search.store import FINISHED, Store

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SMALL = ["MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.STEPS", ()]
SMALL += ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0, "DATALOADER.NUM_WORKERS", 0]
SMALL = [str(x) for x in SMALL]


@pytest.fixture
def own_data(tmp_path, tiny_datasets, monkeypatch):
    """`my_data` in the folder that the process stands in, and the examples where Python looks for modules."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parents[1])]))
    Path("my_data").mkdir()
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"tiny_{split}")
        Path(f"my_data/{split}.json").write_text(Path(metadata.json_file).read_text())
    Path("my_data/images").symlink_to(metadata.image_root)
    before, modules = set(DatasetCatalog.list()), set(sys.modules)
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(EXAMPLES)):
            del sys.modules[name]


def example(name):
    """The example as a module, imported as a user's own."""
    sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def script(name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def outcomes(folder):
    with Store(Path(folder) / "search.db", readonly=True) as store:
        return [(e.status, e.error) for e in store.evaluations()]


def test_a_yaml_project_is_trained_and_searched_with_its_own_trainer(own_data, monkeypatch, capsys):
    project = example("yaml_project")
    from detectron2.engine import default_argument_parser

    tiny = [*SMALL, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "out"]
    config = str(EXAMPLES / "yaml_project.yaml")
    results = project.main(default_argument_parser().parse_args(["--config-file", config, *tiny]))
    assert results is None and Path("out/model_final.pth").exists()
    # Its keys and data are known to a command that imports it; a step of training detects nothing to calibrate by.
    calibrate = [
        "--config-file",
        config,
        "--weights",
        "out/model_final.pth",
        "--dataset",
        "my_val",
        "--output",
        "c.pth",
    ]
    for imports, words in (([], "INPUT.MINE"), (["--import", "yaml_project"], "calibrated by at least 10 true")):
        assert cli.run("calibrate", [*calibrate, *imports, *tiny]) == 2
        assert words in capsys.readouterr().err

    brightness, build = [], project.Trainer.build_train_loader

    def build_train_loader(cls, cfg):
        brightness.append(cfg.INPUT.MINE.BRIGHTNESS)
        return build(cfg)

    monkeypatch.setattr(project.Trainer, "build_train_loader", classmethod(build_train_loader))
    best = run_search(
        SearchOptions(
            config,
            "search",
            population=2,
            generations=1,
            executor="inline",
            confirm=0,
            imports=["yaml_project"],
            opts=tiny,
        )
    )
    assert outcomes("search") == [(FINISHED, "")] * 2 and best.mean >= 0
    assert brightness == [0.2, 0.2]


@pytest.mark.slow
def test_a_lazy_project_registers_its_data_in_every_worker(own_data):
    opts = ["train.device=cpu", "train.init_checkpoint=''", "train.max_iter=1", "dataloader.train.total_batch_size=2"]
    opts += ["model.backbone.bottom_up.stages.norm=BN", "+model.backbone.bottom_up.freeze_at=0"]
    opts += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    opts += ["dataloader.train.mapper.augmentations.0.short_edge_length=64"]
    opts += ["dataloader.test.mapper.augmentations.0.short_edge_length=64"]
    best = run_search(
        SearchOptions(
            str(EXAMPLES / "lazy_project.py"), "search", population=2, generations=1, confirm=0, threads=1, opts=opts
        )
    )
    assert outcomes("search") == [(FINISHED, "")] * 2 and best.mean >= 0


@pytest.mark.slow
def test_a_script_that_registers_trains_and_searches(own_data):
    search = '{"population": 2, "generations": 1, "confirm": 0, "threads": 1}'
    done = script("own_script.py", "search", MY_ITERATIONS="10", MY_SEARCH=search)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("AP ")
    assert outcomes("output/search") == [(FINISHED, "")] * 2
    assert yaml.safe_load(Path("output/own.yaml").read_text())["PROXY"]["TRAINER"] == "own_script:Trainer"
    assert load_loss("output/search/best.json")["dense"]


def test_fine_tuned_from_a_stock_checkpoint_then_drawn_and_served(own_data):
    cv2 = pytest.importorskip("cv2")
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    tune = example("fine_tune")
    stock = model_zoo.get_config(tune.STOCK)
    stock.merge_from_list(SMALL)
    weights = build_model(stock).state_dict()
    torch.save({"model": weights}, "stock.pth")
    tiny = [*SMALL, "MODEL.WEIGHTS", "stock.pth", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0", "OUTPUT_DIR", "out"]
    results = tune.main(tiny)
    assert results is None
    tuned = torch.load("out/model_final.pth", weights_only=False)["model"]
    assert torch.equal(tuned["head.bbox_pred.weight"], weights["head.bbox_pred.weight"])
    assert len(weights["head.cls_score.weight"]) == 720 and len(tuned["head.cls_score.weight"]) == 27

    serving = example("draw_and_serve")
    record = json.loads(Path("my_data/val.json").read_text())["images"][0]
    image = f"my_data/images/{record['file_name']}"
    found = serving.serve(serving.predictor("out"), cv2.imread(image), count=7)
    assert len(json.loads(json.dumps(found))) == 7
    assert [x["score"] for x in found] == sorted((x["score"] for x in found), reverse=True)
    serving.main("out", image, "drawn.png", 7)
    assert (cv2.imread("drawn.png") != cv2.imread(image)).any()
    assert serving.class_names("tune_val").thing_classes == ["circle", "square", "triangle"]
    register_coco_instances("gone_train", {}, "my_data/gone.json", "my_data/images")  # as where it is copied to
    for name in ("gone_train", "of_another_machine"):
        assert not serving.class_names(name).get("thing_classes")
    assert serving.class_names("coco_2017_train").thing_classes[0] == "person"


def test_torchvisions_retinanet_learns(own_data):
    from torchvision.models.detection import retinanet_resnet50_fpn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.retinanet import RetinaNet

    module = example("torchvision_detector")
    assert len((EXAMPLES / "torchvision_detector.py").read_text().splitlines()) <= 45
    assert retinanet_resnet50_fpn is module.retinanet_resnet50_fpn
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        norm_layer=torch.nn.BatchNorm2d,
        returned_layers=[3, 4],
    )
    anchors = AnchorGenerator(((32,), (64,), (96,)), ((0.5, 1.0, 2.0),) * 3)
    model = module.with_param_ap(RetinaNet(backbone, 3, anchor_generator=anchors, min_size=96, max_size=96))
    image = torch.zeros(3, 96, 96)
    image[:, 20:60, 30:80] = 1.0
    target = {"boxes": torch.tensor([[30.0, 20, 80, 60]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(20):
        found = model.train()([image], [target])
        assert set(found) == {"classification", "bbox_regression"}
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        losses.append(float(sum(v.detach() for v in found.values())))
    assert losses[-1] < 0.5 * losses[0]
    # Without an object the loss is 0 and connected to the graph.
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    assert sum(model([image], [empty]).values()).item() == 0


def test_a_classifier_with_few_positives_gains_average_precision(own_data):
    module = example("few_positives")
    scores, positive = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])
    assert module.average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert module.train(module.ranking, 0, steps=300) > 3 * 0.01  # by chance it is the share of positives


def test_each_example_is_in_the_page():
    page = (EXAMPLES.parent / "own_project.md").read_text()
    for file in EXAMPLES.iterdir():
        if file.suffix in (".py", ".yaml"):
            assert f"examples/{file.name}" in page
