import copy
import json
import logging
import os
import signal
from pathlib import Path

import pytest
import setuptools  # noqa: F401  before anything imports the standard distutils, which it would refuse to replace
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def this_checkout():
    """Scripts that tests start import what the tests import, whichever checkout is installed."""
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Ctrl-C as at a terminal: what a script starts in the background, tests too, is made to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def every_line_is_captured(monkeypatch):
    """Detectron2's setup_logger, of whichever test, keeps what it logs from caplog."""
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)


@pytest.fixture
def gpu():
    """The name of a GPU: of this machine's, or where there is none of one that is pretended."""
    import torch

    from tests.pretended_gpu import NAME, PretendedGPU

    if torch.cuda.is_available():
        yield "cuda"
    else:
        with PretendedGPU():
            yield NAME


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory):
    """`tiny_train` and `tiny_val`: eight and four images of `shapes`, also known to workers that are started later."""
    from detectron2.data import MetadataCatalog

    from paramap_d2.data import check_datasets
    from paramap_d2.data.coco import USER_DATASETS, register_from_file

    folder = tmp_path_factory.mktemp("tiny")
    check_datasets("shapes_train")
    whole = MetadataCatalog.get("shapes_train")
    with open(whole.json_file) as file:
        content = json.load(file)
    entries = {}
    for name, images in (("tiny_train", content["images"][:8]), ("tiny_val", content["images"][8:12])):
        part = copy.copy(content)
        ids = {image["id"] for image in images}
        part["images"] = images
        part["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        (folder / f"{name}.json").write_text(json.dumps(part))
        entries[name] = {"json_file": f"{name}.json", "image_root": os.path.abspath(whole.image_root)}
    path = folder / "datasets.json"
    path.write_text(json.dumps(entries))
    before = os.environ.get(USER_DATASETS)
    os.environ[USER_DATASETS] = str(path)
    register_from_file(path)
    yield ["DATASETS.TRAIN", "('tiny_train',)", "DATASETS.TEST", "('tiny_val',)", "MODEL.PARAM_AP.CALIBRATE_ON", ""]
    if before is None:
        del os.environ[USER_DATASETS]
    else:
        os.environ[USER_DATASETS] = before


@pytest.fixture
def tiny(tiny_datasets):
    """Options that make a training of any of the small configs take seconds."""
    size = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2"]
    return [*tiny_datasets, *size, "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0"]


@pytest.fixture
def lazy_tiny(tiny_datasets):
    """Options that make a training of any of the small LazyConfigs take seconds."""
    train, test = "dataloader.train", "dataloader.test"
    data = [f"{train}.dataset.names=tiny_train", f"{test}.dataset.names=tiny_val", f"{train}.total_batch_size=2"]
    edge = "mapper.augmentations.0.short_edge_length"
    short = ["train.max_iter=2", "lr_multiplier.warmup_iters=0", "train.calibrate_on=", "train.device=cpu"]
    return [*data, f"{train}.{edge}=[64]", f"{test}.{edge}=64", *short]
