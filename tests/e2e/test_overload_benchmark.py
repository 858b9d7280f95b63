"""The benchmark of overload, small: every load is told, and a server with half-sent requests stops."""

import pytest

from benchmarks.reliability.overload import BOMB_ID, HALF_SENT, run_benchmark, temporary_workspace

RUSHES = [
    "1 × capacity",
    "2 × capacity",
    "3 × capacity",
    "half of the capacity",
    "half, and a monstrous photo",
    "half, and half-sent requests",
]


@pytest.mark.timeout(1_200)  # a home is made and a server started first
def test_every_load_is_measured_and_the_server_stops_although_requests_are_half_sent() -> None:
    phases: list[str] = []
    with temporary_workspace(60, bomb_side=1_000) as home:
        result = run_benchmark(home, BOMB_ID, seconds=1.0, rounds=2, half_sent=HALF_SENT, on_phase=phases.append)
    assert list(result.rushes) == RUSHES
    assert set(RUSHES) < set(phases)
    assert result.lots == 61
    assert result.capacity > 0
    for rush in result.rushes.values():
        answered = rush.latency.searches if rush.latency else 0
        assert rush.outcomes.get("200", 0) == answered
        assert sum(rush.outcomes.values()) > 0
        assert all(0 <= share < 2 for share in rush.shares), "a busy machine may answer nothing within a second"
    assert [len(rush.shares) for rush in result.rushes.values()] == [2, 2, 2, 1, 1, 1]
    assert result.half_sent == (HALF_SENT, HALF_SENT)
    assert result.stop_s < 10
