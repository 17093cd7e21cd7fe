"""Proxies and searches of a LazyConfig: as of a YAML config."""

import pickle
from pathlib import Path

import pytest
from detectron2.engine import HookBase

from paramap_d2.config import read_config
from paramap_d2.engine import Trainer
from paramap_d2.errors import UserError
from paramap_d2.losses import load_loss, save_loss
from paramap_d2.search.proxies.config import LazyProxyConfig, YamlProxyConfig, read_proxy_config
from paramap_d2.search.session import SearchOptions, run_search
from paramap_d2.search.store import Store

CONFIGS = Path(__file__).parents[2] / "projects" / "ParamAP" / "configs"
RETINANET = CONFIGS / "lazy" / "shapes_retinanet_R_18_FPN.py"
FASTER = CONFIGS / "lazy" / "shapes_faster_rcnn_R_18_FPN.py"


def test_proxies_of_both_kinds_of_config(tiny, lazy_tiny):
    yaml = read_proxy_config(CONFIGS / "shapes_faster_rcnn_R_18_FPN.yaml", tiny)
    lazy = read_proxy_config(FASTER, lazy_tiny)
    assert isinstance(yaml, YamlProxyConfig) and isinstance(lazy, LazyProxyConfig)
    assert yaml.heads == lazy.heads == ("rpn", "roi") and yaml.loss == lazy.loss == "fasterrcnn-coco"
    assert yaml.settings["SOLVER.MAX_ITER"] == lazy.settings["train.max_iter"] == "2"
    assert not {"OUTPUT_DIR", "SEED", "MODEL.PARAM_AP.LOSS", "PROXY.OPTS"} & set(yaml.settings)
    assert not {"train.output_dir", "train.seed", "param_ap.loss"} & set(lazy.settings)
    # Without a word of the command line, the proxy's own options hold.
    assert read_proxy_config(FASTER, []).settings["train.max_iter"] == "60"
    assert read_proxy_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml").settings["SOLVER.MAX_ITER"] == "80"


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
def test_proxies_detect_in_batches_and_find_what_stock_evaluation_finds(lazy, tiny, lazy_tiny, tmp_path):
    config = (
        read_proxy_config(RETINANET, lazy_tiny)
        if lazy
        else read_proxy_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml", tiny)
    )
    sizes, stock = [], {}

    def watch(evaluate):
        class Look(HookBase):
            def start(self, trainer, in_process):
                return 0

            def after_train(self):
                model = self.trainer.model
                cfg = read_config(CONFIGS / "shapes_retinanet_R_18_FPN.yaml", tiny)
                stock.update(Trainer.test(cfg, model)["bbox"])
                detect = model.forward
                model.forward = lambda inputs: sizes.append(len(inputs)) or detect(inputs)

        return Look()

    save_loss(tmp_path / "loss.json", load_loss("retinanet-coco"))
    results = config.train(tmp_path / "loss.json", tmp_path, 0, watch, 12)
    assert sizes == [2, 2]  # four images
    assert stock["AP"] > 0 and results["bbox"] == pytest.approx(stock, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    "file, opts, message",
    [
        ("nowhere.py", [], "config file nowhere.py does not exist"),
        (RETINANET, ["train.max_iters=5"], "did you mean train.max_iter"),
        (
            RETINANET,
            ["model._target_=detectron2.modeling.RetinaNet"],
            "trains .*RetinaNet, which has no Parameterized AP",
        ),
        (RETINANET, ["+proxy.opts=[nonsense]"], "'nonsense' is not of the form key=value"),
    ],
)
def test_a_lazy_search_that_cannot_start_says_so(tmp_path, file, opts, message):
    with pytest.raises(UserError, match=message) as raised:
        run_search(SearchOptions(str(file), str(tmp_path / "out"), opts=opts))
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_lazy_search_in_workers_ends_as_one_of_its_yaml_config(tmp_path, tiny, lazy_tiny):
    def fitnesses(name, config, opts, **more):
        options = {"population": 2, "generations": 1, "seed": 3, **more}
        best = run_search(SearchOptions(str(config), str(tmp_path / name), opts=opts, **options))
        with Store(tmp_path / name / "search.db", readonly=True) as store:
            found = sorted(store.evaluations(), key=lambda e: e.position)
        assert [(e.status, e.iterations, e.error) for e in found] == [("finished", 2, "")] * 2
        assert best is not None and not list((tmp_path / name).rglob("*.pth"))
        return [e.fitness for e in found], [e.genome for e in found]

    # Both in workers: threads share sums out, and AP turns the last bit of a score into more.
    lazy = fitnesses("lazy", RETINANET, lazy_tiny, workers=2)
    yaml = fitnesses("yaml", CONFIGS / "shapes_retinanet_R_18_FPN.yaml", tiny, workers=2)
    assert lazy[1] == yaml[1]
    # AP of a hardly trained detector: the last bit of a score can swap two detections.
    assert lazy[0] == pytest.approx(yaml[0], abs=0.01)
    report = (tmp_path / "lazy" / "report.html").read_text()
    assert "paramap train-lazy" in report and "model.param_ap.loss=" in report


def test_a_lambda_in_a_config_reaches_the_proxy(tmp_path, lazy_tiny):
    path = tmp_path / "config.py"
    path.write_text(
        f"from detectron2.config import LazyConfig\n_whole = LazyConfig.load({str(RETINANET)!r})\n"
        "model, optimizer, lr_multiplier = _whole.model, _whole.optimizer, _whole.lr_multiplier\n"
        "dataloader, train = _whole.dataloader, _whole.train\n"
        "optimizer.params.lr_factor_func = lambda name: 0.5 if 'backbone' in name else 1.0\n"
    )
    config = pickle.loads(pickle.dumps(read_proxy_config(path, lazy_tiny)))
    cfg = pickle.loads(config.pickled)
    assert cfg.optimizer.params.lr_factor_func("backbone.x") == 0.5
    assert config.settings == read_proxy_config(path, lazy_tiny).settings
