"""A catalogue from anybody's lots, with judgments and clicks where there are any."""

import csv
import json

import pytest

from catalog.folder import REJECTS_FILE
from catalog.item_catalog import prepare
from catalog.judgment_files import read_judgments
from catalog.pseudo_queries import Listing, make_pseudo_queries
from catalog.query_splits import query_key
from retrieval.contracts.item_files import ReadingLog
from retrieval.errors import InvalidInput

BRANDS = ("Acme", "Brio", "Corda")
COLOURS = ("red", "blue", "green", "gold", "black", "white", "steel", "amber")
TYPES = ("patch cable", "desk lamp", "laptop bag", "wall mirror")
LOTS = [
    {
        "id": f"{brand}-{colour}-{kind.split()[1]}",
        "name": f"{brand} {colour} {kind}",
        "description": f"One of our {kind}s, cables, lamps, bags and mirrors.",
        "brand": brand,
        "category": f"Shop > {kind.title()}s",
    }
    for brand in BRANDS
    for colour in COLOURS
    for kind in TYPES
]
QUERIES = [f"{colour} {kind.split()[1]}" for colour in COLOURS for kind in TYPES]


def write_csv(path, rows, separator=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def lots(tmp_path):
    return write_csv(tmp_path / "lots.csv", LOTS)


def all_judgments(tmp_path, name="judgments.csv", grade=3, headers=("query", "item_id", "grade")):
    rows = [
        dict(zip(headers, (query, lot["id"], grade), strict=True))
        for query in QUERIES
        for lot in LOTS
        if set(query.split()) <= set(lot["name"].split())
    ]
    return write_csv(tmp_path / name, rows)


def test_lots_alone_give_pairs_and_validation_queries(lots, tmp_path):
    catalog = prepare(lots, tmp_path / "catalog")
    pairs, val = catalog.pairs("train"), catalog.qrels("val")
    typed = {pair.query for pair in pairs if pair.lot_text is None}
    assert {"patch cable", "acme desk lamp"} <= typed | set(val.queries.values())
    assert any(pair.lot_text for pair in pairs), "titles find descriptions"
    assert val.queries, "nothing is judged, so pseudo-queries validate"
    assert not {query_key(text) for text in val.queries.values()} & {query_key(text) for text in typed}
    assert not catalog.qrels("test").queries
    assert catalog.example_queries


def test_titles_of_one_word_give_validation_queries_too(tmp_path):
    kinds = ("Dress", "Shirt", "Skirt", "Shoes", "Hat", "Pants", "Polo", "Body", "Top", "Blazer")
    lots = write_csv(tmp_path / "lots.csv", [{"id": n, "name": kinds[n % len(kinds)]} for n in range(100)])
    catalog = prepare(lots, tmp_path / "catalog")
    grades, trained = catalog.qrels("val").grades, {pair.query for pair in catalog.pairs("train")}
    assert [len(answers) for answers in grades.values()] == [10, 10]
    assert len(trained) == len(kinds) - len(grades)


def test_a_handful_of_lots_is_left_to_train_on(tmp_path):
    lots = write_csv(tmp_path / "lots.csv", [{"id": n, "name": name} for n, name in enumerate(("Dress", "Shirt", "Hat"))])
    catalog = prepare(lots, tmp_path / "catalog")
    assert not catalog.has_queries("val")
    assert {pair.query for pair in catalog.pairs("train")} == {"dress", "shirt", "hat"}


def test_a_category_is_searched_by_its_last_part(lots, tmp_path):
    kinds = make_pseudo_queries([Listing(str(n), f"Thing {n}", category="Home > Garden Gnomes") for n in range(3)])
    assert {(query.query, query.kind) for query in kinds} == {("garden gnomes", "category")}


def test_titles_in_other_languages_give_queries_of_their_words():
    titles = ("مزهرية زجاج حمراء", "مصباح مكتب أسود", "حقيبة جلد")
    listings = [Listing(str(n), title) for n, title in enumerate(titles)]
    assert not make_pseudo_queries(listings)
    queries = {query.query for query in make_pseudo_queries(listings, from_titles=True)}
    assert len(queries) >= 5
    assert all(any(query in " ".join(title.split()) for title in titles) for query in queries if "ح" in query[:1])


def test_judged_queries_are_split_by_query_and_train_on_train_alone(lots, tmp_path):
    catalog = prepare(lots, tmp_path / "catalog", judgments=all_judgments(tmp_path))
    queries = {split: set(catalog.qrels(split).queries.values()) for split in catalog.splits}
    assert set.union(*queries.values()) == set(QUERIES)
    assert sum(map(len, queries.values())) == len(QUERIES)
    trained = {query_key(pair.query) for pair in catalog.pairs("train")}
    held_out = {query_key(query) for split in ("val", "test") for query in queries[split]}
    assert queries["train"]
    assert held_out
    assert not trained & held_out
    assert queries["train"] <= {pair.query for pair in catalog.pairs("train") if pair.weight == 1.0}


def test_judgments_can_measure_only(lots, tmp_path):
    catalog = prepare(lots, tmp_path / "catalog", judgments=all_judgments(tmp_path), test_only=True)
    assert set(catalog.qrels("test").queries.values()) == set(QUERIES)
    assert not {query_key(pair.query) for pair in catalog.pairs("train")} & {query_key(query) for query in QUERIES}
    assert catalog.qrels("val").queries.keys().isdisjoint(catalog.qrels("test").queries)


def test_clicks_train_and_are_judgments(lots, tmp_path):
    rows = [
        {"query": query, "item_id": lot["id"], "position": 1, "event_type": "bid", "buyer_id": "ann", "timestamp": "2026-11-21"}
        for query in QUERIES
        for lot in LOTS
        if set(query.split()) <= set(lot["name"].split())
    ]
    catalog = prepare(lots, tmp_path / "catalog", clicks=write_csv(tmp_path / "clicks.csv", rows))
    assert sum(len(catalog.clicks(split)) for split in catalog.splits) == len(rows)
    clicked = set(catalog.qrels("train").queries.values())
    assert clicked <= {pair.query for pair in catalog.pairs("train")}
    assert catalog.example_queries[0] in QUERIES


@pytest.mark.parametrize(
    "headers",
    [("query", "item_id", "grade"), ("Search Term", "SKU", "Rating"), ("q", "productId", "Relevance"), ("query", "docid", "label")],
)
def test_columns_of_judgments_are_recognised_as_people_have_them(tmp_path, headers):
    path = all_judgments(tmp_path, headers=headers)
    grades = read_judgments(path, {lot["id"] for lot in LOTS}).grades
    assert set(grades) == set(QUERIES)
    assert set(grades["red cable"].values()) == {3}


@pytest.mark.parametrize(
    ("written", "grades", "notice"),
    [
        (("0", "1", "3"), (0, 1, 3), ""),
        (("0", "1", "1"), (0, 2, 2), "1 counts as relevant"),
        (("1", "2", "4"), (1, 2, 3), "scaled"),
        (("0", "50", "100"), (0, 2, 3), "scaled"),
        (("I", "S", "E"), (0, 2, 3), ""),
        (("irrelevant", "Not relevant", "relevant"), (0, 0, 2), ""),
    ],
)
def test_grades_of_other_scales_become_0_to_3(tmp_path, written, grades, notice):
    rows = [{"query": "vase", "id": str(n), "grade": grade} for n, grade in enumerate(written)]
    judged = read_judgments(write_csv(tmp_path / "j.tsv", rows, "\t"), {"0", "1", "2"})
    assert judged.grades == {"vase": {str(n): grade for n, grade in enumerate(grades)}}
    assert notice in " ".join(judged.notices)


def test_broken_judgments_are_set_aside_with_their_reason(lots, tmp_path):
    rows = [
        {"query": "red cable", "item_id": "Acme-red-cable", "grade": "3"},
        {"query": "red cable", "item_id": "no-such-lot", "grade": "3"},
        {"query": " ", "item_id": "Acme-red-cable", "grade": "3"},
        {"query": "red cable", "item_id": "Acme-red-cable", "grade": "good!"},
        {"query": "red cable", "item_id": "Brio-red-cable", "grade": "-1"},
    ]
    catalog = prepare(lots, tmp_path / "catalog", judgments=write_csv(tmp_path / "j.csv", rows))
    rejects = [json.loads(line) for line in (catalog.path / REJECTS_FILE).read_text().splitlines()]
    reasons = {reject["line"]: reject["reason"] for reject in rejects}
    assert set(reasons) == {3, 4, 6}
    assert "not among the items" in reasons[3]
    assert "query is empty" in reasons[4]
    assert "-1" in reasons[6]


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("query,item_id", "red,1", "no column for grade.*rating"),
        ("query,item_id,grade", "red,1,3", "no row of .* not among the items"),
    ],
)
def test_judgments_that_cannot_be_used_are_refused(tmp_path, header, row, says):
    (tmp_path / "j.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(InvalidInput, match=says):
        read_judgments(tmp_path / "j.csv", {"7"})


def test_files_without_a_lot_are_refused_with_the_first_reason(tmp_path):
    (tmp_path / "lots.csv").write_text("id,name\n,Vase\n")
    with pytest.raises(InvalidInput, match=r"gave no lot.*item_id"):
        prepare(tmp_path / "lots.csv", tmp_path / "catalog")


def test_what_was_understood_of_the_files_is_told(tmp_path):
    log = ReadingLog()
    write_csv(tmp_path / "lots.csv", [{**lot, "img": "a.jpg"} for lot in LOTS])
    prepare(tmp_path / "lots.csv", tmp_path / "catalog", log=log)
    assert any("did you mean image" in line for line in log.lines())


def test_judgments_may_lie_beside_the_lots(lots, tmp_path):
    catalog = prepare(tmp_path, tmp_path.parent / f"{tmp_path.name}-catalog", judgments=all_judgments(tmp_path))
    assert sum(len(catalog.qrels(split).queries) for split in catalog.splits) == len(QUERIES)
