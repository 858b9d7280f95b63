"""The benchmark of `gavel try`: a shop's own file has nothing that only the reader of the shop knows."""

import csv
import json
import zipfile

from benchmarks.quality.own_lots import write_lots


def test_the_file_has_neither_attributes_nor_judgments(tmp_path) -> None:
    product = {
        **{"id": "7", "title": "HDMI cable", "short_description": "1 m, black", "supplier": "Acme", "price": 1250, "name": "X1"},
        **{"date_released": "2019-12-10T00:00:00Z", "attr_t_product_colour": "Black"},
    }
    with zipfile.ZipFile(tmp_path / "products_1.json.zip", "w") as archive:
        archive.writestr("products_1.json", json.dumps([product]))
    (tmp_path / "Broad_Query_Set_rated.csv").write_text("query,docid,rating\n")
    assert write_lots(tmp_path, tmp_path / "lots.csv") == 1
    with (tmp_path / "lots.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"id": "7", "name": "HDMI cable", "description": "1 m, black", "brand": "Acme", "price": "12.50"}
        ]
