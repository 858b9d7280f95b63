"""Prices, dates, empty markers and HTML as people write them."""

from datetime import UTC, datetime

import pytest

from retrieval.contracts.written_values import Convention, html_text, is_empty_marker, read_date, read_number
from retrieval.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "comma", "point"),
    [
        ("12", 12, 12),
        ("1.299,00", 1299, None),
        ("1,299.00", None, 1299),
        ("12,50", 12.5, None),
        ("12.50", None, 12.5),
        ("1,299", 1.299, 1299),
        ("1.299", 1299, 1.299),
        ("1.234.567", 1234567, None),
        ("1234.567", None, 1234.567),
        ("0.125", None, 0.125),  # no group of thousands begins with 0
        ("€12", 12, 12),
        ("12 EUR", 12, 12),
        ("EUR 12,50", 12.5, None),
        ("US$ 1,299.99", None, 1299.99),
        ("1 299,00\u00a0€", 1299, None),
        ("CHF 1'299.50", None, 1299.5),
        ("12,-", 12, None),
        ("1,00,000.00", None, 100_000),  # groups of India
        ("1_000", 1000, 1000),
        ("1e3", 1000, 1000),
        ("１２", 12, 12),
        ("٥٠٫٥", 50.5, 50.5),
        ("-5", None, None),
        ("1e13", None, None),
        ("0x10", None, None),
        ("about 12", None, None),
        (",", None, None),
    ],
)
def test_a_price_is_read_under_both_decimal_signs(text, comma, point):
    assert read_number("current_price", text) == (comma, point)


@pytest.mark.parametrize(
    ("field", "text", "readings"),
    [
        ("bid_count", "1,234", (None, 1234)),  # no count has a fraction
        ("bid_count", "3.0", (None, 3)),
        ("bid_count", "3.000", (3000, 3)),
        ("seller_rating", "4.500", (None, 4.5)),  # no rating is beyond 5
        ("seller_rating", "4,5", (4.5, None)),
    ],
)
def test_the_range_of_a_field_rules_out_a_reading(field, text, readings):
    assert read_number(field, text) == readings


def day(month, number, hour=0, minute=0, second=0, year=2026):
    return datetime(year, month, number, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "day_first", "month_first"),
    [
        ("03/04/2026", day(4, 3), day(3, 4)),
        ("3-4-2026 7:05", day(4, 3, 7, 5), day(3, 4, 7, 5)),
        ("31/12/2026 18:00", day(12, 31, 18), None),
        ("12/31/2026 6:00 PM", None, day(12, 31, 18)),
        ("03.04.2026", day(4, 3), day(4, 3)),  # with points, the day is first everywhere
        ("2026/04/03", day(4, 3), day(4, 3)),
        ("3 Apr 2026", day(4, 3), day(4, 3)),
        ("April 3rd, 2026 at 10:00 AM PST", day(4, 3, 18), day(4, 3, 18)),
        ("Jun-29-26 16:00:01 PDT", day(6, 29, 23, 0, 1), day(6, 29, 23, 0, 1)),  # as eBay writes it
        ("Fri, 03 Apr 2026 10:00:00 +0200", day(4, 3, 8), day(4, 3, 8)),
        ("31/31/2026", None, None),
        ("3/4/26", None, None),
        ("3 Apr 2026 10:00 XYZ", None, None),
        ("2026-04-03", None, None),  # ISO 8601 is read elsewhere
    ],
)
def test_a_date_is_read_with_the_day_first_and_with_the_month_first(text, day_first, month_first):
    assert read_date("ends_at", text) == (day_first, month_first)


def column(*texts, chosen=None):
    convention = Convention("current_price", ("comma", "point"), "--decimal", read_number, chosen)
    for text in texts:
        convention.observe(text)
    return convention


@pytest.mark.parametrize(
    ("texts", "chosen", "expected"),
    [
        (("1.299", "12,50"), None, {"1.299": 1299, "12,50": 12.5, "7": 7, "x": "x"}),
        (("1.299", "12.50"), None, {"1.299": 1.299}),
        (("1.299",), "comma", {"1.299": 1299}),
        (("12,50", "12.50"), None, {"12,50": 12.5, "12.50": 12.5}),  # certain by themselves
    ],
)
def test_the_whole_column_decides_how_a_value_is_read(texts, chosen, expected):
    convention = column(*texts, chosen=chosen)
    assert {text: convention.value(text) for text in expected} == expected


def test_an_ambiguous_column_is_undecided_and_never_guessed():
    assert column("1.299", "5").undecided
    assert not column("5", "7").undecided
    assert not column("1.299", "5", chosen="point").undecided


def test_an_ambiguous_value_in_a_column_of_both_forms_is_refused_with_the_option():
    with pytest.raises(InvalidInput, match=r"ambiguous: '1\.299'.*--decimal comma\|point"):
        column("12,50", "12.50", "1.299").value("1.299")


def test_a_value_against_the_chosen_form_is_refused():
    with pytest.raises(InvalidInput, match=r"not written as --decimal comma says: '12\.50'"):
        column("12.50", chosen="comma").value("12.50")


@pytest.mark.parametrize("value", ["NULL", "nan", "None", "NaT", "\\N", "n/a", " - ", "inf", "0000-00-00", "0000-00-00 00:00:00"])
def test_a_marker_of_no_value_is_one_in_a_field_of_numbers_or_times(value):
    assert is_empty_marker("current_price", value)
    assert is_empty_marker("ends_at", value)


@pytest.mark.parametrize("value", ["Inf", "nano", "0", "x", 0, 5.0])
def test_other_values_are_no_markers(value):
    assert not is_empty_marker("brand", value)


def test_infinity_is_a_marker_as_a_number_too():
    assert is_empty_marker("current_price", float("inf"))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Vase &amp; stand", "Vase & stand"),
        ('<p style="color:red">Blue&nbsp;glass<br/>hand&#45;blown</p>', "Blue glass\nhand-blown"),
        ("<table><tr><td>Height</td><td>30&nbsp;cm</td></tr></table><script>var x=1</script>", "Height 30 cm"),
        ("<style>p {}</style>Vase<!-- note -->", "Vase"),
        ("&lt;p&gt;Blue&lt;/p&gt;", "Blue"),  # escaped once more, as feeds write it
        ("a < b and c > d", "a < b and c > d"),
        ("a<b and c>d <3", "a<b and c>d <3"),
        ("TV <55 inch>, R&D &copy", "TV <55 inch>, R&D &copy"),
        ("<B>Bold</B> <h2>Head</h2>text", "Bold\nHead\ntext"),
        ("<p>not closed", "not closed"),
    ],
)
def test_html_is_read_as_the_text_that_a_browser_shows(written, text):
    assert html_text(written) == text
