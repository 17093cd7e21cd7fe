from made_searches import row

from paramap_d2.search.report import tables


def test_a_generation_in_numbers():
    rows = [
        row(1, 0, 20.0, seconds=60.0),
        row(2, 0, 30.0, seconds=60.0),
        row(3, 0, 25.0, stage="repeat", genome=row(2).genome, seed=1, seconds=60.0),
        row(4, 1, 5.0, "stopped", seconds=60.0),
        row(5, 1, 0.0, "failed", seconds=60.0, cause="killed"),
        row(6, 1, 0.0, "interrupted", seconds=60.0),
        row(7, 1, 29.0, seconds=60.0),
        row(8, 1, 40.0, stage="final", seconds=60.0),
    ]
    table = tables.generation_table(rows)
    assert [dict(zip([name for name, _ in table.columns], r, strict=True)) for r in table.rows] == [
        {
            "generation": 0,
            "proxies": 2,
            "to the end": 2,
            "ended early": 0,
            "failed": 0,
            "lowest": "20.00",
            "median": "25.00",
            "highest": "30.00",
            "best so far": "30.00",
            "time spent": "2 min",
        },
        {
            "generation": 1,
            "proxies": 3,
            "to the end": 1,
            "ended early": 1,
            "failed": 1,
            "lowest": "29.00",
            "median": "29.00",
            "highest": "29.00",
            "best so far": "27.50",  # the mean of the one with two seeds
            "time spent": "7 min",
        },
    ]
    assert tables.generation_table([]).rows == []
    assert tables.generation_table([row(1, 0, 0.0, "failed")]).rows[0][5:9] == ["–"] * 4


def test_ap_of_each_class():
    def of(**classes):
        return row(1, metrics={"bbox/AP": 1.0, "bbox/AP50": 2.0, **{f"bbox/AP-{k}": v for k, v in classes.items()}})

    table = tables.class_table({"linear": [of(RBC=30.0, WBC=20.0)], "#4": [of(RBC=40.0), of(RBC=50.0)]}, "means")
    assert [name for name, _ in table.columns] == ["class", "linear", "#4", "difference"]
    assert table.rows == [["RBC", "30.00", "45.00", "+15.00"], ["WBC", "20.00", "–", "–"]]
    assert tables.class_table({"linear": [of(RBC=30.0)]}, "means").rows == [["RBC", "30.00"]]
    assert tables.class_table({"linear": [of()]}, "means") is None


def test_versions_and_machines_by_evaluation():
    old, new = {"torch": "2.13"}, {"torch": "2.14", "machine": "one"}
    rows = [row(1), row(2, versions=old), row(3, versions=new), row(4, versions=new)]
    table = tables.version_table(rows, {"options": {"threads": 2}})
    assert [name for name, _ in table.columns] == ["evaluations", "how many", "torch", "machine", "threads each"]
    assert table.rows == [["2 to 2", 1, "2.13", "–", 2], ["3 to 4", 2, "2.14", "one", 2]]
    assert tables.version_table(rows[:1], {}) is None


def test_a_proxy_that_was_tried_again_stands_with_its_last_try():
    rows = [
        row(1, 0, 0.0, "failed", cause="killed", position=1),
        row(2, 0, 20.0, position=1, genome=row(1).genome, attempt=2),
    ]
    assert tables.generation_table(rows).rows[0][:5] == [0, 1, 1, 0, 0]
