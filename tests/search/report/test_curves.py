from made_searches import row

from paramap_d2.search.report.curves import Look, looks, watched

ROWS = [
    row(1, 0, 30.0, curve=[[25, 8.0], [50, 15.0]], planned=100),
    row(2, 0, 12.0, "stopped", curve=[[25, 6.0], [50, 12.0]], iterations=50, planned=100),
    row(3, 0, 4.0, "stopped", curve=[[25, 4.0]], iterations=25, planned=100),
    row(4, 0, 0.0, "diverged", curve=[[25, 9.0]], planned=100),
    row(5, 0, 20.0),
    row(6, 0, 33.0, stage="final", curve=[[25, 9.0]]),
]


def test_what_proxies_had_where_they_were_looked_at():
    assert [e.id for e in watched(ROWS)] == [1, 2, 3]
    assert looks(ROWS) == [Look(25, 3, 6.0, 1), Look(50, 2, 13.5, 1)]
    assert looks(ROWS[4:]) == []
