import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import paramap_d2
from paramap_d2.cli import get_detectron2 as tool
from paramap_d2.modeling.transformers_adapter import TESTED

ROOT = Path(__file__).parents[1]


def test_one_version():
    assert f'version="{paramap_d2.__version__}"' in (ROOT / "setup.py").read_text()
    assert f"version: {paramap_d2.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {paramap_d2.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_transformers_are_those_that_are_checked_for():
    (wanted,) = re.findall(r'"transformers([^"]+)"', (ROOT / "setup.py").read_text())
    (low, high), specifier = TESTED, SpecifierSet(wanted)
    for version, fits in [
        (f"{low[0]}.{low[1]}", True),
        (f"{low[0]}.{low[1] - 1}.9", False),
        (f"{high[0]}.{high[1]}.3", True),
        (f"{high[0]}.{high[1] + 1}", False),
    ]:
        assert specifier.contains(version) == fits, version


def test_lock_meets_what_detectron2_and_the_package_require():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*,]+", str(requirement.specifier)) for requirement in pinned)
    versions = {canonicalize_name(r.name): str(r.specifier)[2:] for r in pinned}
    wanted = [*tool.REQUIRES, *(metadata.requires("paramap_d2") or [])]
    for requirement in map(Requirement, wanted):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What goes into a wheel, built where an earlier version left a file."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, checkout)
    for name in ("paramap_d2", "projects"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    library = checkout / "build" / "lib"
    (library / "paramap_d2").mkdir(parents=True)
    (library / "paramap_d2" / "of_an_earlier_version.py").touch()
    done = subprocess.run([sys.executable, "setup.py", "build_py"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if not path.name.startswith(".")}


def test_a_wheel_holds_the_package_and_the_project_and_nothing_else(built):
    expected = {f"paramap_d2/{name}": content for name, content in files_of(ROOT / "paramap_d2").items()}
    project = files_of(ROOT / "projects" / "ParamAP")
    del project["README.md"]
    expected |= {f"paramap_d2/project/{name}": content for name, content in project.items()}
    found = files_of(built)
    assert (sorted(expected.keys() - found), sorted(found.keys() - expected)) == ([], [])
    assert found == expected


def test_what_is_installed_finds_the_project_in_itself(built, tmp_path):
    code = "from paramap_d2.model_zoo import get_config_file as f; print(f('lazy/coco_fcos_R_50_FPN.py'))"
    environment = {**os.environ, "PYTHONPATH": str(built)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(built / "paramap_d2/project/configs/lazy/coco_fcos_R_50_FPN.py"), done.stderr
