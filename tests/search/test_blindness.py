import pytest

from paramap_d2.search.blindness import blindness
from paramap_d2.search.candidates import ranked_candidates
from paramap_d2.search.store import FINISHED, Evaluation


def row(position, fitness, seed=0):
    return Evaluation(0, position, [position / 10], seed, FINISHED, fitness)


@pytest.mark.parametrize(
    "fitnesses, again, said",
    [
        ([0.1, 0.3, 0.0], None, "no proxy reached AP 1"),
        ([20.0, 30.0, 25.0], 22.0, ""),
        ([20.0, 20.5, 21.0], 25.0, "AP differs by 0.50 from loss to loss and by 3.54 from seed to seed"),
        ([20.0, 20.5, 21.0], None, ""),  # the noise is not known
        ([0.1], None, ""),
    ],
)
def test_blindness(fitnesses, again, said):
    current = [row(place, fitness) for place, fitness in enumerate(fitnesses)]
    repeats = [] if again is None else [row(0, again, seed=1)]
    text = blindness(current, ranked_candidates([*current, *repeats]), "AP")
    assert text.startswith(said) and bool(text) == bool(said)
