from made_searches import row

from paramap_d2.search.report.seeds import by_loss

FOUND, START = [0.1], [0.2]


def test_longer_trainings_stand_by_stage_length_and_mean():
    rows = [
        row(1, 0, 99.0, genome=FOUND),
        row(2, 0, 30.0, genome=START, stage="final", planned=300),
        row(3, 0, 35.0, genome=FOUND, stage="final", planned=300),
        row(4, 0, 50.0, genome=FOUND, stage="final", planned=600),
        row(5, 0, 31.0, genome=START, stage="confirm", planned=300),
        row(6, 0, 33.0, genome=FOUND, stage="confirm", planned=300),
        row(7, 0, 0.0, "diverged", genome=FOUND, stage="confirm", planned=300, seed=1),
        row(8, 0, 0.0, "failed", genome=START, stage="confirm", planned=300, seed=1, cause="killed"),
    ]
    groups = by_loss(rows, {(0.1,): "found", (0.2,): "linear"})
    assert [(g.loss, g.stage, g.iterations, g.mean) for g in groups] == [
        ("linear", "confirm", 300, 31.0),
        ("found", "confirm", 300, 16.5),  # diverging is the loss's own, being killed is not
        ("found", "final", 600, 50.0),
        ("found", "final", 300, 35.0),
        ("linear", "final", 300, 30.0),
    ]
    assert groups[0].label == "linear, confirming trainings of 300 iterations"
