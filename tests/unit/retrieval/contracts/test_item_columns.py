"""Columns and files as people have them: headers of well-known exports, encodings, formats, folders."""

import gzip
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.contracts.item_columns import map_columns, parse_columns, unique_names
from retrieval.contracts.item_files import ReadingLog, ReadOptions, read_items
from retrieval.contracts.item_folders import list_item_files
from retrieval.contracts.items import Item, Reject
from retrieval.errors import InvalidInput

VASE = [Item("1", "Vase")]
A_B = ("http://a.b/w_3,h_2/1.jpg", "http://a.b/2", "http://a.b/3", "http://a.b/4")


def read(path, log=None, **options):
    return list(read_items(path, ReadOptions(**options), log))


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


EXPORTS = {
    "Shopify": (
        "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Variant SKU,Variant Price,Image Src,Status\n"
        'vase,Vase,<p>Blue &amp; old</p>,Acme,Home > Vases,Vases,blue,TRUE,S1,"1,299.50",vase.jpg,active\n',
        Item("vase", "Vase", "Blue & old", "vase.jpg", "Home > Vases", "Acme", 1299.5, attributes={"Tags": "blue"}),
    ),
    "Shopify of 2025": (
        "Title,URL handle,Description,Vendor,Product category,Type,SKU,Price,Compare-at price,Product image URL,Image position\n"
        "Vase,vase,Blue,Acme,Home > Vases,Vases,S1,12.50,20.00,vase.jpg,1\n",
        Item("vase", "Vase", "Blue", "vase.jpg", "Home > Vases", "Acme", 12.5, attributes={"SKU": "S1"}),
    ),
    "WooCommerce": (
        "ID,Type,SKU,Name,Published,Short description,Description,Sale price,Regular price,Categories,Images,Brands\n"
        '7,simple,S1,Vase,1,x,Blue,"9,90","12,50",Home > Vases,"https://a.b/1.jpg, https://a.b/2.jpg",Acme\n',
        Item("7", "Vase", "Blue", "https://a.b/1.jpg", "Home > Vases", "Acme", 9.9, more_images=("https://a.b/2.jpg",)),
    ),
    "Google Merchant": (
        "id\ttitle\tdescription\tlink\timage_link\tprice\tbrand\tgoogle_product_category\tproduct_type\texpiration_date\n"
        "7\tVase\tBlue\thttps://a.b\tvase.jpg\t1299.50 EUR\tAcme\t602\tHome > Vases\t2027-01-31T13:00:00Z\n",
        Item("7", "Vase", "Blue", "vase.jpg", "Home > Vases", "Acme", 1299.5, ends_at=datetime(2027, 1, 31, 13, tzinfo=UTC)),
    ),
    "eBay, active listings": (
        "\ufeffItem number,Title,Custom label (SKU),Format,Currency,Start price,Reserve price,Current price,Bids,Start date,"
        "End date,eBay category 1 name,eBay category 1 number\n"
        '800,Vase,S1,AUCTION,USD,1.00,,12.50,3,"Jun-29-26 16:00:01 PDT","Jul-06-26 16:00:01 PDT",Vases,101\n',
        Item(
            "800",
            "Vase",
            category="Vases",
            current_price=12.5,
            bid_count=3,
            listed_at=datetime(2026, 6, 29, 23, 0, 1, tzinfo=UTC),
            ends_at=datetime(2026, 7, 6, 23, 0, 1, tzinfo=UTC),
        ),
    ),
    "eBay, upload template": (
        "*Action(SiteID=US|Version=1193),CustomLabel,*Category,*Title,PicURL,*Description,*StartPrice,C:Brand\n"
        "Add,S1,101,Vase,https://a.b/1.jpg|https://a.b/2.jpg,Blue,0.99,Acme\n",
        Item("S1", "Vase", "Blue", "https://a.b/1.jpg", "101", "Acme", 0.99, more_images=("https://a.b/2.jpg",)),
    ),
}


@pytest.mark.parametrize("source", EXPORTS)
def test_the_exports_of_well_known_programs_are_read_without_a_word(source, tmp_path):
    text, item = EXPORTS[source]
    log = ReadingLog()
    assert read(write(tmp_path / "lots.csv", text), log) == [item]
    assert f"read with the column names of {source.split(',')[0].removesuffix(' of 2025')}" in log.notices


def test_further_rows_of_a_shopify_product_are_told_as_such(tmp_path):
    text = "Handle,Title,Body (HTML),Image Src\nvase,Vase,Blue,1.jpg\nvase,,,2.jpg\n"
    _, further = read(write(tmp_path / "lots.csv", text))
    assert further == Reject(
        "lots.csv", 3, "the row has the id of the row before and no title: a further variant or photo of that lot", "vase"
    )


def test_case_spaces_and_camel_case_of_a_header_make_no_difference(tmp_path):
    path = write(tmp_path / "lots.csv", "ID, Title ,Price,endsAt,imageUrl,bidCount,BRAND\n1,Clock,12.5,2030-01-01,1.jpg,4,Casio\n")
    ends_at = datetime(2030, 1, 1, tzinfo=UTC)
    assert read(path) == [Item("1", "Clock", image="1.jpg", brand="Casio", current_price=12.5, bid_count=4, ends_at=ends_at)]


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("img", "image"),
        ("photo", "image"),
        ("endtime", "ends_at"),
        ("bids", "bid_count"),
        ("Manufacturer", "brand"),
        ("prise", "current_price"),
    ],
)
def test_a_column_that_is_not_used_is_listed_with_a_guess(name, guess):
    columns = map_columns(["id", "title", name, "warehouse"], {})
    assert columns.with_guesses([column.name for column in columns.attributes]) == [
        f"`{name}`: did you mean {guess}?",
        "`warehouse`",
    ]


def test_the_list_of_columns_without_a_field_reaches_the_log(tmp_path):
    path, log = write(tmp_path / "lots.csv", "id,title,img\n1,Vase,a.jpg\n"), ReadingLog()
    read(path, log)
    remedy = "`img`: did you mean image?; --column FIELD=COLUMN takes one"
    assert log.lines() == [f"lots.csv: columns that are kept as attributes: {remedy}"]
    log = ReadingLog()
    read(path, log, attributes=())
    assert log.lines() == [f"lots.csv: columns that are not used: {remedy}"]


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet"])
def test_a_chosen_column_is_taken_in_every_format(suffix, tmp_path):
    rows = [{"No": "1", "Headline": "Vase", "img": "a.jpg", "title": "other"}]
    path = tmp_path / f"lots.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        write(path, "No,Headline,img,title\n1,Vase,a.jpg,other\n")
    else:
        write(path, json.dumps(rows[0]))
    chosen = parse_columns(["item_id=no", "title=Headline", "image=img"])
    assert read(path, columns=tuple(chosen.items())) == [Item("1", "Vase", image="a.jpg", attributes={"title": "other"})]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("image", "names no column; write --column FIELD=COLUMN"),
        ("imge=x", "imge is no field; did you mean image=x?"),
        ("=x", "is no field"),
    ],
)
def test_a_wrong_choice_of_a_column_is_refused_with_a_remedy(value, message):
    with pytest.raises(InvalidInput) as error:
        parse_columns([value])
    assert message in str(error.value)


def test_a_chosen_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(InvalidInput, match=r"has no column `pic`, which --column image=pic names; it has `id`, `title`"):
        read(write(tmp_path / "lots.csv", "id,title\n1,Vase\n"), columns=(("image", ("pic",)),))


def test_a_missing_required_column_is_told_with_the_option_that_names_it(tmp_path):
    with pytest.raises(InvalidInput, match=r"no column for title: .*; did you mean --column title=heading\?"):
        read(write(tmp_path / "lots.csv", "id,heading\n1,Vase\n"))


def test_headers_of_other_languages_are_told_as_one_line_of_options(tmp_path):
    german = "Artikelnr;Bezeichnung;Preis;Auktionsende\nM1;Stuhl;1.299,00;31.12.2030\n"
    with pytest.raises(InvalidInput) as error:
        read(write(tmp_path / "german.csv", german))
    names = {"item_id": "Artikelnr", "title": "Bezeichnung", "current_price": "Preis", "ends_at": "Auktionsende"}
    told = str(error.value).partition("did you mean ")[2].rstrip("?")
    assert told == " ".join(f"--column {field}={name}" for field, name in names.items())
    (lot,) = read(tmp_path / "german.csv", columns=tuple((field, (name,)) for field, name in names.items()))
    assert (lot.item_id, lot.title, lot.current_price) == ("M1", "Stuhl", 1_299.0)


def test_a_file_without_ids_says_what_to_add(tmp_path):
    with pytest.raises(InvalidInput, match=r"add a column of ids.*title=الاسم.*current_price=السعر"):
        read(write(tmp_path / "arabic.csv", "الاسم,السعر\nحليب,5\n"))


def test_of_two_columns_of_one_name_the_first_one_with_a_value_counts(tmp_path):
    assert unique_names(["id", "price", "price"]) == ["id", "price", "price (2)"]
    rows = read(write(tmp_path / "lots.csv", "id,title,price,price\n1,Vase,5,9\n2,Lamp,,9\n"))
    assert [row.current_price for row in rows] == [5, 9]
    table = pa.Table.from_arrays([pa.array(["1"]), pa.array(["Vase"]), pa.array(["Other"])], ["id", "title", "title"])
    pq.write_table(table, tmp_path / "lots.parquet")
    assert read(tmp_path / "lots.parquet") == VASE


@pytest.mark.parametrize(
    ("rows", "prices"),
    [
        ("1;Vase;12,50\n2;Lamp;1.234,00\n3;Chair;1.234\n", [12.5, 1234, 1234]),
        ('1;Vase;12.50\n2;Lamp;"1,234.00"\n3;Chair;1,234\n', [12.5, 1234, 1234]),
    ],
)
def test_the_decimal_sign_is_decided_by_the_whole_column(rows, prices, tmp_path):
    assert [row.current_price for row in read(write(tmp_path / "lots.csv", f"id;title;price\n{rows}"))] == prices


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "json", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "message", "option"),
    [
        (
            "price",
            "1.299",
            r"current_price can be read in two ways: '1\.299' is 1299 or 1\.299; .*--decimal point",
            {"decimal": "comma"},
        ),
        (
            "ends_at",
            "03/04/2031",
            "ends_at can be read in two ways: .* 03 April 2031 or 04 March 2031; .*--dates",
            {"dates": "day-first"},
        ),
    ],
)
def test_an_ambiguous_column_is_refused_until_an_option_tells(column, value, message, option, suffix, tmp_path):
    rows = [{"id": "1", "title": "Vase", column: value}, {"id": "2", "title": "Lamp", column: ""}]
    path = tmp_path / f"lots.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        write(path, f"id,title,{column}\n1,Vase,{value}\n2,Lamp,\n")
    else:
        write(path, json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidInput, match=message):
        read(path)
    first, _ = read(path, **option)
    assert first.current_price == (1299 if column == "price" else None)
    assert first.ends_at == (datetime(2031, 4, 3, tzinfo=UTC) if column == "ends_at" else None)


def test_a_column_that_cannot_tell_follows_the_other_numbers_of_its_file(tmp_path):
    (row,) = read(write(tmp_path / "lots.csv", 'id,title,price,seller_rating\n1,Vase,"1,299",4.5\n'))
    assert row.current_price == 1299


def test_markers_of_no_value_are_empty_and_counted(tmp_path):
    log = ReadingLog()
    text = "id,title,price,brand,ends_at\n1,Vase,NULL,None,0000-00-00\n2,Lamp,inf,Acme,NaT\n3,n/a,5,-,\n"
    rows = read(write(tmp_path / "lots.csv", text), log)
    assert rows == [Item("1", "Vase"), Item("2", "Lamp", brand="Acme"), Item("3", "n/a", current_price=5)]
    assert log.empty_values == {"current_price": 2, "brand": 2, "ends_at": 2}


def test_prices_in_several_currencies_are_told(tmp_path):
    log = ReadingLog()
    read(write(tmp_path / "lots.csv", "id,title,price\n1,Vase,€50\n2,Lamp,50 USD\n"), log)
    assert "current_price is written in several currencies, which are not converted: USD, €" in log.notices


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"image": ["a.jpg", "b.jpg"]}, {"image": "a.jpg", "more_images": ("b.jpg",)}),
        ({"image": "a.jpg|b.jpg, a.jpg"}, {"photos": ("a.jpg", "b.jpg")}),
        ({"image": "http://a.b/w_3,h_2/1.jpg http://a.b/2|http://a.b/3;http://a.b/4"}, {"photos": A_B}),
        ({"image": "my photo.jpg"}, {"photos": ("my photo.jpg",)}),
        ({"image": "a.jpg", "additional_image_link": "b.jpg,c.jpg"}, {"photos": ("a.jpg", "b.jpg", "c.jpg")}),
        ({"image": [f"{n}.jpg" for n in range(20)]}, {"photos": tuple(f"{n}.jpg" for n in range(12))}),
        ({"image": '["a.jpg", "b.jpg"]'}, {"image": "a.jpg"}),
        ({"image": [{"src": "a.jpg"}]}, {"image": "a.jpg"}),
        ({"image": []}, {"image": None}),
        ({"image": "plate, blue.jpg"}, {"image": "plate, blue.jpg"}),
        ({"category": ["Home", "Vases"]}, {"category": "Home > Vases"}),
        ({"category": {"id": 5, "name": "Vases"}}, {"category": "Vases"}),
        ({"price": {"amount": "12.50", "currency": "EUR"}}, {"current_price": 12.5}),
    ],
)
def test_lists_and_objects_of_photos_categories_and_prices_have_one_value(row, expected, tmp_path):
    (item,) = read(write(tmp_path / "lots.ndjson", json.dumps({"id": "1", "title": "Vase", **row})))
    assert {field: getattr(item, field) for field in expected} == expected


def test_metadata_as_a_parquet_map_is_reached(tmp_path):
    maps = pa.array([[("brand", "Acme"), ("catalog_id", "7")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"id": ["1"], "title": ["Vase"], "metadata": maps}), tmp_path / "lots.parquet")
    assert read(tmp_path / "lots.parquet") == [Item("1", "Vase", brand="Acme", category="7")]


def test_an_unused_parquet_column_that_cannot_be_read_refuses_nothing(tmp_path):
    times = pa.array([1_798_761_600_000_000_001], pa.int64()).cast(pa.timestamp("ns"))
    pq.write_table(pa.table({"id": ["1"], "title": ["Vase"], "ingested_at": times}), tmp_path / "lots.parquet")
    assert read(tmp_path / "lots.parquet") == VASE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lots.csv", "id,title\n1,Théière\n".encode()),
        ("lots.csv", "id,title\n1,Théière\n".encode("utf-8-sig")),
        ("lots.csv", "id,title\n1,Théière\n".encode("utf-16")),
        ("lots.csv", "id,title\n1,Théière\n".encode("utf-16-le")),
        ("lots.csv", "sep=;\r\nid;title\r\n1;Théière\r\n".encode()),
        ("lots.csv", "id,title\r1,Théière\r".encode()),
        ("lots.csv", '"id";"title, long, with, commas";"title"\n1;x;Théière\n'.encode()),
        ("lots.tsv", "id\ttitle\n1\tThéière\n".encode()),
        ("lots.csv.gz", gzip.compress("id,title\n1,Théière\n".encode(), mtime=0)),
        ("lots.csv", gzip.compress("id,title\n1,Théière\n".encode(), mtime=0)),
        ("lots.json", '[{"id": "1",\n "title": "Théière"}]'.encode()),
        ("lots.json", '{\n "id": "1",\n "title": "Théière"\n}\n'.encode()),
        ("lots.json", '{"id": "1", "title": "Théière"}\n'.encode()),
        ("lots.ndjson", '[{"id": "1", "title": "Théière"}]'.encode()),
        ("lots.ndjson", '{"id": "1", "title": "Théière"}\n'.encode("utf-16")),
        ("lots.jsonl.gz", gzip.compress('{"id": "1", "title": "Théière"}'.encode(), mtime=0)),
    ],
)
def test_text_files_are_read_in_the_forms_that_programs_save(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    log = ReadingLog()
    assert read(tmp_path / name, log, attributes=()) == [Item("1", "Théière")]
    assert not log.lines() or "title, long" in log.lines()[0]


def test_cp1252_is_a_guess_that_is_told(tmp_path):
    log = ReadingLog()
    assert read(write(tmp_path / "lots.csv", "id,title\n1,Théière “blue” – 5 €\n", "cp1252"), log) == [
        Item("1", "Théière “blue” – 5 €")
    ]
    assert log.lines() == ["lots.csv: is not UTF-8 and was read as cp1252: 'Théière' in line 2; --encoding names another"]


@pytest.mark.parametrize(("encoding", "title"), [("cp1251", "Синяя ваза"), ("cp1250", "Wazon miłość"), ("shift_jis", "花瓶")])
def test_what_is_not_cp1252_for_certain_is_refused_until_it_is_named(encoding, title, tmp_path):
    path = write(tmp_path / "lots.csv", f"id,title\n1,{title}\n", encoding)
    with pytest.raises(InvalidInput, match=r"is not UTF-8 text .*line 2\); save it as UTF-8, or name its encoding by --encoding"):
        read(path)
    assert read(path, encoding=encoding) == [Item("1", title)]


def test_a_json_list_longer_than_what_is_read_at_once_is_read_whole(tmp_path):
    rows = [{"id": str(n), "title": f"Lot {n}", "description": "x" * 500} for n in range(1_000)]
    items = read(write(tmp_path / "lots.json", json.dumps(rows)))
    assert [item.item_id for item in items] == [row["id"] for row in rows]


def test_a_json_list_that_is_cut_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is not readable JSON in row 2"):
        read(write(tmp_path / "lots.json", '[{"id": "1", "title": "Vase"}, {"id": "2", "ti'))


def test_a_cut_gzip_file_is_refused(tmp_path):
    (tmp_path / "lots.csv.gz").write_bytes(gzip.compress(b"id,title\n1,Vase\n" * 1_000)[:-10])
    with pytest.raises(InvalidInput, match="is no whole gzip file"):
        read(tmp_path / "lots.csv.gz")


def test_a_folder_is_read_by_one_rule_and_what_is_passed_over_is_listed(tmp_path):
    taken = ["a.ndjson", "b.ndjson.gz", "c.tsv", "d.json", "sub/e.csv", "sub/day=2026-11-29/f.CSV"]
    passed = ["_SUCCESS", ".hidden.csv", "_temporary/0/g.csv", ".ipynb_checkpoints/h.csv", "__MACOSX/._i.csv", "~$j.csv", "k.parq"]
    for name in (*taken, *passed, "photo.jpg", "rejects.ndjson"):
        write(tmp_path / name, "")
    listing = list_item_files(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in listing.files] == sorted(taken)
    assert sorted(listing.passed_over) == [
        ".hidden.csv (hidden or temporary)",
        ".ipynb_checkpoints/ (hidden or temporary)",
        "_SUCCESS (hidden or temporary)",
        "__MACOSX/ (hidden or temporary)",
        "_temporary/ (hidden or temporary)",
        "k.parq (no format that Gavel reads)",
        "~$j.csv (a lock of a spreadsheet)",
    ]


def test_only_the_items_of_a_catalogue_are_read(tmp_path):
    for name in ("catalog.json", "items/lots.parquet", "training/pairs.parquet"):
        write(tmp_path / name, "")
    assert list_item_files(tmp_path).files == [tmp_path / "items/lots.parquet"]


def test_the_names_of_hive_folders_are_columns(tmp_path):
    folder = tmp_path / "in" / "category=blue%20vases" / "brand=__HIVE_DEFAULT_PARTITION__"
    assert read(write(folder / "lots.csv", "id,title\n1,Vase\n")) == [Item("1", "Vase", category="blue vases")]
    assert read(write(folder / "own.csv", "id,title,category\n1,Vase,own\n")) == [Item("1", "Vase", category="own")]


def test_a_file_without_items_is_logged_with_its_rows(tmp_path):
    log = ReadingLog()
    read(write(tmp_path / "bad.csv", "id,title\n1,\n2,\n"), log)
    read(write(tmp_path / "empty.csv", "id,title\n"), log)
    assert log.without_items == {"bad.csv": 2, "empty.csv": 0}
