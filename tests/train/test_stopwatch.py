"""Times of steps: each second is in one row, whatever the sittings."""

from types import SimpleNamespace

from qtrain.train import stopwatch


def test_sittings_add_up(monkeypatch):
    """Two sittings of 3 and 2 steps, with 100 s of something else between the steps.

    Kills: rows of the whole sitting instead of what came since the last one; `start` left out.
    """
    now = [0.0]
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    first = stopwatch.Stopwatch()
    rows = []
    for steps in (2, 1):
        now[0] += 100.0
        first.start()
        now[0] += 1.0 * steps
        first.lap(steps)
        rows.append(first.row())
    assert rows == [{"seconds": 2.0, "steps": 2}, {"seconds": 1.0, "steps": 1}]
    assert first.row() is None
    assert first.mean == 1.0
    second = stopwatch.Stopwatch()
    assert second.mean is None
    second.resume(rows)
    now[0] += 6.0
    second.lap(2)
    assert second.mean == 9.0 / 5
