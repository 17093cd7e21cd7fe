"""The project's config keys; configs of both kinds, read and checked."""

from .checks import check_config, check_data, detector_heads, num_classes, warn_if_trained_on
from .keys import add_paramap_config
from .stock_keys import ConfigError, check_gpus
from .yaml import merge_options, parse_config, read_config

__all__ = [
    "ConfigError",
    "add_paramap_config",
    "check_config",
    "check_data",
    "check_gpus",
    "detector_heads",
    "merge_options",
    "num_classes",
    "parse_config",
    "read_config",
    "warn_if_trained_on",
]
