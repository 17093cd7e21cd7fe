"""The picture of where a search has looked: every loss as a line across its genes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from paramap_d2.search.space import SearchSpace
from paramap_d2.search.store import ENQUEUED, FINISHED, SEARCH, Evaluation

from .drawing import LETTERS, PLACEHOLDERS, inline_svg
from .history import Names

MOST_LINES = 300
"""Parallel coordinates show this many of the best genomes; more are one grey mass and megabytes."""

_DASHES = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))


def genes_svg(
    evaluations: Sequence[Evaluation],
    space: SearchSpace,
    head: str,
    best: Sequence[float] | None = None,
    names: Names | None = None,
) -> str:
    """Parallel coordinates of the genes of one head, coloured by fitness (by rank: lowest to highest), and the higher
    the broader.

    At most the :data:`MOST_LINES` best are drawn; the losses with a name are dashed, the genome ``best`` emphasised.
    """
    palette, names = PLACEHOLDERS, names or {}
    genes = [(i, name.split(".")[1:]) for i, name in enumerate(space.gene_names) if name.split(".")[0] == head]
    columns = [i for i, _ in genes]
    finished = [e for e in evaluations if e.status == FINISHED and e.stage in (SEARCH, ENQUEUED)]
    finished = sorted(finished, key=lambda e: e.fitness)[-MOST_LINES:]
    with matplotlib.rc_context(palette.rc(LETTERS)):
        figure = Figure(figsize=(max(5.0, 0.32 * len(genes) + 0.8), 3.4), layout="constrained")
        ax = figure.subplots()
        x = np.arange(len(genes))
        ranks = np.arange(len(finished)) / max(len(finished) - 1, 1)
        lines = [np.column_stack([x, np.take(e.genome, columns)]) for e in finished]
        ax.add_collection(
            LineCollection(lines, colors=[palette.of(rank) for rank in ranks], linewidths=0.4 + 1.2 * ranks)
        )
        if best is not None:
            y = np.take(best, columns)
            ax.plot(x, y, color=palette.page, linewidth=5)
            ax.plot(x, y, "-o", color=palette.best, linewidth=2, markersize=3.5, clip_on=False, label="best")
        for i, (genome, name) in enumerate(names.items()):
            y = np.take(genome, columns)
            ax.plot(x, y, color=palette.page, linewidth=3.2)
            ax.plot(x, y, linestyle=_DASHES[i % len(_DASHES)], color=palette.ink, linewidth=1.4, label=name)
        ax.set(xlim=(-0.6, len(genes) - 0.4), ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "½", "1"])
        ax.set_xticks(x, ["scale" if len(name) == 1 else name[1] for _, name in genes])
        ax.tick_params(axis="x", length=2)
        if "scale" in (text.get_text() for text in ax.get_xticklabels()):
            ax.get_xticklabels()[-1].set_rotation(90)
        ax.set_ylabel("gene")
        functions = [name[0] if len(name) == 2 else "" for _, name in genes]
        for start in (i for i in range(len(genes)) if i == 0 or functions[i] != functions[i - 1]):
            if start:
                ax.axvline(start - 0.5, color=palette.muted, linewidth=0.9)
            ax.text(start + functions.count(functions[start]) / 2 - 0.5, 1.03, functions[start], ha="center")
        if ax.get_legend_handles_labels()[1]:
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=4, borderpad=0)
    return inline_svg(figure, f"genes-{head}", f"Parallel coordinates of the genes of head {head}", scroll=True)
