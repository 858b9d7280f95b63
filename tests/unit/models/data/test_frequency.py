"""The streaming estimate of how often an item comes."""

import numpy as np
import pytest
import torch

from models.data.sampling_frequency import StreamingFrequency
from retrieval.errors import InvalidInput

ITEMS, BATCH = 500, 32


def zipf_batches(batches: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Batches drawn with chances 1 / rank, and the chance that a batch holds each item."""
    chances = 1 / np.arange(1, ITEMS + 1)
    chances /= chances.sum()
    stream = np.random.default_rng(seed).choice(ITEMS, size=(batches, BATCH), p=chances)
    return stream, 1 - (1 - chances) ** BATCH


def test_the_estimate_converges_on_a_zipf_stream() -> None:
    stream, truth = zipf_batches(8000)
    frequency = StreamingFrequency(buckets=1 << 14, alpha=0.01)
    errors = []
    for step, batch in enumerate(stream, 1):
        frequency.update(batch)
        if step in (100, 8000):
            errors.append(np.abs(frequency.log_q(np.arange(ITEMS)) - np.log(truth)).mean())
    assert errors[1] < 0.15 < errors[0], "mean error of log q"
    assert np.corrcoef(frequency.log_q(np.arange(ITEMS)), np.log(truth))[0, 1] > 0.98


def test_the_estimate_follows_a_stream_that_changes() -> None:
    frequency = StreamingFrequency(buckets=1 << 10, alpha=0.05)
    for step in range(2000):
        frequency.update([1] if step < 1000 or step % 10 == 0 else [2])
    assert np.exp(frequency.log_q([1])[0]) == pytest.approx(0.1, rel=0.05)


def test_update_answers_for_its_batch_in_order_and_counts_a_repeated_item_once() -> None:
    once, twice = StreamingFrequency(64), StreamingFrequency(64)
    for batch in ([5, 9], [5], [9, 5]):
        found, repeated = once.update(batch), twice.update([batch[0], *batch])
        assert np.array_equal(found, once.log_q(batch))
        assert np.array_equal(repeated[1:], found)


def test_more_hashes_soften_collisions() -> None:
    stream, truth = zipf_batches(1500)
    errors = []
    for hashes in (1, 3):
        frequency = StreamingFrequency(buckets=512, hashes=hashes)
        for batch in stream:
            frequency.update(batch)
        errors.append(np.abs(frequency.log_q(np.arange(ITEMS)) - np.log(truth)).mean())
    assert errors[1] < errors[0]


def test_an_item_never_seen_is_rarer_than_any_seen() -> None:
    frequency = StreamingFrequency(1 << 12)
    for batch in ([1, 2], [1, 3], [1]):
        frequency.update(batch)
    assert frequency.log_q([77])[0] < frequency.log_q([1, 2, 3]).min()


def test_a_stream_goes_on_from_a_state_bit_for_bit() -> None:
    stream, _ = zipf_batches(60)
    whole, first, second = (StreamingFrequency(256) for _ in range(3))
    for batch in stream[:30]:
        whole.update(batch)
        first.update(batch)
    state = first.state_dict()
    second.load_state_dict(state)
    first.update(stream[0])  # the state is a copy: this must not reach the second
    for batch in stream[30:]:
        assert np.array_equal(whole.update(batch), second.update(batch))
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in second.state_dict().items())


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="buckets"):
        StreamingFrequency(64).load_state_dict(StreamingFrequency(32).state_dict())


@pytest.mark.parametrize("bad", [{"buckets": 0}, {"alpha": 0.0}, {"alpha": 1.5}, {"hashes": 0}])
def test_an_argument_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        StreamingFrequency(**bad)
