import numpy as np
import pytest
from made_searches import row

from paramap_d2.errors import UserError
from paramap_d2.search.importance import LEAST, importance, learnt_from
from paramap_d2.search.space import SearchSpace

SPACE = SearchSpace(("dense",), points=1)
X1, WEIGHT, SCALE = (
    SPACE.gene_names.index(f"dense.{g}") for g in ("rank_numerator.x1", "positive_weight.y1", "grad_scale")
)


def search(losses, fitness, **more):
    """Losses all over the space, and how good they are."""
    genomes = np.random.default_rng(0).random((losses, SPACE.genes))
    return [row(i, fitness=float(fitness(g)), genome=g.tolist(), **more) for i, g in enumerate(genomes, 1)]


def test_what_a_fitness_hangs_on_is_found():
    rows = search(150, lambda g: 40 * g[X1] + 20 * g[SCALE] + 5 * g[WEIGHT])
    pytest.importorskip("sklearn")
    found = importance(rows, SPACE)
    assert found.losses == 150 and found.explained > 0.6
    assert [share.name for share in found.genes[:2]] == ["dense.rank_numerator.x1", "dense.grad_scale"]
    assert [share.name for share in found.functions[:2]] == ["dense.rank_numerator", "dense.grad_scale"]
    assert len(found.genes) == SPACE.genes and len(found.functions) == 6
    assert all(abs(share.lost) < 0.1 * found.genes[0].lost for share in found.genes[3:])
    assert found == importance(rows, SPACE)


def test_a_functions_genes_are_shuffled_together():
    """Two genes of which each says what the other does: alone neither is missed as much as both."""
    pytest.importorskip("sklearn")
    rows = search(120, lambda g: 0.0)
    x, y = X1, X1 + 1
    rows = [row(e.id, fitness=40 * e.genome[x], genome=[*e.genome[:y], e.genome[x], *e.genome[y + 1 :]]) for e in rows]
    found = importance(rows, SPACE)
    assert found.functions[0].name == "dense.rank_numerator"
    assert found.functions[0].lost > 1.5 * max(share.lost for share in found.genes)


def test_nothing_is_made_of_noise_or_of_nothing():
    pytest.importorskip("sklearn")
    noise = np.random.default_rng(1)
    assert importance(search(100, lambda g: noise.normal()), SPACE).explained < 0.05
    assert importance(search(LEAST - 1, lambda g: g[0]), SPACE) is None
    assert importance(search(100, lambda g: 7.0), SPACE) is None
    assert importance([], SPACE) is None


def test_what_says_nothing_about_a_loss_is_left_out():
    pytest.importorskip("sklearn")
    rows = search(LEAST - 1, lambda g: g[0])
    rows += search(10, lambda g: 0.0, status="failed", cause="killed")
    rows += search(10, lambda g: 99.0, stage="confirm") + search(10, lambda g: 0.0, status="interrupted")
    assert importance(rows, SPACE) is None


def test_a_proxy_that_ended_early_counts_as_what_it_would_have_come_to():
    """Else when a proxy ended would say more than its loss."""
    pytest.importorskip("sklearn")

    def ended(e, early):
        half = [[50, e.fitness / 2]]
        return row(
            e.id,
            0,
            e.fitness / 2 if early else e.fitness,
            "stopped" if early else "finished",
            genome=e.genome,
            curve=half,
            iterations=50 if early else 100,
            planned=100,
        )

    whole = search(90, lambda g: 40 * g[X1])
    genomes, fitness = learnt_from(whole)
    found = learnt_from([ended(e, e.id % 3 == 0) for e in whole])
    assert np.array_equal(found[0], genomes) and found[1] == pytest.approx(fitness)


def test_without_the_package_one_line_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.ensemble", None)
    with pytest.raises(UserError, match=r"scikit-learn: pip install 'paramap_d2\[analysis\]'"):
        importance([], SPACE)
