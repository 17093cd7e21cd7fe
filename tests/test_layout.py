"""The layout: imports point one way, files are short, importing changes nothing for others, tests mirror the tree."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "paramap_d2"

# What each layer may import of the package, itself and the files beside the layers apart.
LAYERS = {
    "losses": set(),
    "config": {"losses", "data", "modeling"},
    "modeling": {"losses", "data", "config"},
    "data": {"losses"},
    "engine": {"losses", "data", "modeling", "config"},
    "search": {"losses", "data", "modeling", "config", "engine"},
    "cli": {"losses", "data", "modeling", "config", "engine", "search"},
}
BESIDE = {path.stem for path in PACKAGE.glob("*.py")} - {"__main__"}
"""What every layer may import, and which imports none."""


def name_of(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path, lazy=True):
    """The modules of the package that a file imports, inside functions and for types only too if ``lazy``."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:  # a module, or a name in one
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return {name for name in found if name.split(".")[0] == "paramap_d2"} - {name_of(path)}


def layer(module):
    return module.split(".")[1] if "." in module else "__init__"


def test_the_packages_are_those_of_the_design():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    mine = layer(module)
    allowed = {"__main__": {"cli"}, **{name: BESIDE for name in BESIDE}}.get(mine)
    for other in imports(MODULES[module]):
        assert other in MODULES, f"{module} imports {other}, which is not there"
        assert layer(other) in (allowed or {mine, *BESIDE} | LAYERS[mine]), f"{module} imports {other}"


def test_no_module_needs_itself():
    """As they are imported. (A cycle through an import inside a function or for types is a question of taste.)"""
    graph = {module: imports(path, lazy=False) for module, path in MODULES.items()}
    for module, needed in graph.items():
        # Importing a.b.c runs a and a.b first, but what they import again waits for nobody in them.
        needed.discard(module.rpartition(".")[0])
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_losses_know_torch_and_nothing_of_detectron2():
    code = "import sys, paramap_d2.losses; assert not {'detectron2', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", ["paramap_d2", "projects", "tools", "tests", "benchmarks", "docs"])
def test_no_file_is_long(folder):
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400}


def test_tests_mirror_the_package():
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert (PACKAGE / folder).is_dir() or (ROOT / folder).is_dir(), f"{path} tests nothing of that name"
    for package in (PACKAGE / name for name in LAYERS):
        assert list((ROOT / "tests" / package.name).rglob("test_*.py")), f"no test of {package.name}"


PROBE = """
import ast, builtins, importlib, logging, os, random, signal, sys, warnings
from pathlib import Path

modules = sys.argv[1:]
# First whatever they import at their tops, so that only what they do themselves is seen.
for module in modules:
    path = Path(*module.split(".")).with_suffix(".py")
    path = path if path.exists() else Path(*module.split("."), "__init__.py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            if name.split(".")[0] not in ("paramap_d2", "ray", "__future__"):
                try:
                    importlib.import_module(name)
                except ImportError:
                    pass
import torch, detectron2, matplotlib

WATCHED = ("torch", "torchvision", "detectron2", "fvcore", "iopath", "pycocotools", "numpy", "transformers", "timm",
           "faster_coco_eval", "deap", "matplotlib", "builtins", "os", "random", "warnings", "multiprocessing")


def attributes():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in WATCHED and module is not None:
            for key, value in list(vars(module).items()):
                if key in ("__warningregistry__", "__builtins__") or f"{name}.{key}" in sys.modules:
                    continue
                found[name, key] = value
                if isinstance(value, type) and value.__module__ == name:
                    found.update({(name, key, inner): kept for inner, kept in list(vars(value).items())})
    return found


def states():
    return {
        "dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "rng": torch.get_rng_state().tolist(),
        "random": random.getstate(), "filters": list(warnings.filters), "environ": dict(os.environ),
        "level": logging.getLogger().level, "handlers": list(logging.getLogger().handlers),
        "interrupt": signal.getsignal(signal.SIGINT), "rc": dict(matplotlib.rcParams),
    }


before, state = attributes(), states()
for module in modules:
    importlib.import_module(module)
after = attributes()
changed = sorted(".".join(key) for key in before if after.get(key, before) is not before[key])
changed += [name for name, value in states().items() if value != state[name]]
# torch's own caches, of compiled and of loaded parts
print("CHANGED", [name for name in changed if not name.split(".")[-1].startswith(("_cache", "__abc", "_abc"))])
print("WATCHED", len(before))
"""


def test_importing_changes_nothing_for_others():
    modules = [module for module in MODULES if not module.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", PROBE, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CHANGED []" in done.stdout, done.stdout
    assert int(done.stdout.split("WATCHED ")[1]) > 50_000
