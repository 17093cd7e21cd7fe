"""The project's config keys; configs of both kinds, read and checked."""

from .checks import ConfigError, check_config, check_data, detector_heads, num_classes
from .keys import add_paramap_config
from .yaml import merge_options, parse_config, read_config

__all__ = [
    "ConfigError",
    "add_paramap_config",
    "check_config",
    "check_data",
    "detector_heads",
    "merge_options",
    "num_classes",
    "parse_config",
    "read_config",
]
