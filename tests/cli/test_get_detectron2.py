import base64
import csv
import errno
import hashlib
import importlib
import io
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from unittest import mock

import pip
import pytest

from paramap_d2.cli import get_detectron2 as tool
from paramap_d2.cli import run

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee00" * 5

# A carrier wheel as published, and what has to come out of it.
CARRIED = {
    "Carrier/__init__.py": "import Carrier.detectron2\n",
    "Carrier/detectron2/__init__.py": '__version__ = "0.6"\n',
    "Carrier/detectron2/layers/__init__.py": "from Carrier.detectron2 import __version__ as seen\n",
    "Carrier/detectron2/model_zoo/configs/a.yaml": "_BASE_: Carrier.detectron2\n",
    "Carrier/detectron2_other/__init__.py": "raise AssertionError\n",
}
WANTED = {
    "detectron2/__init__.py": b'__version__ = "0.6"\n',
    "detectron2/layers/__init__.py": b"from detectron2 import __version__ as seen\n",
    "detectron2/model_zoo/configs/a.yaml": b"_BASE_: Carrier.detectron2\n",
}


def slow_digest(files):
    """The digest as the shell would make it: sha256sum of every file, sort by path, sha256sum."""
    listing = b""
    for path in sorted(files, key=lambda p: p.encode()):
        listing += hashlib.sha256(files[path]).hexdigest().encode() + b"  " + path.encode() + b"\n"
    return hashlib.sha256(listing).hexdigest()


def carrier(folder, project="Carrier", version="1.0"):
    """Write a carrier wheel into ``folder`` and return it with its true pins."""
    path = folder / f"{project.lower()}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Carrier/detectron2/", "")
        for name, text in CARRIED.items():
            archive.writestr(name, text)
        info = f"{project.lower()}-{version}.dist-info"
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\nRequires-Python: >=3.9,<3.11\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    wheel_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, tool.Source(project, version, "Carrier", wheel_sha256, COMMIT, len(WANTED), slow_digest(WANTED))


def with_pins(source, **pins):
    return tool.Source(**{**source.__dict__, **pins})


@pytest.fixture
def absent(monkeypatch):
    """As in an interpreter without Detectron2, whatever this one has."""
    monkeypatch.setattr(tool, "find_installed", lambda: None)


@pytest.fixture
def no_install(monkeypatch):
    """The test fails when anything comes to be installed."""

    def install(source, wheel):
        raise AssertionError("came to install")

    monkeypatch.setattr(tool, "install", install)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for the tool's temporary files, which it has to leave empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tool.tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """A site-packages folder of the test's own, with another distribution in it."""
    folder = tmp_path / "site-packages"
    (folder / "fvcore").mkdir(parents=True)
    monkeypatch.setattr(tool.sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setattr(tool.site, "getusersitepackages", lambda: str(tmp_path / "user-site"))
    return folder


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """Make a given text the detectron2 that this interpreter finds; forget it afterwards."""
    package = tmp_path / "path" / "detectron2"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    with mock.patch.dict(sys.modules):
        for name in [n for n in sys.modules if n.split(".")[0] == "detectron2"]:
            del sys.modules[name]

        def write(text):
            (package / "__init__.py").write_text(text)
            importlib.invalidate_caches()
            return package

        yield write


def one_line(capsys):
    """The single line of stderr; stdout has to be empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert captured.err.startswith(("error: ", "interrupted; "))
    return captured.err


def test_digest_is_the_one_of_the_design():
    # printf 'b' | sha256sum etc.: sorted by path, not by hash or by insertion
    files = {"detectron2/b.py": b"b", "detectron2/a/c.py": b"a"}
    lines = (
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  detectron2/a/c.py\n"
        "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  detectron2/b.py\n"
    )
    assert tool.tree_digest(files) == hashlib.sha256(lines.encode()).hexdigest() == slow_digest(files)


def test_prefix_goes_back_in_python_files_only(tmp_path):
    path, source = carrier(tmp_path)
    assert tool.read_detectron2(source, path) == WANTED


def test_wrong_wheel_is_refused(tmp_path, monkeypatch, capsys, absent, no_install, temporary):
    path, source = carrier(tmp_path)
    monkeypatch.setattr(tool, "SOURCES", (with_pins(source, wheel_sha256="0" * 64),))
    assert run("get-detectron2", ["--from", str(path)]) == 1
    message = one_line(capsys)
    assert source.wheel_sha256 in message and "0" * 64 in message and path.name in message


def test_wheel_cut_short_is_refused(tmp_path, monkeypatch, capsys, absent, no_install, temporary):
    path, source = carrier(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.setattr(tool, "SOURCES", (source,))
    assert run("get-detectron2", ["--from", str(path)]) == 1
    assert "sha256" in one_line(capsys)


@pytest.mark.parametrize("pins", [{"digest": "f" * 64}, {"count": len(WANTED) + 1}])
def test_wrong_files_are_refused(tmp_path, monkeypatch, capsys, absent, no_install, temporary, pins):
    path, source = carrier(tmp_path)
    monkeypatch.setattr(tool, "SOURCES", (with_pins(source, **pins),))
    assert run("get-detectron2", ["--from", str(tmp_path)]) == 1
    assert "digest" in one_line(capsys)


@pytest.mark.parametrize("name", ["missing", "empty", "other-1.0-py3-none-any.whl"])
def test_from_names_what_is_wrong(tmp_path, capsys, absent, no_install, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other-1.0-py3-none-any.whl").write_bytes(b"")
    assert run("get-detectron2", ["--from", str(tmp_path / name)]) == 2
    assert f"--from {tmp_path / name}" in one_line(capsys)


def test_second_source_is_used_when_the_first_cannot_be_fetched(tmp_path, monkeypatch, absent, temporary):
    shop = tmp_path / "shop"
    shop.mkdir()
    _, source = carrier(shop, project="Second")
    first = with_pins(source, project="First")
    monkeypatch.setattr(tool, "SOURCES", (first, source))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    installed = []
    monkeypatch.setattr(tool, "install", lambda source, wheel: installed.append((source, wheel.name)))
    # pip itself runs: the wheel's Requires-Python (below 3.11) must not stop it.
    assert "0.6+c0ffee00 (3 files" in tool.get_detectron2()
    assert installed == [(source, "detectron2-0.6+c0ffee00-py3-none-any.whl")]


def test_no_network_is_one_line_with_every_reason(monkeypatch, capsys, absent, no_install, temporary):
    asked = []

    def run_pip(*arguments):
        asked.append(arguments[-1])
        return "Connection refused"

    monkeypatch.setattr(tool, "run_pip", run_pip)
    assert run("get-detectron2", []) == 1
    message = one_line(capsys)
    assert asked == ["EZannot==1.1.0", "LabGym==3.1.2"]
    assert all(f"{name}: Connection refused" in message for name in asked) and "--from" in message


def test_full_disk_while_downloading_asks_no_second_source(monkeypatch, capsys, absent, no_install, temporary):
    asked = []

    def run_pip(*arguments):
        asked.append(arguments[-1])
        return "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"

    monkeypatch.setattr(tool, "run_pip", run_pip)
    assert run("get-detectron2", []) == 1
    assert "no space left" in one_line(capsys)
    assert asked == ["EZannot==1.1.0"]


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "Permission denied")])
def test_system_errors_are_one_line(tmp_path, monkeypatch, capsys, absent, no_install, temporary, number, says):
    path, source = carrier(tmp_path)
    monkeypatch.setattr(tool, "SOURCES", (source,))

    def build_wheel(source, files, folder):
        (folder / "half").write_bytes(b"half")
        raise OSError(number, os.strerror(number), "some.whl")

    monkeypatch.setattr(tool, "build_wheel", build_wheel)
    assert run("get-detectron2", ["--from", str(path)]) == 1
    message = one_line(capsys)
    assert says in message and "some.whl" in message and "not installed" in message


@pytest.mark.parametrize("end", ["fails", "is interrupted"])
def test_what_pip_left_behind_is_removed(tmp_path, monkeypatch, capsys, absent, temporary, site_packages, end):
    path, source = carrier(tmp_path)
    monkeypatch.setattr(tool, "SOURCES", (source,))

    def run_pip(*arguments):
        assert arguments[0] == "install"
        for name in ("detectron2/layers", "detectron2-0.6+c0ffee00.dist-info"):
            (site_packages / name).mkdir(parents=True)
            (site_packages / name / "half.py").write_text("half")
        if end == "is interrupted":
            raise KeyboardInterrupt
        return "[Errno 28] No space left on device"

    monkeypatch.setattr(tool, "run_pip", run_pip)
    assert run("get-detectron2", ["--from", str(path)]) == (1 if end == "fails" else 130)
    message = one_line(capsys)
    assert "No space left" in message if end == "fails" else "interrupted" in message
    assert [p.name for p in site_packages.iterdir()] == ["fvcore"]


def test_what_was_there_before_a_failed_installation_stays(tmp_path, monkeypatch, site_packages):
    (site_packages / "detectron2").mkdir()
    path, source = carrier(tmp_path)
    monkeypatch.setattr(tool, "run_pip", lambda *arguments: "Permission denied")
    with pytest.raises(tool.SetupError, match="Permission denied"):
        tool.install(source, path)
    assert (site_packages / "detectron2").is_dir()


def test_pip_that_cannot_run_or_find_is_reported(tmp_path, monkeypatch):
    problem = tool.run_pip("download", "--no-index", "--dest", str(tmp_path), "no-such-distribution==1")
    assert problem.startswith("Could not find a version")
    monkeypatch.setattr(tool.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError):
        tool.run_pip("--version")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'Refused': /x/\nERROR: none found",
            "'Refused': /x/",
        ),
        ("ERROR: first\nERROR: second", "first"),
        ("/usr/bin/python3: No module named pip", "/usr/bin/python3: No module named pip"),
        ("", "pip ended with exit code 3"),
    ],
)
def test_the_telling_line_of_pip(monkeypatch, output, says):
    done = subprocess.CompletedProcess([], 3, stdout="", stderr=output)
    monkeypatch.setattr(tool.subprocess, "run", lambda *arguments, **options: done)
    assert tool.run_pip("install") == says


def test_detectron2_that_imports_is_left_alone(monkeypatch, capsys, importable, no_install):
    package = importable('__version__ = "0.6-own"\n')
    monkeypatch.setattr(tool, "fetch", lambda folder: pytest.fail("came to download"))
    monkeypatch.setattr(tool.metadata, "version", mock.Mock(side_effect=metadata.PackageNotFoundError))
    assert run("get-detectron2", []) == 0
    assert capsys.readouterr().out == f"Detectron2 0.6-own at {package} is used as it is\n"


def test_detectron2_that_does_not_import_is_left_alone_and_named(capsys, importable, no_install):
    package = importable("raise OSError('libtorch.so:\\n undefined symbol')\n")
    before = sorted(package.parent.rglob("*.py"))
    assert run("get-detectron2", []) == 1
    message = one_line(capsys)
    assert str(package) in message and "undefined symbol" in message and "pip uninstall" in message
    assert sorted(package.parent.rglob("*.py")) == before


def test_bare_folder_is_no_detectron2(monkeypatch, importable):
    package = importable("")
    (package / "__init__.py").unlink()
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    assert tool.find_installed() is None


def test_built_wheel_is_in_order(tmp_path):
    _, source = carrier(tmp_path)
    wheels = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        wheels.append(tool.build_wheel(source, WANTED, tmp_path / name))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as archive:
        names = archive.namelist()
        rows = {r[0]: r[1:] for r in csv.reader(io.TextIOWrapper(archive.open(names[-1])))}
        assert set(rows) == set(names) and names[-1].endswith(".dist-info/RECORD")
        assert set(WANTED) < set(names)
        for name in names[:-1]:
            data = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert rows[name] == [f"sha256={digest}", str(len(data))]
        described = archive.read("detectron2-0.6+c0ffee00.dist-info/METADATA").decode()
    assert "License: Apache-2.0\n" in described and COMMIT in described
    assert "Requires-Dist: setuptools<81\n" in described


def test_install_and_uninstall_for_real(tmp_path):
    """A new environment: install, leave alone at the second call, uninstall without a trace."""
    shop = tmp_path / "shop"
    shop.mkdir()
    path, source = carrier(shop)
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "pip").symlink_to(Path(pip.__file__).parent)  # quicker than ensurepip
    before = sorted(packages.iterdir())

    def python_run(*arguments):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
        return subprocess.run(
            [python, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    script = tmp_path / "with_test_pins.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from paramap_d2.cli import get_detectron2 as tool, run\n"
        f"tool.SOURCES = (tool.{source!r},)\nsys.exit(run('get-detectron2'))\n"
    )
    first = python_run(script, "--from", shop)
    assert (first.returncode, first.stderr) == (0, "")
    assert "installed Detectron2 0.6+c0ffee00" in first.stdout and "still needs: torch" in first.stdout
    assert python_run("-c", "from detectron2.layers import seen; print(seen)").stdout == "0.6\n"
    assert "detectron2==0.6+c0ffee00" in python_run("-m", "pip", "freeze").stdout.split()

    second = python_run(script, "--from", tmp_path / "nowhere")
    assert second.returncode == 0
    assert second.stdout == f"Detectron2 0.6+c0ffee00 at {packages / 'detectron2'} is used as it is\n"

    assert python_run("-m", "pip", "uninstall", "--yes", "detectron2").returncode == 0
    assert sorted(packages.iterdir()) == before


def test_what_the_tool_installed_here_is_what_is_pinned():
    """The true pins against the true files, where this environment's Detectron2 came from the tool."""
    try:
        distribution = metadata.distribution("detectron2")
    except metadata.PackageNotFoundError:
        pytest.skip("Detectron2 is here without having been installed")
    sources = {source.detectron2_version: source for source in tool.SOURCES}
    if distribution.version not in sources:
        pytest.skip(f"a Detectron2 of the user's own: {distribution.version}")
    files = {
        str(path): path.locate().read_bytes()
        for path in distribution.files
        if path.parts[0] == "detectron2" and path.suffix != ".pyc"
    }
    source = sources[distribution.version]
    assert (len(files), slow_digest(files)) == (source.count, source.digest)
