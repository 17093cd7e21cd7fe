import re
from importlib import metadata
from pathlib import Path

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
