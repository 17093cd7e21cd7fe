import math
import random

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramap_d2.errors import UserError
from paramap_d2.search.algorithms.ppo import PPO, log_truncated_normal, moved_mean, objective_gradient


def draws(seed, population=6, genes=5):
    """Means the draws came from, sigma, draws and centred rewards."""
    rng = numpy.random.default_rng(seed)
    rewards = rng.normal(size=population)
    mean = rng.uniform(0.02, 0.98, size=genes)
    sigma = rng.uniform(0.01, 0.2)
    genomes = (mean + sigma * rng.normal(size=(population, genes))).clip(0, 1)
    return mean, sigma, genomes, rewards - rewards.mean()


def reference_log_density(x, mean, sigma):
    normal = torch.distributions.Normal(mean, sigma)
    return normal.log_prob(x) - torch.log(normal.cdf(torch.ones(())) - normal.cdf(torch.zeros(())))


def reference_objective(mean, sigma, genomes, drawn_from, advantages):
    """PPO's clipped objective, genome by genome."""
    total = 0.0
    for genome, advantage in zip(genomes, advantages, strict=True):
        log_ratio = reference_log_density(genome, mean, sigma) - reference_log_density(genome, drawn_from, sigma)
        ratio = log_ratio.exp().prod()
        clipped = log_ratio.exp().clamp(0.9, 1.1).prod()
        total = total + torch.minimum(ratio * advantage, clipped * advantage)
    return total / len(genomes)


@pytest.mark.parametrize("mean, sigma", [(0.5, 0.2), (0.01, 0.2), (0.97, 0.05), (0.3, 0.005)])
def test_the_density_is_one(mean, sigma):
    edges = numpy.linspace(0, 1, 200_001)
    middles = (edges[1:] + edges[:-1])[:, None] / 2
    log_density, _ = log_truncated_normal(middles, numpy.array([mean]), sigma)
    assert numpy.exp(log_density).mean() == pytest.approx(1, abs=1e-6)


@given(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(0.005, 0.2))
def test_the_densitys_slope_is_its_difference_quotient(x, mean, sigma):
    x, step = numpy.array([[x]]), 1e-6
    below, _ = log_truncated_normal(x, numpy.array([mean - step]), sigma)
    above, _ = log_truncated_normal(x, numpy.array([mean + step]), sigma)
    _, slope = log_truncated_normal(x, numpy.array([mean]), sigma)
    assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-3)


@given(st.integers(0, 10**6), st.floats(0, 0.3))
def test_the_gradient_is_autograds(seed, moved):
    # Moved by up to 0.3: nothing, some or all genes clipped.
    drawn_from, sigma, genomes, advantages = draws(seed)
    way = numpy.random.default_rng(seed + 1).normal(size=drawn_from.shape)
    mean = (drawn_from + moved * sigma * way).clip(0.01, 0.99)
    drawn, _ = log_truncated_normal(genomes, drawn_from, sigma)
    gradient = objective_gradient(mean, sigma, genomes, drawn, advantages)

    at = torch.tensor(mean, requires_grad=True)
    tensors = [torch.tensor(array) for array in (genomes, drawn_from, advantages)]
    reference_objective(at, sigma, *tensors).backward()
    assert gradient == pytest.approx(at.grad.numpy(), rel=1e-6, abs=1e-8)


def test_the_reference_clips():
    # Else the test above would compare no more than the unclipped half.
    drawn_from, sigma, genomes, advantages = draws(0)
    mean = drawn_from + 0.3 * sigma
    log_ratio = log_truncated_normal(genomes, mean, sigma)[0] - log_truncated_normal(genomes, drawn_from, sigma)[0]
    outside = (log_ratio < math.log(0.9)) | (log_ratio > math.log(1.1))
    assert 0.2 < outside.mean() < 0.9


@pytest.mark.parametrize("seed", range(2))
def test_the_update_is_torchs_adam(seed):
    mean, sigma, genomes, advantages = draws(seed, population=4)
    drawn_from, *tensors = (torch.tensor(array) for array in (mean, genomes, advantages))
    logit = torch.logit(drawn_from).requires_grad_()
    adam = torch.optim.Adam([logit], lr=0.01, maximize=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(step / 30, (100 - step) / 70))
    for _ in range(100):
        adam.zero_grad()
        reference_objective(torch.sigmoid(logit), sigma, tensors[0], drawn_from, tensors[1]).backward()
        adam.step()
        schedule.step()
    expected = torch.sigmoid(logit.detach()).numpy()
    assert abs(expected - mean).max() > 0.002
    assert moved_mean(mean, sigma, genomes, advantages) == pytest.approx(expected.clip(0.01, 0.99), abs=1e-6)


def test_equal_rewards_move_nothing():
    mean, sigma, genomes, _ = draws(0)
    assert moved_mean(mean, sigma, genomes, numpy.zeros(6)) == pytest.approx(mean, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 100.0]), st.floats(1e-4, 0.2))
def test_the_mean_stays_a_mean_at_any_scale(seed, scale, sigma):
    mean, _, _, advantages = draws(seed, genes=82)
    genomes = (mean + sigma * numpy.random.default_rng(seed).normal(size=(6, 82))).clip(0, 1)
    moved = moved_mean(mean, sigma, genomes, scale * advantages)
    assert numpy.isfinite(moved).all() and (moved >= 0.01).all() and (moved <= 0.99).all()


def test_sigma_shrinks_linearly_and_never_to_nothing():
    algorithm = PPO(200, 2, seed=0, generations=4)
    for expected in (0.2, 0.15, 0.1, 0.05):
        assert algorithm.sigma == pytest.approx(expected)
        mean, genomes = algorithm.mean, algorithm.ask()
        spread = numpy.std(numpy.array(genomes) - mean)
        assert spread == pytest.approx(expected, rel=0.15)
        algorithm.tell([0.0, 0.0])
    with pytest.raises(ValueError, match="all 4 generations have been told"):
        algorithm.ask()


def test_draws_are_the_distributions():
    # Near the edge, where truncation matters: mean and variance by the density itself.
    algorithm = PPO(3000, 2, seed=0, initial=[[0.1] * 3000])
    genes = numpy.array(algorithm.ask()).ravel()
    middles = (numpy.arange(10_000)[:, None] + 0.5) / 10_000
    density = numpy.exp(log_truncated_normal(middles, numpy.array([0.1]), 0.2)[0]).ravel() / 10_000
    mean = (density * middles.ravel()).sum()
    assert genes.mean() == pytest.approx(mean, abs=0.01)
    assert genes.std() == pytest.approx(math.sqrt((density * (middles.ravel() - mean) ** 2).sum()), abs=0.01)


def test_it_begins_at_the_initial_genome():
    start = [0.3, 0.6, 0.2]
    algorithm = PPO(3, 400, seed=0, initial=[start])
    assert algorithm.mean == start
    assert numpy.median(algorithm.ask(), axis=0) == pytest.approx(start, abs=0.05)
    assert PPO(3, 8, seed=0, initial=[[0.0, 1.0, 0.5]]).mean == [0.01, 0.99, 0.5]


def test_it_begins_where_the_draws_around_several_do_best():
    starts = [[0.2] * 20, [0.8] * 20, [0.5] * 20]
    algorithm = PPO(20, 8, seed=0, initial=starts)
    genomes = algorithm.ask()
    nearest = [min(range(3), key=lambda i, g=g: math.dist(g, starts[i])) for g in genomes]
    assert nearest == [0, 0, 0, 1, 1, 1, 2, 2]
    fitnesses = [10.0, 11.0, 12.0, 20.0, 50.0, 21.0, 22.0, 40.0]  # averages 11, 30.3 and 31
    algorithm.tell(fitnesses)
    rewards = numpy.array(fitnesses[6:])
    expected = moved_mean(numpy.array(starts[2]), 0.2, numpy.array(genomes[6:]), rewards - rewards.mean())
    assert algorithm.mean == expected.tolist()
    assert math.dist(algorithm.mean, starts[2]) < 0.5
    assert len(algorithm.ask()) == 8


def test_equal_starts_are_one():
    # By default a search begins with the config's own loss and the identity, which may be the same.
    two, one = PPO(4, 6, seed=0, initial=[[0.5] * 4] * 2), PPO(4, 6, seed=0, initial=[[0.5] * 4])
    assert two.ask() == one.ask()


def test_rewards_count_by_their_difference_from_their_mean():
    means = []
    for shift in (0.0, 64.0):
        algorithm = PPO(5, 6, seed=0)
        algorithm.tell([shift + 4.0 * place for place in range(len(algorithm.ask()))])
        means.append(algorithm.mean)
    assert means[0] == means[1]


def test_it_does_not_follow_noise_alone():
    # Fitnesses that know nothing of the genome: the mean strays, but not to the edges.
    rng = random.Random(0)
    algorithm = PPO(20, 8, seed=0, generations=20)
    for _ in range(20):
        algorithm.tell([rng.random() for _ in algorithm.ask()])
    assert 0.2 < min(algorithm.mean) and max(algorithm.mean) < 0.8


def test_generations_must_be_positive():
    with pytest.raises(UserError, match="generations must be at least 1, not 0"):
        PPO(3, 4, seed=0, generations=0)
