import json
import os
import stat

import pytest

from paramap_d2.errors import UserError
from paramap_d2.losses import (
    FUNCTION_NAMES,
    HEADS,
    SIBLINGS,
    SUBSTITUTIONS,
    HeadLoss,
    LossFileError,
    PiecewiseLinear,
    Sibling,
    head_losses,
    list_presets,
    load_any_loss,
    load_loss,
    save_loss,
)

# The interior control points of DESIGN §6, in its order of the functions.
PUBLISHED = {
    ("retinanet-coco", "dense", 4.1231): """
        (.4182,.0277) (.4948,.2187) (.6882,.2624) (.802,.6688)
        (.1279,.3696) (.3056,.4708) (.5198,.529) (.6983,.6709)
        (.0931,.0289) (.3607,.5585) (.4823,.7131) (.6291,.8162)
        (.4914,.1499) (.5492,.1664) (.6259,.3051) (.7945,.6195)
        (.413,.0798) (.4356,.3571) (.5361,.7063) (.8097,.9083)""",
    ("fasterrcnn-coco", "rpn", 1.6950): """
        (.9058,.0484) (.9068,.5120) (.9232,.7286) (.9766,.9677)
        (.3200,.1084) (.3493,.2482) (.4924,.3869) (.7231,.6510)
        (.0935,.0419) (.2177,.1168) (.5857,.3748) (.7962,.6683)
        (.0045,.3599) (.1295,.4603) (.7662,.5140) (.8483,.5259)
        (.1764,.1081) (.5245,.4907) (.6956,.5668) (.7642,.8645)""",
    ("fasterrcnn-coco", "roi", 7.1324): """
        (.3344,.0268) (.5460,.2461) (.8196,.6466) (.9467,.8617)
        (.0978,.2019) (.4073,.3367) (.6337,.4689) (.7708,.6633)
        (.2406,.0515) (.3358,.5259) (.6047,.6647) (.8575,.7792)
        (.2574,.2363) (.5442,.5999) (.7165,.6548) (.8728,.8331)
        (.1551,.2675) (.4902,.3957) (.7245,.5095) (.8068,.8720)""",
}
FUNCTIONS = dict.fromkeys(FUNCTION_NAMES, PiecewiseLinear([(0, 0), (0.25, 0.5), (1, 1)]))
LINE = [[0, 0], [1, 1]]
LINES = dict.fromkeys(FUNCTION_NAMES, LINE)


@pytest.mark.parametrize(("name", "head", "scale"), PUBLISHED)
def test_presets_are_as_published(name, head, scale):
    loss = load_loss(name)[head]
    assert loss.grad_scale == scale
    table = [line.split() for line in PUBLISHED[name, head, scale].strip().splitlines()]
    for function, row in zip(FUNCTION_NAMES, table, strict=True):
        interior = [tuple(float(v) for v in point.strip("()").split(",")) for point in row]
        assert list(loss.functions[function].points) == [(0, 0), *interior, (1, 1)]


def test_presets_have_their_heads():
    assert set(list_presets()) == {"retinanet-coco", "fasterrcnn-coco", *SUBSTITUTIONS}
    assert list(load_loss("retinanet-coco")) == ["dense"]
    assert sorted(load_loss("fasterrcnn-coco")) == ["roi", "rpn"]


@pytest.mark.parametrize("name", sorted(SUBSTITUTIONS))
def test_substitutions_are_presets_of_every_head(name):
    heads = load_loss(name)
    assert tuple(heads) == HEADS
    for loss in heads.values():
        assert loss.grad_scale == 1
        assert all(type(f) is type(SUBSTITUTIONS[name]()) for f in loss.functions.values())


@pytest.mark.parametrize("name", ["retinanet-coco", "fasterrcnn-coco", "linear"])
def test_a_saved_loss_loads_as_it_was(name, tmp_path):
    heads = load_loss(name)
    save_loss(tmp_path / "loss.json", heads, {"seed": 3})
    assert load_loss(tmp_path / "loss.json") == heads
    content = json.loads((tmp_path / "loss.json").read_text())
    assert content["format"] == 1 and content["meta"] == {"seed": 3}
    assert stat.S_IMODE(os.stat(tmp_path / "loss.json").st_mode) == 0o644


def test_substitutions_are_saved_by_name(tmp_path):
    mixed = {**FUNCTIONS, "rank_numerator": SUBSTITUTIONS["sigmoid"](), "sample_quality": SUBSTITUTIONS["sqrt"]()}
    save_loss(tmp_path / "loss.json", {"roi": HeadLoss(mixed, 2)})
    loss = load_loss(str(tmp_path / "loss.json"))["roi"]
    assert {name: f.to_json() for name, f in loss.functions.items()} == {name: f.to_json() for name, f in mixed.items()}
    assert json.loads((tmp_path / "loss.json").read_text())["heads"]["roi"]["functions"]["rank_numerator"] == "sigmoid"


def test_a_loss_that_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "loss.json"
    save_loss(path, {"dense": HeadLoss(FUNCTIONS)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_loss(path, {"dense": HeadLoss(FUNCTIONS)}, {"not for JSON": object()})
    blocked = tmp_path / "folder"
    blocked.mkdir()
    with pytest.raises(OSError):
        save_loss(blocked, {"dense": HeadLoss(FUNCTIONS)})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "loss.json"]


def content(head="dense", **entry):
    return {"format": 1, "heads": {head: {"functions": LINES, **entry}}}


def with_function(value, name="rank_numerator"):
    return content(functions={**LINES, name: value})


def sibling(loss="ap-loss", grad_scale=1.0):
    return {"format": 1, "heads": {"dense": {"loss": loss, "grad_scale": grad_scale}}}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], 'not a loss file: it has no "heads"'),
        ({"format": 1}, 'not a loss file: it has no "heads"'),
        ({**content(), "format": 2}, "its format is 2; this version reads 1"),
        ({"heads": {}}, "its format is None; this version reads 1"),
        ({"format": 1, "heads": {}}, '"heads" must be an object with at least one head'),
        ({"format": 1, "heads": [1]}, '"heads" must be an object'),
        (content(head="mask"), "unknown head 'mask'; the heads are dense, rpn, roi, detr"),
        ({"format": 1, "heads": {"dense": 3}}, "head 'dense' must hold an object \"functions\""),
        (content(functions=[LINE] * 5), "head 'dense' must hold an object \"functions\""),
        (content(scale=2), "head 'dense' holds an unknown key 'scale'"),
        (content(grad_scale=0), "head 'dense': grad_scale must be a positive number, not 0"),
        (content(grad_scale="4"), "head 'dense': grad_scale must be a positive number, not '4'"),
        (content(grad_scale=True), "head 'dense': grad_scale must be a positive number, not True"),
        (content(grad_scale=None), "head 'dense': grad_scale must be a positive number, not None"),
        (content(grad_scale=float("nan")), "head 'dense': grad_scale must be a positive number, not nan"),
        (content(functions={"rank_numerator": LINE}), "head 'dense': function 'sample_quality' is missing"),
        (content(functions={**LINES, "h2": LINE}), "head 'dense': unknown function 'h2'"),
        (with_function("cube"), "head 'dense', function 'rank_numerator': unknown substitution 'cube'; there are"),
        (with_function(None), "head 'dense', function 'rank_numerator': control points must be a list"),
        (with_function([[0, 0], [0.5, 0.7], [0.6, 0.4], [1, 1]], "positive_weight"),
         "head 'dense', function 'positive_weight': control point 2 has y = 0.4, below the y = 0.7 of point 1"),
        (with_function([[0, 0], [0.5], [1, 1]]), "head 'dense', function 'rank_numerator': control points must"),
        (sibling("alrp"), "head 'dense': there is no loss 'alrp'; those without functions are ap-loss, rank-sort"),
        (sibling([]), "head 'dense': there is no loss []"),
        (sibling(grad_scale=True), "head 'dense': grad_scale must be a positive number, not True"),
        (content(loss="ap-loss", grad_scale=1), "head 'dense' holds an unknown key 'loss'"),
    ],
)  # fmt: skip
def test_a_broken_loss_file_is_told_in_one_line(broken, message, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(LossFileError) as error:
        load_loss(path)
    assert str(error.value).startswith(f"loss file {path}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "not json", '{"format": 1, "heads": '])
def test_what_is_not_json_is_told_in_one_line(text, tmp_path):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(LossFileError, match="broken.json: ") as error:
        load_loss(tmp_path / "broken.json")
    assert "\n" not in str(error.value)


def test_what_is_not_text_is_told_in_one_line(tmp_path):
    (tmp_path / "broken.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(LossFileError, match="neither a preset .* nor a readable loss file"):
        load_loss(tmp_path / "broken.json")


def test_a_folder_is_no_loss(tmp_path):
    with pytest.raises(LossFileError, match="nor a readable loss file"):
        load_loss(tmp_path)


def test_a_name_that_is_no_preset_gets_their_list():
    with pytest.raises(LossFileError, match="'retinanet_coco' is neither a preset .fasterrcnn-coco, .*no such file"):
        load_loss("retinanet_coco")


def test_a_head_that_is_missing_is_named():
    heads = load_loss("fasterrcnn-coco")
    assert head_losses(heads, ("roi", "rpn"), "x") == [heads["roi"], heads["rpn"]]
    with pytest.raises(LossFileError, match="loss x.json has no head 'dense', .* it has 'rpn', 'roi'|'roi', 'rpn'"):
        head_losses(heads, ("dense",), "x.json")


def test_a_preset_that_would_fit_the_detector_is_named():
    with pytest.raises(LossFileError, match=r"it has 'dense' \(fasterrcnn-coco would fit\)"):
        head_losses(load_loss("retinanet-coco"), ("rpn", "roi"), "retinanet-coco")
    with pytest.raises(LossFileError, match="it has 'dense'$"):
        head_losses(load_loss("retinanet-coco"), ("detr",), "retinanet-coco")


def test_a_deeply_nested_file_is_one_line(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(LossFileError, match="deep.json: it is nested too deeply"):
        load_loss(path)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_loss_without_functions_can_be_trained_with_alone(name, tmp_path):
    assert load_any_loss(name) == dict.fromkeys(HEADS, Sibling(name))
    heads = {"rpn": Sibling(name, 2.0), "roi": load_loss("fasterrcnn-coco")["roi"]}
    save_loss(tmp_path / "loss.json", heads)
    assert load_any_loss(tmp_path / "loss.json") == heads
    for source in (name, str(tmp_path / "loss.json")):
        with pytest.raises(LossFileError, match=f"loss '{source}' has no functions to start from") as error:
            load_loss(source)
        assert "\n" not in str(error.value)


def test_what_means_nothing_to_a_loss_without_functions_is_refused():
    loss = Sibling("ap-loss")
    loss.check_options("giou", True, None)
    loss.check_options("giou", True, 0)
    for name, value in (("quality", "iou"), ("block_gradient", False), ("top_k", 5)):
        options = {"quality": "giou", "block_gradient": True, "top_k": 0, name: value}
        with pytest.raises(UserError, match=rf"{name} \(MODEL.PARAM_AP.{name.upper()}\).*ap-loss has no use for"):
            loss.check_options(**options)
