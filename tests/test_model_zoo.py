from pathlib import Path

import pytest

from paramap_d2.errors import UserError
from paramap_d2.model_zoo import get_config_file, list_config_files, project_folder

ROOT = Path(__file__).parents[1]


def test_names_are_relative_to_configs():
    names = list_config_files()
    assert {"bccd_retinanet_R_18_FPN.yaml", "lazy/coco_fcos_R_50_FPN.py"} < set(names)
    for name in names:
        assert Path(get_config_file(name)) == ROOT / "projects" / "ParamAP" / "configs" / name
    assert Path(get_config_file("lazy/common/bccd.py")).is_file()
    assert (project_folder() / "train_net.py").is_file()


def test_near_names_are_told():
    with pytest.raises(UserError, match="R18.yaml'; near it are bccd_retinanet_R_18_FPN.yaml"):
        get_config_file("bccd_retinanet_R18.yaml")
    with pytest.raises(UserError, match="there are .*shapes_retinanet_R_18_FPN.yaml"):
        get_config_file("")
    with pytest.raises(UserError, match="no config 'lazy'"):
        get_config_file("lazy")
