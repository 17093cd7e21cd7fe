"""A classifier of which few examples are positive, trained for its average precision: the quality of a positive is 1.

python few_positives.py
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from paramap_d2.losses import ParameterizedAPLoss, load_loss


def examples(count, generator, share=0.01):
    """Points of the plane; the positives, one in a hundred, lie near a circle that others cross, too."""
    x = 4 * torch.randn(count, 2, generator=generator)
    positive = torch.rand(count, generator=generator) < share
    angle = 6.2832 * torch.rand(count, generator=generator)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2, generator=generator)
    return torch.where(positive[:, None], circle, x), positive


def average_precision(scores, positive):
    hits = positive[scores.argsort(descending=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return (precision * hits).sum().item() / hits.sum().item()


def train(loss_fn, seed, steps=1000):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        x, positive = examples(2000, generator)
        loss = loss_fn(model(x).squeeze(1), positive)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, positive = examples(20000, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        return average_precision(model(x).squeeze(1), positive)


ap_loss = ParameterizedAPLoss(load_loss("linear")["dense"].functions)


def ranking(scores, positive):
    return ap_loss(scores, positive.to(scores), positive.long())


def cross_entropy(scores, positive):
    return binary_cross_entropy_with_logits(scores, positive.to(scores))


if __name__ == "__main__":
    for name, loss_fn in (("this loss", ranking), ("cross-entropy", cross_entropy)):
        print(name, *(f"{100 * train(loss_fn, seed):.1f}" for seed in range(3)))
