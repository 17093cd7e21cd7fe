import pytest

from paramap_d2.search.names import all_names, loss_names
from paramap_d2.search.store import Evaluation

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


def test_other_losses_are_called_by_their_number_and_what_nobody_asked_for_is_the_centre():
    rows = [
        Evaluation(0, 0, SECOND, 0, "finished", 1.0, id=1),
        Evaluation(0, 1, [0.3, 0.3], 0, "finished", 1.0, id=2),
        Evaluation(9, 0, [0.4, 0.4], 0, "finished", 1.0, stage="confirm", id=3),
        Evaluation(9, 0, [0.5, 0.5], 0, "finished", 1.0, stage="final", id=4),
        Evaluation(9, 0, [0.4, 0.4], 1, "finished", 1.0, stage="confirm", id=6),
        Evaluation(9, 0, [0.6, 0.6], 0, "finished", 1.0, stage="confirm", id=7),  # of a search that went on
        Evaluation(8, 0, [0.5, 0.5], 0, "finished", 1.0, id=5),  # after its final training, in a search that went on
    ]
    names = all_names(rows, {"initial": [SECOND], "algorithm": "cmaes"})
    assert names == {
        (0.25, 0.75): "start 1",
        (0.3, 0.3): "#2",
        (0.5, 0.5): "#5",
        (0.4, 0.4): "centre of cmaes",
        (0.6, 0.6): "centre of cmaes 2",
    }
    assert all_names([], {}) == {}
