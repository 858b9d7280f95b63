"""Keyword searches under a filter: filtering the best documents first finds the same items as filtering all."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.embedded import top_k
from retrieval.index.embedded.database import ItemFields
from retrieval.index.embedded.filter_columns import DeletedItem, FilterColumns
from retrieval.index.filters import Filter

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def columns_of(prices: list[float | None]) -> FilterColumns:
    """Lots at every second row; one without a price is deleted."""
    columns = FilterColumns()
    columns.append(
        [
            DeletedItem(2 * n) if price is None else ItemFields(2 * n, f"lot-{n:03}", 1, None, price, None, None, None)
            for n, price in enumerate(prices)
        ]
    )
    return columns


@pytest.fixture(autouse=True)
def few_at_first(monkeypatch):
    monkeypatch.setattr(top_k, "FIRST_DEPTH", 2)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 1.5]), st.sampled_from([None, 1.0, 9.0])), max_size=40),
    st.integers(1, 8),
)
def test_the_best_that_pass_are_found_however_few_of_the_first_do(lots, k):
    scores = np.array([score for score, _ in lots], dtype=np.float32)
    columns = columns_of([price for _, price in lots])
    results = top_k.top_k_keyword(scores, 2 * np.arange(len(lots)), columns, Filter(max_price=5, now=NOW), k)
    passing = [(score, f"lot-{n:03}", 2 * n) for n, (score, price) in enumerate(lots) if price == 1.0 and score > 0]
    expected = sorted(passing, key=lambda lot: (-lot[0], lot[1]))[:k]
    assert [(hit.score, hit.item_id, hit.row_id) for hit in results] == expected


def test_a_document_whose_lot_the_columns_do_not_know_yet_is_passed_over():
    results = top_k.top_k_keyword(np.array([2, 1], dtype=np.float32), np.array([0, 7]), columns_of([1.0]), Filter(now=NOW), 5)
    assert [hit.item_id for hit in results] == ["lot-000"]
