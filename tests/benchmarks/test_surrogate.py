"""Algorithms on a surrogate of real searches: see benchmarks/surrogate.py."""

import importlib.util
import lzma
from pathlib import Path

import numpy as np
import pytest

from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import Evaluation, Store

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "surrogate.py"
SPACE = SearchSpace(("dense",), points=1)


@pytest.fixture(scope="module")
def surrogate():
    specification = importlib.util.spec_from_file_location("surrogate", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_features_are_what_the_functions_are_and_not_their_genes(surrogate):
    identity = surrogate.features(SPACE.identity(), SPACE)
    assert identity == pytest.approx([*surrogate.PLACES.tolist() * 5, 0.0])
    assert surrogate.features(SearchSpace(("dense",)).identity(), SearchSpace(("dense",))) == pytest.approx(identity)


def test_a_packed_store_is_read_as_its_folder_is(surrogate, tmp_path):
    with Store(tmp_path / "search.db") as store:
        store.write_settings({"metric": "AP"})
        store.add(Evaluation(0, 0, SPACE.identity(), 0, "finished", 3.0))
    packed = tmp_path / "packed.db.xz"
    packed.write_bytes(lzma.compress((tmp_path / "search.db").read_bytes()))
    assert (
        surrogate.read_store(packed) == surrogate.read_store(tmp_path) == surrogate.read_store(tmp_path / "search.db")
    )


def test_a_genome_of_several_searches_counts_once(surrogate):
    genomes, aps = surrogate.one_each(np.array([[0.5, 0.1], [0.2, 0.3], [0.5, 0.1]]), np.array([10.0, 7.0, 14.0]))
    assert (genomes.tolist(), aps.tolist()) == ([[0.5, 0.1], [0.2, 0.3]], [12.0, 7.0])


def test_a_surrogate_knows_which_loss_is_better_and_an_algorithm_climbs_it(surrogate):
    pytest.importorskip("sklearn")
    genomes = np.random.default_rng(0).random((60, SPACE.genes))
    aps = np.array([30 * surrogate.features(g.tolist(), SPACE)[3] for g in genomes])  # of rank_numerator
    aps += np.random.default_rng(1).normal(size=60)
    found = surrogate.Surrogate(genomes.tolist(), aps, SPACE)
    assert found.scores[found.name][0] > 0.8
    climbed, other = surrogate.climb(found, "ga", 8, 51, runs=2)
    assert climbed != other
    assert [used for used, _ in climbed] == [8, *range(15, 51, 7)]
    assert climbed[-1][1] > found([SPACE.identity()])[0] + 2


def test_bad_input_is_one_line(surrogate, tmp_path, monkeypatch):
    with Store(tmp_path / "search.db"):
        pass
    for given, said in ((tmp_path / "none", "none"), (tmp_path, "has not begun to search")):
        monkeypatch.setattr("sys.argv", ["surrogate.py", str(given)])
        with pytest.raises(SystemExit, match=said):
            surrogate.main()


def test_the_stores_in_the_repository_can_be_read(surrogate):
    results = BENCHMARK.parent / "results"
    for packed in results.glob("*.db.xz"):
        evaluations, settings = surrogate.read_store(packed)
        assert evaluations and SearchSpace.described(settings["space"]).genes == 41
