"""Losses that a user puts beside those that a search asks for."""

import json
import re

import fake_proxies
import pytest

from paramap_d2.cli import run
from paramap_d2.errors import UserError
from paramap_d2.losses import load_loss, save_loss
from paramap_d2.search.algorithms import build_algorithm
from paramap_d2.search.enqueued import Intake, enqueue, waiting
from paramap_d2.search.evolution import Schedule, evolve
from paramap_d2.search.executors.local import InlineExecutor
from paramap_d2.search.life import overview
from paramap_d2.search.lock import only_one
from paramap_d2.search.names import loss_names, short_name
from paramap_d2.search.proxies.proxy import Outcome
from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import ENQUEUED, FINISHED, INTERRUPTED, PROXIES, Evaluation, Store

SPACE = SearchSpace(("dense",), points=2, mode="shared")
GENES = SPACE.genes
LINEAR = SPACE.encode(load_loss("linear"))


@pytest.fixture
def losses(tmp_path):
    """Three loss files of the space, the first near the proxies' best."""
    files = []
    for number, gene in enumerate((0.69, 0.1, 0.9)):
        files.append(str(tmp_path / f"loss_{number}.json"))
        save_loss(files[-1], SPACE.decode([gene] * GENES))
    return files


def begin(folder, **more):
    """A store as a search has it from its first moment."""
    folder.mkdir(exist_ok=True)
    with Store(folder / "search.db") as store:
        if not store.settings():
            settings = {"space": SPACE.describe(), "generations": 4, "algorithm": "ga", "initial": [LINEAR]}
            store.write_settings({**settings, "options": {"init": ["linear"]}, **more})


def search(
    folder, name="ga", after=None, enqueueing=None, generations=4, evaluate=fake_proxies.target_distance, **more
):
    """A search that is killed after so many trainings, while which ``enqueueing`` names losses by that number."""
    begin(folder, algorithm=name)
    made = 0

    def counted(task):
        nonlocal made
        if made == after:
            raise KeyboardInterrupt
        made += 1
        names = (enqueueing or {}).get((task.generation, task.position)) if task.stage == "search" else None
        if names:
            with only_one(folder, resume=True):
                (folder / "status.json").touch()
                enqueue(folder, names)
        return evaluate(task)

    algorithm = build_algorithm(name, GENES, 5, 1, [LINEAR], generations=4)
    with Store(folder / "search.db") as store:
        evolve(
            algorithm,
            counted,
            InlineExecutor(),
            store,
            Schedule(9, generations, confirm=1, **more),
            intake=Intake(folder, store),
        )


def rows(folder):
    with Store(folder / "search.db", readonly=True) as store:
        return [e for e in store.evaluations() if e.status != "interrupted"]


def story(folder):
    return [(e.stage, e.generation, e.position, e.genome, e.seed, e.status, e.fitness) for e in rows(folder)]


def names_of(folder, stage=ENQUEUED):
    with Store(folder / "search.db", readonly=True) as store:
        names = loss_names(store.settings())
    return [(e.generation, names[tuple(e.genome)].partition("/")[2]) for e in rows(folder) if e.stage == stage]


def test_they_are_trained_with_the_next_generation_and_keep_their_names(tmp_path, losses):
    search(tmp_path / "out", enqueueing={(1, 2): losses[:2], (2, 0): losses[2:]})
    assert names_of(tmp_path / "out") == [(2, "loss_0"), (2, "loss_1"), (3, "loss_2")]
    assert [e.position for e in rows(tmp_path / "out") if e.stage == ENQUEUED] == [4, 5, 4]
    assert waiting(tmp_path / "out") == []


def test_ga_goes_on_from_them_and_the_others_from_their_own(tmp_path, losses):
    for name in ("ga", "cmaes", "ppo", "random"):
        plain, steered = tmp_path / f"{name}_plain", tmp_path / name
        search(plain, name)
        search(steered, name, enqueueing={(0, 0): losses[:1]})
        of_algorithm = [[row for row in story(folder) if row[0] == "search"] for folder in (plain, steered)]
        assert (of_algorithm[0] == of_algorithm[1]) == (name != "ga"), name
        genes = [
            [gene for e in rows(folder)[9:] if e.stage == "search" for gene in e.genome] for folder in (plain, steered)
        ]
        assert [0.69 in of for of in genes] == [False, name == "ga"]  # children have some of its genes as they are


@pytest.mark.parametrize("after", [1, 4, 8, 12, 17])
def test_a_search_killed_anywhere_resumes_to_the_same_rows(tmp_path, losses, after):
    steering = {(0, 1): losses[:1], (1, 3): losses[1:]}
    search(tmp_path / "whole", enqueueing=steering, repeats=2)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", enqueueing=steering, after=after, repeats=2)
    left = {
        where: names for where, names in steering.items() if not set(where_enqueued(tmp_path / "cut")) >= set(names)
    }
    search(tmp_path / "cut", enqueueing=left, repeats=2)
    assert sorted(story(tmp_path / "cut")) == sorted(story(tmp_path / "whole"))


def where_enqueued(folder):
    with Store(folder / "search.db", readonly=True) as store:
        taken = store.settings().get("enqueued", {"losses": []})["losses"]
    return [loss["name"] for loss in [*taken, *(vars(w) for w in waiting(folder))]]


def test_a_generation_that_was_begun_takes_in_no_more(tmp_path, losses):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "out", after=7)  # in generation 1
    told = enqueue(tmp_path / "out", losses[:1])
    assert (
        told == f"1 loss enqueued, trained with generation 2: paramap evolve --resume --output-dir {tmp_path / 'out'}"
    )
    search(tmp_path / "out")
    assert names_of(tmp_path / "out") == [(2, "loss_0")]


def test_a_search_that_is_over_trains_them_when_it_gets_more_generations(tmp_path, losses):
    search(tmp_path / "out")
    assert enqueue(tmp_path / "out", losses[:2]).endswith(
        f"--output-dir {tmp_path / 'out'} --generations 5 trains more"
    )
    search(tmp_path / "out", generations=5)
    assert names_of(tmp_path / "out") == [(4, "loss_0"), (4, "loss_1")]


def test_a_search_of_fixed_length_is_not_told_to_get_more_generations(tmp_path, losses):
    begin(tmp_path / "out", algorithm="ppo")
    enqueue(tmp_path / "out", losses[:1])
    with Store(tmp_path / "out" / "search.db") as store:  # the last generation began just before it was there
        store.write_settings({"enqueued": {"until": 3, "losses": []}})
    (waits,) = [line for line in overview(tmp_path / "out")[1].splitlines() if line.startswith("enqueued")]
    assert waits.endswith("has begun its last generation, the 3; begin another search with --init")
    assert "--generations" not in waits


def test_a_budget_that_is_used_up_says_so(tmp_path, losses):
    search(tmp_path / "out", generations=None, evaluations=9)
    with Store(tmp_path / "out" / "search.db") as store:
        store.write_settings({"generations": None, "evaluations": 9, "population": 5, "elite": 1})
    said = enqueue(tmp_path / "out", losses[:2])
    assert said.startswith("2 losses enqueued, but 9 proxies leave no room: paramap evolve --resume")
    assert said.endswith(" --evaluations 15 trains more")
    names = f"{short_name(losses[0])}, {short_name(losses[1])}"
    assert said.replace("2 losses enqueued,", f"enqueued     {names}:") in overview(tmp_path / "out")[1]
    search(tmp_path / "out", generations=None, evaluations=15)
    assert [name for _, name in names_of(tmp_path / "out")] == ["loss_0", "loss_1"]


@pytest.mark.parametrize("name", ["ga", "cmaes", "random"])
@pytest.mark.parametrize("budget", [3, 5, 6, 11])
def test_the_budget_that_is_named_is_enough(tmp_path, losses, name, budget):
    """Wherever the old one ended: before, at or within a generation."""
    out = tmp_path / "out"
    begin(out, population=5, elite=1, generations=None, evaluations=budget, algorithm=name)
    search(out, name, generations=None, evaluations=budget)
    more = int(re.search(r"--evaluations (\d+) trains more", enqueue(out, losses))[1])
    search(out, name, generations=None, evaluations=more)
    assert len(names_of(out)) == 3 and not waiting(out)


def test_a_budget_of_a_fixed_length_without_room_takes_nothing_in(tmp_path, losses):
    begun = {"enqueued": {"until": 0, "losses": []}}  # the first generation
    begin(tmp_path, algorithm="ppo", generations=None, evaluations=8, rounds=2, population=4, **begun)
    with pytest.raises(UserError, match="its 8 proxies leave no room for more; begin another search with --init"):
        enqueue(tmp_path, losses[:1])
    assert not waiting(tmp_path)
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"evaluations": 9})
    enqueue(tmp_path, losses[:1])


def test_a_budget_holds_and_what_it_cuts_off_comes_with_a_larger_one(tmp_path, losses):
    with_them = {"enqueueing": {(0, 0): losses}, "generations": None}
    search(tmp_path / "out", evaluations=11, **with_them)  # 5, 4, and two of three
    assert len([e for e in rows(tmp_path / "out") if e.stage in PROXIES]) == 11
    assert len(names_of(tmp_path / "out")) == 2
    (waits,) = waiting(tmp_path / "out")
    assert waits.name == losses[2]
    search(tmp_path / "out", evaluations=16, generations=None)
    assert len(names_of(tmp_path / "out")) == 3 and not waiting(tmp_path / "out")


def test_a_proxy_that_was_interrupted_is_none_of_the_budget(tmp_path, losses):
    begin(tmp_path / "out", generations=None, evaluations=6, population=5)
    with Store(tmp_path / "out" / "search.db") as store:
        store.add(Evaluation(0, 0, LINEAR, 9, INTERRUPTED, 0.0))
    assert enqueue(tmp_path / "out", losses[:1]).startswith("1 loss enqueued, trained with generation 0")


def test_what_the_machine_fails_is_told_as_the_lowest_of_the_algorithms_own(tmp_path, losses):
    def evaluate(task):
        if task.stage == ENQUEUED:
            return Outcome("failed", error="killed", cause="killed")
        return Outcome(FINISHED, 10.0 + task.position, {"bbox/AP": 10.0})

    search(tmp_path / "out", evaluate=evaluate, enqueueing={(0, 0): losses[:1]}, retries=1)
    with Store(tmp_path / "out" / "search.db") as store:
        assert store.told()[1].fitnesses == [10.0, 11.0, 12.0, 13.0, 10.0]
    assert [e.attempt for e in rows(tmp_path / "out") if e.stage == ENQUEUED] == [1, 2]


def test_a_crash_between_the_store_and_the_files_trains_nothing_twice(tmp_path, losses):
    begin(tmp_path / "out")
    enqueue(tmp_path / "out", losses[:1])
    (left,) = waiting(tmp_path / "out")
    content = left.file.read_bytes()
    with Store(tmp_path / "out" / "search.db") as store:
        intake = Intake(tmp_path / "out", store)
        assert intake.take(0, [[0.5] * GENES]) == [left.genome]
        left.file.write_bytes(content)
        assert intake.take(0, [[0.5] * GENES]) == [left.genome]
        assert intake.take(1, [[0.5] * GENES]) == [] and waiting(tmp_path / "out") == []


@pytest.mark.parametrize("content", ["", "[]", '{"genome": [2.0], "name": "a"}', '{"genome": [0.5]}'])
def test_files_that_are_none_are_passed_over(tmp_path, content, caplog):
    (tmp_path / "enqueued").mkdir()
    (tmp_path / "enqueued" / "1.json").write_text(content)
    assert waiting(tmp_path) == [] and "1.json holds no enqueued loss" in caplog.text


def test_what_cannot_be_enqueued(tmp_path, losses, capsys):
    out = tmp_path / "out"

    def refused(*names, folder=out):
        assert run("enqueue", [str(folder), *names]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and not waiting(out)
        return errors

    assert "there is no search there" in refused("linear")
    begin(out)
    assert "is in the search already: as 'linear'" in refused(losses[0], "linear")
    assert f"is in the search already: given as {losses[0]}" in refused(losses[0], losses[0])
    assert "has no head 'dense'" in refused("fasterrcnn-coco")
    assert "has no functions to start from" in refused("rank-sort")
    assert "is not piecewise linear" in refused("sqrt")
    assert "the functions of head 'dense' differ" in refused("retinanet-coco")
    more = {"dense": SearchSpace(("dense",), points=3, mode="shared").decode([0.3] * 7)["dense"]}
    save_loss(tmp_path / "more.json", more)
    assert "control points" in refused(str(tmp_path / "more.json"))
    assert "neither a preset" in refused("nowhere.json")
    with only_one(out, resume=True):
        assert "is of an older version" in refused(losses[0])
    with Store(out / "search.db") as store:
        store.write_settings({"algorithm": "ppo", "enqueued": {"until": 3, "losses": []}})
    assert "has begun its last generation, the 3" in refused(losses[0])
    (out / "enqueued").touch()
    with Store(out / "search.db") as store:
        store.write_settings({"algorithm": "ga"})
    with pytest.raises(UserError, match="enqueued cannot be written"):
        enqueue(out, losses[:1])


def test_the_command(tmp_path, losses, capsys):
    begin(tmp_path)
    assert run("enqueue", [str(tmp_path), *losses]) == 0
    assert capsys.readouterr().out.startswith("3 losses enqueued, trained with generation 0: paramap evolve --resume")
    assert [json.loads(w.file.read_text())["name"] for w in waiting(tmp_path)] == losses
    assert run("status", [str(tmp_path)]) == 0
    names = ", ".join(f"{tmp_path.name}/loss_{n}" for n in range(3))
    assert f"enqueued     {names}: trained with generation 0: paramap evolve --resume" in capsys.readouterr().out
