"""projects/ParamAP/train_net.py as its users call it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "projects" / "ParamAP" / "train_net.py"
CONFIGS = ROOT / "projects" / "ParamAP" / "configs"


def train(*args, code=0):
    done = subprocess.run(
        [sys.executable, str(TRAIN), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


@pytest.mark.slow
def test_train_resume_and_eval_only(tmp_path, tiny):
    start = ["--config-file", CONFIGS / "shapes_retinanet_R_18_FPN.yaml"]
    out = ["OUTPUT_DIR", tmp_path / "out"]
    train(*start, *tiny, *out)
    assert list(losses(tmp_path / "out")) == [1]
    train(*start, "--resume", *tiny, *out, "SOLVER.MAX_ITER", 4)
    assert list(losses(tmp_path / "out")) == [1, 3]
    weights = tmp_path / "out" / "model_final.pth"
    done = train(*start, "--eval-only", *tiny, "OUTPUT_DIR", tmp_path / "eval", "MODEL.WEIGHTS", weights)
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in done.stdout + done.stderr
    assert not (tmp_path / "eval" / "model_final.pth").exists()
    other = ["--eval-only", *tiny, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", tmp_path / "x"]
    for processes in (1, 2):
        done = train(*start, "--num-gpus", processes, *other, code=2)
        assert "error: the weights" in done.stderr and "model_final.pth are not this config's: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_ranks(tmp_path, tiny):
    # gloo: Detectron2's own wraps a model for the rank's GPU.
    code = f"""
import os
import sys
sys.path.insert(0, {str(TRAIN.parent)!r})

import functools
import torch.multiprocessing as mp
import train_net
from detectron2.engine import defaults
from detectron2.engine import default_argument_parser

def rank(r, args):
    import detectron2.utils.comm as comm
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method="file://{tmp_path}/rendezvous", world_size=2, rank=r)
    comm.create_local_process_group(2)
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)  # no GPU to name
    train_net.main(args)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # the interpreter's own end now and then finds threads of gloo, and aborts

if __name__ == "__main__":
    args = default_argument_parser().parse_args(sys.argv[1:])
    mp.start_processes(rank, (args,), nprocs=2, start_method="spawn")
"""
    script = tmp_path / "ranks.py"
    script.write_text(code)
    opts = ["--config-file", CONFIGS / "shapes_retinanet_R_18_FPN.yaml", *tiny, "OUTPUT_DIR", tmp_path / "out"]
    opts += ["MODEL.PARAM_AP.END_LOSS", "linear"]  # which either rank changes to
    done = subprocess.run(
        [sys.executable, str(script), *map(str, opts)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.isfinite(torch.tensor(list(losses(tmp_path / "out").values()))).all()
    changes = [(tmp_path / "out" / log).read_text().count("loss is linear") for log in ("log.txt", "log.txt.rank1")]
    assert changes[0] == changes[1] > 0 and (tmp_path / "out" / "end_loss.json").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--config-file", "nowhere.yaml"], "error: config file nowhere.yaml does not exist"),
        (
            [
                "--config-file",
                CONFIGS / "shapes_retinanet_R_18_FPN.yaml",
                "--eval-only",
                "MODEL.WEIGHTS",
                "nowhere.pth",
            ],
            "error: MODEL.WEIGHTS is nowhere.pth, which does not exist",
        ),
        (
            ["--config-file", CONFIGS / "shapes_retinanet_R_18_FPN.yaml", "MODEL.PARAM_AP.LOSS", "nowhere.json"],
            "error: loss 'nowhere.json' is neither a preset",
        ),
    ],
)
def test_bad_input_is_one_line(args, message):
    done = train(*args, code=2)
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_resumed_training_of_other_classes_changes_nothing(tmp_path, tiny):
    """Seen before: freed memory written to, after which a spoilt model was saved or the process killed."""
    start = ["--config-file", CONFIGS / "shapes_retinanet_R_18_FPN.yaml", "--resume", *tiny, "OUTPUT_DIR", tmp_path]
    start += ["MODEL.PARAM_AP.FAST_CPU", "True", "MODEL.PARAM_AP.CALIBRATE_ON", "''", "DATASETS.TEST", "()"]
    train(*start)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    folder = tmp_path / "data"
    folder.mkdir()
    listed = json.loads(Path(os.environ["PARAMAP_DATASETS"]).read_text())
    one = json.loads((Path(os.environ["PARAMAP_DATASETS"]).parent / listed["tiny_train"]["json_file"]).read_text())
    one["categories"] = one["categories"][:1]
    one["annotations"] = [a for a in one["annotations"] if a["category_id"] == one["categories"][0]["id"]]
    (folder / "one.json").write_text(json.dumps(one))
    (folder / "list.json").write_text(
        json.dumps({"one_class": {"json_file": "one.json", "image_root": listed["tiny_train"]["image_root"]}})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARAMAP_DATASETS", str(folder / "list.json"))
        opts = ["DATASETS.TRAIN", "('one_class',)", "MODEL.RETINANET.NUM_CLASSES", 1, "SOLVER.MAX_ITER", 4]
        done = train(*start, *opts, code=2)
    message = r"error: cannot go on from .*model_final.pth: head.cls_score.weight has the shape .*, and the config's"
    assert re.search(message, done.stderr) and "Traceback" not in done.stderr
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
