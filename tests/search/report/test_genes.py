import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_searches import SPACE, row

from paramap_d2.search.report.genes import MOST_LINES, genes_svg
from paramap_d2.search.space import SearchSpace


def texts(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    "space, head, labels",
    [
        (SPACE, "dense", 41),
        (SearchSpace(("rpn", "roi"), points=2), "roi", 21),
        (SearchSpace(("dense",), mode="shared"), "dense", 9),
        (SearchSpace(("dense",), grad_scale=2.0), "dense", 40),
    ],
)
def test_parallel_coordinates_have_an_axis_for_each_gene(space, head, labels):
    genomes = np.random.default_rng(0).random((3, space.genes))
    evaluations = [row(k, 0, 10.0 * k, genome=g.tolist()) for k, g in enumerate(genomes, 1)]
    svg = genes_svg(evaluations, space, head, evaluations[-1].genome)
    axes = [text for text in texts(svg) if re.fullmatch(r"[xy]\d|scale", text or "")]
    assert len(axes) == labels
    assert ("scale" in axes) == (space.grad_scale is None)
    assert ("all functions" in texts(svg)) == (space.mode == "shared")


def test_parallel_coordinates_colour_by_rank_and_stay_small():
    few = [row(k, 0, float(k)) for k in range(1, 4)]
    svg = genes_svg(few, SPACE, "dense")
    assert {"ramp0", "ramp6", "ramp11"} <= set(re.findall(r"var\(--(\w+)\)", svg))
    assert "stroke: var(--best)" not in svg
    many = [row(k, 0, float(k)) for k in range(1, 3 * MOST_LINES)]
    most = genes_svg(many[-MOST_LINES:], SPACE, "dense")
    assert len(genes_svg(many, SPACE, "dense")) == len(most)
