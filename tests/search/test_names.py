import pytest

from paramap_d2.search.names import loss_name, loss_names

FIRST, SECOND = [0.1234567, 0.5], [0.25, 0.75]


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"options": {"init": ["linear", "/there/search/best.json"]}}, ["linear", "search/best"]),
        ({"options": {"init": ["start.json", "square"]}}, ["start", "square"]),
        ({"options": {"init": None}, "config_loss": "retinanet-coco"}, ["retinanet-coco", "identity"]),
        ({}, ["start 1", "start 2"]),  # of an older version
        ({"options": {"init": ["one"]}}, ["start 1", "start 2"]),
    ],
)
def test_the_first_losses_keep_the_names_that_they_were_given(settings, names):
    found = loss_names({"initial": [FIRST, SECOND], **settings})
    assert found == {(0.123457, 0.5): names[0], tuple(SECOND): names[1]}  # genomes as they stand in the store


def test_of_equal_losses_the_first_name_stays():
    settings = {"initial": [FIRST, FIRST], "options": {"init": None}, "config_loss": "linear"}
    assert list(loss_names(settings).values()) == ["linear"]
    assert list(loss_names({"initial": [FIRST], "config_loss": "sigmoid"}).values()) == ["identity"]


def test_other_losses_are_called_by_their_number():
    names = loss_names({"initial": [SECOND]})
    assert loss_name(SECOND, names, 4) == "start 1" and loss_name(FIRST, names, 4) == "#4"
    assert loss_names({}) == {}
