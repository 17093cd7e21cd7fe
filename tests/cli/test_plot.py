import pytest
from PIL import Image

from paramap_d2.cli import run
from paramap_d2.losses import load_loss, save_loss


def test_presets_and_files_in_rows(tmp_path, capsys):
    heights = []
    path = tmp_path / "a $best_.json"
    save_loss(path, load_loss("retinanet-coco"))
    for losses in (["fasterrcnn-coco"], ["fasterrcnn-coco", str(path), "square"]):
        output = tmp_path / "functions.png"
        assert run("plot", [*losses, "--output", str(output)]) == 0
        assert capsys.readouterr().out == f"{output}\n"
        with Image.open(output) as picture:
            picture.load()
            heights.append(picture.height)
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.02)  # four rows and two


def test_rows_are_named(tmp_path):
    output = tmp_path / "functions.svg"
    assert run("plot", ["fasterrcnn-coco", "square", "--output", str(output)]) == 0
    svg = output.read_text()
    for row in ("fasterrcnn-coco: rpn", "fasterrcnn-coco: roi", "square: dense, rpn, roi, detr · gradient scale 1"):
        assert f"<!-- {row}" in svg


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no-such-loss"], "'no-such-loss' is neither a preset ("),
        (["square", "--output", "functions.xyz"], "functions.xyz: its name must end in one of"),
        (["square", "--output", "nowhere/functions.png"], "cannot write nowhere/functions.png: No such file"),
        (["empty.json"], "loss file empty.json"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text("{}")
    assert run("plot", arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and output.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["empty.json"]
