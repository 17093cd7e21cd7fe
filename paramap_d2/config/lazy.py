"""LazyConfigs: read with errors that a user can act on, and asked about the detector that they train."""

from __future__ import annotations

import builtins
import contextlib
import copy
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paramap_d2.losses import HEADS

from .stock_keys import ConfigError, did_you_mean

REQUIRED = ("model", "optimizer", "lr_multiplier", "dataloader.train", "train.max_iter")
"""What a config that can be trained defines; ``dataloader.test`` and ``dataloader.evaluator`` where it is evaluated."""

DEFAULTS = {
    "train": {
        "output_dir": "./output",
        "init_checkpoint": "",
        "seed": -1,  # a random one
        "device": "cuda",
        "amp": {"enabled": False},
        "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
        "checkpointer": {"period": 5000, "max_to_keep": 100},
        "eval_period": 5000,
        "log_period": 20,
        "check_images": True,  # see INPUT.CHECK_IMAGES in paramap_d2/config/keys.py
        "fast_cpu": False,  # see paramap_d2.engine.cpu_speed
        "end_loss": "",  # as MODEL.PARAM_AP.END_LOSS
        "end_loss_from": 0.5,
        "calibrate_on": "",  # a data set, as MODEL.PARAM_AP.CALIBRATE_ON
    },
    # What a search changes in this config for its short trainings: key=value, as on a command line.
    "proxy": {"opts": []},
}
"""What a config need not say: Detectron2's own values (its ``common/train.py``)."""


def read_lazy_config(config_file: str | os.PathLike[str], opts: Sequence[str] = ()) -> DictConfig:
    """A LazyConfig with what it leaves out, from its file and ``key=value`` options.

    Raises:
        ConfigError: no such file, one that cannot be executed, a part missing, an option that does not fit.
    """
    path = os.fspath(config_file)
    loaded = execute(path)
    cfg = DictConfig(DEFAULTS, flags={"allow_objects": True})
    if not _cuda():  # as for YAML configs
        cfg.train.device = "cpu"
        if OmegaConf.select(loaded, "train.device") == "cuda":
            del loaded.train.device
    cfg.merge_with(loaded)
    for key in REQUIRED:
        if OmegaConf.select(cfg, key) is None:
            other = "; other configs in YAML are for train_net.py (paramap train)" if not path.endswith(".py") else ""
            raise ConfigError(
                f"config file {path} defines no {key}; a LazyConfig to train has {', '.join(REQUIRED)}{other}"
            )
    apply_options(cfg, opts)
    for key in REQUIRED:
        with contextlib.suppress(OmegaConfBaseException):  # a reference to nothing, which is told with its key later
            if OmegaConf.select(cfg, key) is None:
                raise ConfigError(f"the options leave the config without {key}, which a training needs")
    return cfg


_executed: dict[str, tuple[dict[str, int], DictConfig]] = {}


def execute(config_file: str | os.PathLike[str]) -> DictConfig:
    """What a config file defines. It is executed once a process, for it may register data sets, which can be done but
    once; again where a Python file in its folder or a folder of that has changed.

    Raises:
        ConfigError: no such file, or one that cannot be executed.
    """
    path = os.fspath(config_file)
    if not os.path.isfile(path):
        raise ConfigError(f"config file {path} does not exist")
    file = Path(path).resolve()
    files = [file, *file.parent.glob("*.py"), *file.parent.glob("*/*.py")]
    state = {str(p): p.stat().st_mtime_ns for p in files}
    if str(file) not in _executed or _executed[str(file)][0] != state:
        importer = builtins.__import__
        try:
            loaded = LazyConfig.load(path)
        except Exception as error:  # a config is a program: anything
            raise ConfigError(f"config file {path}{_where(error, path)}: {_what(error)}") from None
        finally:
            builtins.__import__ = importer  # Detectron2 leaves its own behind when a config fails
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f"config file {path} holds no config")
        _executed[str(file)] = state, loaded
    return copy.deepcopy(_executed[str(file)][1])


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _what(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        error = error.__cause__ or error
        text = f"{error.msg}, line {error.lineno}" if error.lineno else str(error)
    else:
        text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(error: Exception, path: str) -> str:
    """The last line of a config file that the error came through."""
    folder = os.path.dirname(os.path.abspath(path))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f for f in frames if os.path.abspath(f.filename).startswith(folder) and "site-packages" not in f.filename]
    if not lines:
        return ""
    inside = "" if os.path.samefile(lines[-1].filename, path) else f" of {os.path.relpath(lines[-1].filename, folder)}"
    return f", line {lines[-1].lineno}{inside}"


def apply_options(cfg: DictConfig, opts: Sequence[str]) -> None:
    """Apply ``key=value`` options in Hydra's grammar; ``+key=value`` adds a key that the config does not have.

    A key may lead through a reference (``${…}``); what changes is what it refers to.

    Raises:
        ConfigError: names the option.
    """
    parser = OverridesParser.create()
    for option in opts:
        try:
            (parsed,) = parser.parse_overrides([option])
            key, value = parsed.key_or_group, parsed.value()
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"config option {option!r} is not of the form key=value ({reason})") from None
        if parsed.is_delete():
            raise ConfigError(f"config option {option!r}: keys of a config cannot be deleted")
        parent, _, name = key.rpartition(".")
        try:
            node = OmegaConf.select(cfg, parent) if parent else cfg
            known = isinstance(node, ListConfig) and name.isdigit() and int(name) < len(node)
            known = known or (isinstance(node, DictConfig) and name in node)
            if not known and not (parsed.is_add() and isinstance(node, DictConfig)):
                hint = f"{did_you_mean(key, _keys(cfg))} (+{key}=… adds it)"
                raise ConfigError(f"config option {option!r}: the config has no {key}{hint}")
            name = int(name) if isinstance(node, ListConfig) else name
            before = node[name] if known else None
            if isinstance(before, int | float) and isinstance(value, str) and "${" not in value:
                raise ConfigError(f"config option {option!r}: {key} is {before} and cannot become the word {value!r}")
            if isinstance(before, DictConfig) and isinstance(value, int | float | str) and "${" not in str(value):
                raise ConfigError(f"config option {option!r}: {key} has parts, such as {key}.{next(iter(before), '…')}")
            OmegaConf.update(cfg, node._get_full_key(name), value, merge=True, force_add=parsed.is_add())
        except OmegaConfBaseException as error:
            raise ConfigError(f"config option {option!r}: {str(error).splitlines()[0]}") from None


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig | ListConfig):
        for name in node if isinstance(node, DictConfig) else range(len(node)):
            key = f"{prefix}{name}"
            yield key
            if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
                yield from _keys(node[name], f"{key}.")


def calls_of(node: Any) -> Iterator[DictConfig]:
    """Every LazyCall in a config."""
    if isinstance(node, DictConfig | ListConfig):
        if isinstance(node, DictConfig) and "_target_" in node:
            yield node
        for name in node if isinstance(node, DictConfig) else range(len(node)):
            if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
                yield from calls_of(node[name])


def target(call: DictConfig) -> Callable[..., Any]:
    """What a LazyCall calls: it is there itself, or by its name after a config was saved as YAML."""
    return locate(call._target_) if isinstance(call._target_, str) else call._target_


def losses_of(cfg: DictConfig) -> dict[str, list[DictConfig]]:
    """The ``param_ap`` arguments in the config's model, by the head that they are for."""
    from paramap_d2 import modeling

    heads = {
        "dense": (modeling.ParamAPRetinaNet, modeling.ParamAPFCOS),
        "rpn": (modeling.ParamAPRPN,),
        "roi": (modeling.ParamAPFastRCNNOutputLayers,),
        "detr": (modeling.ParamAPCriterion,),
    }
    found: dict[str, list[DictConfig]] = {}
    for call in calls_of(cfg.model):
        kind = target(call)
        for head in HEADS:
            if isinstance(kind, type) and issubclass(kind, heads[head]):
                options = call.get("param_ap")
                if not isinstance(options, DictConfig) or "loss" not in options:
                    raise ConfigError(f"{kind.__name__} in the config's model needs param_ap=dict(loss=…)")
                found.setdefault(head, []).append(options)
    return {head: found[head] for head in HEADS if head in found}


def detector_heads(cfg: DictConfig) -> tuple[str, ...]:
    """The heads of a loss file that the config's detector trains with; none for a detector with other losses."""
    return tuple(losses_of(cfg))


def loss_keys(cfg: DictConfig) -> list[str]:
    """The keys that say which loss the detector trains with, such as ``model.param_ap.loss``."""
    return sorted({options._get_full_key("loss") for of_head in losses_of(cfg).values() for options in of_head})


def set_loss(cfg: DictConfig, loss: str) -> None:
    """Make the detector train with this preset or loss file, all of its heads."""
    for of_head in losses_of(cfg).values():
        for options in of_head:
            options.loss = loss


def dataset_names(cfg: DictConfig, splits: Sequence[str] = ("train", "test")) -> list[str]:
    """The data sets that the config trains and tests on; none where it has loaders of the user's own."""
    found: list[str] = []
    for split in splits:
        names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
        found += [] if names is None else [names] if isinstance(names, str) else list(names)
    return list(dict.fromkeys(found))


def num_classes(cfg: DictConfig) -> tuple[str, int] | None:
    """The key that says how many classes the config's detector tells apart, and their number; None where it is not
    known here."""
    keys = "model.num_classes", "model.roi_heads.num_classes"
    return next(((key, number) for key in keys if (number := OmegaConf.select(cfg, key)) is not None), None)


def without_backbone_weights(model: DictConfig) -> DictConfig:
    """The same model with a backbone that begins with random values: a checkpoint of the detector holds its weights,
    and what it once began with need not be there."""
    from paramap_d2.modeling.timm_backbone import TimmBackbone

    model = copy.deepcopy(model)
    for call in calls_of(model):
        if target(call) is TimmBackbone:
            call.weights = ""
    return model


def own_backbone_weights(model: DictConfig) -> str:
    """The key of a timm backbone's own weights and what it says, empty where it has none."""
    from paramap_d2.modeling.timm_backbone import TimmBackbone

    calls = [call for call in calls_of(model) if target(call) is TimmBackbone and call.get("weights")]
    return f"{calls[0]._get_full_key('weights')}={calls[0].weights}" if calls else ""


def test_loader_of(cfg: DictConfig, name: str) -> DictConfig:
    """The config's test loader with another data set in the place of its own, to be instantiated.

    Raises:
        ConfigError: the loader is a user's own, and names no data set.
    """
    cfg = copy.deepcopy(cfg)  # whole: the loader may refer to other parts
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset")
    if not isinstance(dataset, DictConfig) or "names" not in dataset:
        raise ConfigError(
            f"the config's dataloader.test has no dataset.names to put {name} into, so that no detector can be "
            f"calibrated on it"
        )
    dataset.names = name
    return cfg.dataloader.test


def settings(cfg: DictConfig) -> dict[str, str]:
    """``{"train.max_iter": "100", …}``: every value of the config as text that is the same whenever it is read."""
    flat: dict[str, str] = {}

    def visit(node: Any, key: str) -> None:
        if isinstance(node, DictConfig | ListConfig):
            for name in node if isinstance(node, DictConfig) else range(len(node)):
                raw = node._get_node(name)
                visit(
                    node[name] if isinstance(raw, DictConfig | ListConfig) else raw._value(),
                    f"{key}.{name}" if key else str(name),
                )
        elif callable(node):
            flat[key] = f"{getattr(node, '__module__', '')}.{getattr(node, '__qualname__', type(node).__name__)}"
        else:
            flat[key] = str(node)

    visit(cfg, "")
    return flat
