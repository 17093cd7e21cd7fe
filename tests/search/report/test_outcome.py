from dataclasses import replace
from pathlib import Path

import pytest
from made_searches import row

from paramap_d2.search.candidates import best_candidate
from paramap_d2.search.confirmation import Verdict
from paramap_d2.search.report.outcome import outcome

START, FOUND = [0.2], [0.1]
NAMES = {(0.2,): "linear", (0.1,): "#7"}


def of(verdict, rows=(), settings=None):
    return outcome(rows, settings or {}, best_candidate(rows), verdict, NAMES, Path("my out"))


def confirmed(found, start):
    return Verdict(FOUND, START, [row(1, fitness=f) for f in found], [row(1, fitness=f) for f in start], "centre")


def test_a_gain_is_told_first_with_its_interval():
    said = of(confirmed([34.0, 35.0, 36.0], [30.0, 31.0, 32.0]))
    assert (said.heading, said.figure) == ("Gain over the start", "+4.00")
    assert said.unit == "AP over linear, 95 % interval +1.73 to +6.27"
    assert said.lines == [
        "#7 (centre) is handed over, with AP 35.00; linear has 31.00. Both are means from 3 fresh seeds."
    ]


def test_a_name_that_says_what_the_challenger_is_says_it_once():
    names = {**NAMES, tuple(FOUND): "centre of ga"}
    said = outcome((), {}, None, confirmed([34.0, 35.0], [30.0, 31.0]), names, Path("out"))
    assert said.lines[0].startswith("centre of ga is handed over")


def test_a_gain_that_may_be_chance_says_so():
    said = of(confirmed([30.0, 36.0], [31.0, 33.0]))
    assert said.figure == "+1.00" and "holds 0" in said.lines[-1]


def test_no_gain():
    said = of(confirmed([30.0, 31.0, 32.0], [34.0, 35.0, 36.0]))
    assert (said.heading, said.figure) == ("No gain over the start", "−4.00")
    assert said.lines[0].startswith("linear is handed over, with AP 35.00; the challenger, #7 (centre), has 31.00.")
    said = of(Verdict(START, START, [], [], "best finalist"))
    assert said.heading == "No gain over the start" and not said.figure and "began with" in said.lines[0]
    said = of(confirmed([], [30.0]))
    assert not said.figure and "confirming trainings failed" in said.lines[0]


def test_from_one_seed_there_is_no_interval():
    said = of(confirmed([35.0], [31.0]))
    assert (said.figure, said.unit) == ("+4.00", "AP over linear") and "no interval" in said.lines[-1]


def test_seeds_that_change_nothing_give_no_interval():
    said = of(confirmed([30.0, 30.0], [29.5, 29.5]))
    assert (said.figure, said.unit) == ("+0.50", "AP over linear") and "use its seed" in said.lines[-1]


def test_another_look_is_told():
    said = of(replace(confirmed([34.0, 35.0, 36.0], [30.0, 31.0, 32.0]), looks=2))
    assert "look 2" in said.lines[-1] and "+1.73" not in said.unit


@pytest.mark.parametrize("confirm", [3, 0])
def test_what_is_not_confirmed_says_so_and_when_it_will_be(confirm):
    rows = [row(1, fitness=20.0, genome=START), row(7, fitness=30.0, genome=FOUND)]
    said = of(None, rows, {"initial": [START], "options": {"confirm": confirm}})
    assert (said.heading, said.figure) == ("Not confirmed", "30.00")
    assert said.lines[0] == "#7: AP 30.00; the start, linear: 20.00."
    command = "paramap evolve --resume --output-dir 'my out' --confirm 3"
    assert (command in said.lines[1]) == (confirm == 0) and ("end of the search" in said.lines[1]) == (confirm > 0)
    assert of(None, rows[:1], {"initial": [START]}).lines[0] == "linear: AP 20.00, the loss that the search began with."


def test_nothing_yet():
    assert of(None).lines == ["No evaluation has reached an AP yet."]
