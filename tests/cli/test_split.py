import json

import pytest

from paramap_d2.cli import run


@pytest.fixture
def source(tmp_path):
    coco = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 8, "height": 8} for k in range(30)],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": 1 + k % 3, "bbox": [1, 2, 3, 4]} for k in range(30)
        ],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
    }
    path = tmp_path / "instances_train2017.json"
    path.write_text(json.dumps(coco))
    return path


def images(path):
    return {image["id"] for image in json.loads(path.read_text())["images"]}


def test_default_names_and_sizes(source, capsys):
    assert run("split", [str(source)]) == 0
    search = source.with_name("instances_train2017_search.json")
    searchval = source.with_name("instances_train2017_searchval.json")
    assert len(images(searchval)) == 3
    assert images(search) | images(searchval) == set(range(30)) and not images(search) & images(searchval)
    assert f"{searchval}, held out: 3 images, 3 annotations" in capsys.readouterr().out


@pytest.mark.parametrize("text, count", [("0.2", 6), ("7", 7)])
def test_fraction_or_number_and_named_files(source, tmp_path, text, count):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    assert run("split", [str(source), "--held-out", text, "--seed", "3", "--output", *map(str, files)]) == 0
    assert len(images(files[1])) == count


def test_refuses_to_overwrite_either(source, capsys):
    for part in ("search", "searchval"):
        target = source.with_name(f"instances_train2017_{part}.json")
        target.write_text("precious")
        assert run("split", [str(source)]) == 2
        assert f"{target} exists and is not overwritten" in capsys.readouterr().err
        assert target.read_text() == "precious"
        target.unlink()
    assert [path.name for path in source.parent.iterdir()] == [source.name]


@pytest.mark.parametrize(
    "content, message",
    [
        ("not json", "is not JSON"),
        ("[1]", "holds a list: expected an object"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [{}], "annotations": [], "categories": []}', "images[0] has the id null"),
        ('{"images": [3], "annotations": [], "categories": []}', "images[0] is a 3, not an object"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}', "the same id"),
        ('{"images": [], "annotations": [], "categories": []}', "'categories' is empty"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}]}', "has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "cannot hold out 0 of 0 images"),
    ],
)
def test_bad_sources_get_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert run("split", [str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--held-out", "30"], "cannot hold out 30 of 30"),
        (["--held-out", "1.5"], "must lie between 0 and 1"),
        (["--output", "same.json", "same.json"], "name two files"),
        (["--output", "none/a.json", "none/b.json"], "cannot write none/a.json: No such file"),
    ],
)
def test_bad_options_get_one_line(source, capsys, arguments, message, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert run("split", [str(source), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_missing_source(tmp_path, capsys):
    assert run("split", [str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file or directory" in capsys.readouterr().err


def test_a_size_that_is_no_number(capsys):
    assert run("split", ["x", "--held-out", "many"]) == 2
    assert capsys.readouterr().err == "error: --held-out: invalid size value: 'many' (see paramap split --help)\n"
