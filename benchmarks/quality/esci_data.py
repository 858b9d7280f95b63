"""Make files with the schema and the size of the Shopping Queries Data Set, to measure and to test what reads them.

python -m benchmarks.quality.esci_data FOLDER --products 1800000 --pairs 2600000

Texts are invented: titles, descriptions with HTML, bullet points, brands and colours, in English, Spanish and Japanese. A judgment
follows from the product: Exact has the kind, colour and material of the query, Substitute the kind alone, Complement is of a
related kind, Irrelevant is any other product. Shares of locales, versions and splits are about those of the published files. One
product and one judgment in 10,000 breaks the contract.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from catalog.esci import EXAMPLES_FILE, PRODUCTS_FILE
from gavel.workspace.console import progress
from retrieval.progress import Progress, ignore_progress

PRODUCT_SHARES = {"us": 0.67, "es": 0.14, "jp": 0.19}
PAIR_SHARES = {"us": 0.69, "es": 0.14, "jp": 0.17}
MEAN_DEPTH = {"us": 18.7, "es": 23.5, "jp": 24.6}  # judgments of a query
SMALL_SHARE = {"us": 0.31, "es": 0.53, "jp": 0.57}  # share of the queries that are in the small version, too
TEST_SHARE = 0.25
LABELS, LABEL_SHARES = ("E", "S", "C", "I"), (0.60, 0.22, 0.05, 0.13)
BROKEN_SHARE = 1e-4  # share of the rows that break the contract
BLOCK_ROWS = 50_000  # products per row group
SENTENCES = 2_000  # different sentences of each locale

EXAMPLES_SCHEMA = pa.schema(
    {
        "example_id": pa.int64(),
        "query": pa.string(),
        "query_id": pa.int64(),
        "product_id": pa.string(),
        "product_locale": pa.string(),
        "esci_label": pa.string(),
        "small_version": pa.int64(),
        "large_version": pa.int64(),
        "split": pa.string(),
    }
)
PRODUCTS_SCHEMA = pa.schema(
    {
        name: pa.string()
        for name in (
            "product_id",
            "product_title",
            "product_description",
            "product_bullet_point",
            "product_brand",
            "product_color",
            "product_locale",
        )
    }
)


@dataclass(frozen=True)
class Words:
    """The words of one locale.

    Attributes:
        kinds: the word of a title and the word that a buyer types; neighbours in the list are complements of each other.
        colours: words of colours.
        materials: words of materials.
        fillers: words of descriptions, with spaces between them.
        gap: text between two words.
    """

    kinds: Sequence[tuple[str, str]]
    colours: Sequence[str]
    materials: Sequence[str]
    fillers: str
    gap: str = " "


WORDS: Mapping[str, Words] = {
    "us": Words(
        [
            ("Sofa", "couch"), ("Cushion", "pillow"), ("Notebook Computer", "laptop"), ("Carrying Case", "laptop sleeve"),
            ("Headphones", "earphones"), ("Bluetooth Receiver", "wireless adapter"), ("Sneakers", "running shoes"),
            ("Socks", "stockings"), ("Backpack", "rucksack"), ("Water Bottle", "flask"), ("Wristwatch", "watch"),
            ("Watch Band", "strap"), ("Desk Lamp", "reading light"), ("Light Bulb", "led bulb"), ("Cookware Pan", "skillet"),
            ("Spatula", "turner"), ("Drill Driver", "power drill"), ("Drill Bit Set", "drill bits"),
            ("Smartphone Cover", "phone case"), ("Screen Film", "screen protector"), ("Rug", "carpet"), ("Curtain", "drapes"),
            ("Bicycle", "bike"), ("Bicycle Lock", "bike lock"),
        ],
        ["black", "white", "red", "blue", "green", "yellow", "grey", "pink", "brown", "purple", "orange", "navy"],
        ["leather", "cotton", "steel", "oak", "plastic", "wool", "aluminium", "bamboo", "glass", "silicone"],
        "durable lightweight for home office easy to clean with a one year warranty perfect gift the best quality made by hand "
        "fits most sizes please measure before you order comes in a box our team answers within a day",
    ),
    "es": Words(
        [
            ("Sofá", "sillón"), ("Cojín", "almohada"), ("Ordenador Portátil", "portátil"), ("Funda", "estuche"),
            ("Auriculares", "cascos"), ("Adaptador", "receptor"), ("Zapatillas", "deportivas"), ("Calcetines", "medias"),
            ("Mochila", "bolsa"), ("Botella", "termo"), ("Reloj", "reloj de pulsera"), ("Correa", "brazalete"),
        ],
        ["negro", "blanco", "rojo", "azul", "verde", "amarillo", "gris", "rosa", "marrón", "morado"],
        ["cuero", "algodón", "acero", "roble", "plástico", "lana", "aluminio", "bambú", "vidrio", "silicona"],
        "resistente ligero para casa y oficina fácil de limpiar con garantía de un año regalo perfecto la mejor calidad hecho",
    ),
    "jp": Words(
        [
            ("ソファ", "ソファー"), ("クッション", "枕"), ("ノートパソコン", "パソコン"), ("ケース", "カバー"),
            ("ヘッドホン", "イヤホン"), ("アダプター", "レシーバー"), ("スニーカー", "靴"), ("靴下", "ソックス"),
            ("リュック", "バックパック"), ("ボトル", "水筒"), ("腕時計", "時計"), ("バンド", "ベルト"),
        ],
        ["黒", "白", "赤", "青", "緑", "黄色", "灰色", "ピンク", "茶色", "紫"],
        ["革", "綿", "鋼", "木", "樹脂", "羊毛", "アルミ", "竹", "硝子", "シリコン"],
        "丈夫 軽量 家庭 事務所 掃除 簡単 保証 一年 贈り物 最高 品質 手作り 大人気 新品",
        gap="",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Locale:
    """The products of one locale, as numbers of their words.

    Attributes:
        name: us, es or jp.
        kinds: (N,) numbers of the kinds.
        colours: (N,) numbers of the colours.
        materials: (N,) numbers of the materials.
        by_kind: rows of each kind.
        by_group: rows of each (kind, colour, material) that exists.
    """

    name: str
    kinds: NDArray[np.int64]
    colours: NDArray[np.int64]
    materials: NDArray[np.int64]
    by_kind: Sequence[NDArray[np.int64]]
    by_group: Mapping[tuple[int, int, int], NDArray[np.int64]]

    @classmethod
    def draw(cls, name: str, size: int, rng: np.random.Generator) -> "Locale":
        """Draw the words of `size` products."""
        words = WORDS[name]
        lengths = (len(words.kinds), len(words.colours), len(words.materials))
        kinds, colours, materials = (rng.integers(length, size=size) for length in lengths)
        keys = np.ravel_multi_index((kinds, colours, materials), lengths)
        order = np.argsort(keys, kind="stable")
        present, starts = np.unique(keys[order], return_index=True)
        groups = zip(zip(*np.unravel_index(present, lengths), strict=True), np.split(order, starts[1:]), strict=True)
        by_group = {(int(kind), int(colour), int(material)): rows for (kind, colour, material), rows in groups}
        return cls(name, kinds, colours, materials, [np.flatnonzero(kinds == k) for k in range(lengths[0])], by_group)

    def product_id(self, row: int) -> str:
        """Return the id of the product of a row."""
        return f"B0{self.name.upper()}{row:07d}"


def generate(
    folder: Path, *, products: int = 1_800_000, pairs: int = 2_600_000, seed: int = 7, progress: Progress = ignore_progress
) -> Path:
    """Write both files of the data set.

    Args:
        folder: folder of the files, created if it is missing.
        products: number of products of all locales.
        pairs: number of judgments of all locales, about.
        seed: seed of everything random.
        progress: called with (rows written, rows).

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    locales = [Locale.draw(name, max(1, round(products * share)), rng) for name, share in PRODUCT_SHARES.items()]
    total = sum(len(locale.kinds) for locale in locales) + pairs
    written = _write(folder / PRODUCTS_FILE, PRODUCTS_SCHEMA, _products(locales, rng), 0, total, progress)
    _write(folder / EXAMPLES_FILE, EXAMPLES_SCHEMA, _examples(locales, pairs, rng), written, total, progress)
    progress(total, total)
    return folder


def _write(path: Path, schema: pa.Schema, blocks: Iterator[dict[str, list[Any]]], done: int, total: int, progress: Progress) -> int:
    with pq.ParquetWriter(path, schema) as file:
        for block in blocks:
            file.write_table(pa.table(block, schema=schema))
            done += len(next(iter(block.values())))
            progress(min(done, total), total)
    return done


def _products(locales: Sequence[Locale], rng: np.random.Generator) -> Iterator[dict[str, list[Any]]]:
    for locale in locales:
        words = WORDS[locale.name]
        sentences = [words.gap.join(rng.choice(words.fillers.split(), rng.integers(6, 14))) for _ in range(SENTENCES)]
        brands = [
            f"{a}{b}" for a in ("Nor", "Vel", "Kal", "Mer", "Tor", "Zan", "Ari", "Lum") for b in ("da", "tek", "ora", "ix", "wood")
        ]
        for start in range(0, len(locale.kinds), BLOCK_ROWS):
            rows = range(start, min(start + BLOCK_ROWS, len(locale.kinds)))
            picks = rng.integers(SENTENCES, size=(len(rows), 16)).tolist()
            chances, numbers = rng.random((len(rows), 5)).tolist(), rng.integers(1_000, 10_000, len(rows)).tolist()
            block: dict[str, list[Any]] = {name: [] for name in PRODUCTS_SCHEMA.names}
            for row, pick, chance, number in zip(rows, picks, chances, numbers, strict=True):
                colour, material = words.colours[locale.colours[row]], words.materials[locale.materials[row]]
                brand = brands[pick[0] % len(brands)]
                title = words.gap.join((colour, material, words.kinds[locale.kinds[row]][0]))
                texts = [sentences[number] for number in pick]
                points = "</li><li>".join(texts[1:8])
                description = f"<p><b>{title}</b>&nbsp;{texts[0]}.</p><ul><li>{points}</li></ul><br />{texts[8]} &amp; more"
                values = (
                    locale.product_id(row),
                    None if chance[0] < BROKEN_SHARE else f"{brand} {title} {number}, {texts[9]}",
                    None if chance[1] < 0.48 else description,
                    None if chance[2] < 0.15 else "\n".join(texts[9:]),
                    None if chance[3] < 0.06 else brand,
                    None if chance[4] < 0.35 else colour,
                    locale.name,
                )
                for column, value in zip(block.values(), values, strict=True):
                    column.append(value)
            yield block


def _examples(locales: Sequence[Locale], pairs: int, rng: np.random.Generator) -> Iterator[dict[str, list[Any]]]:
    example_id = query_id = 0
    for locale in locales:
        target, written = round(pairs * PAIR_SHARES[locale.name]), 0
        block: dict[str, list[Any]] = {name: [] for name in EXAMPLES_SCHEMA.names}
        while written < target:
            query, judged = _draw_query(locale, min(40, 4 + rng.poisson(MEAN_DEPTH[locale.name] - 4)), rng)
            is_small, split = int(rng.random() < SMALL_SHARE[locale.name]), "test" if rng.random() < TEST_SHARE else "train"
            for row, label in judged:
                stored = "?" if rng.random() < BROKEN_SHARE else label
                values = (example_id, query, query_id, locale.product_id(row), locale.name, stored, is_small, 1, split)
                for column, value in zip(block.values(), values, strict=True):
                    column.append(value)
                example_id += 1
            written += len(judged)
            query_id += 1
            if len(block["query"]) >= BLOCK_ROWS:
                yield block
                block = {name: [] for name in EXAMPLES_SCHEMA.names}
        if block["query"]:
            yield block


def _draw_query(locale: Locale, depth: int, rng: np.random.Generator) -> tuple[str, list[tuple[int, str]]]:
    """Make a query for a random product, and judge about `depth` products."""
    words, first = WORDS[locale.name], int(rng.integers(len(locale.kinds)))
    kind, colour, material = (int(column[first]) for column in (locale.kinds, locale.colours, locale.materials))
    pools = {
        "E": locale.by_group[kind, colour, material],
        "S": locale.by_kind[kind],
        "C": locale.by_kind[kind ^ 1],
        "I": np.arange(0),
    }
    judged = {first: "E"}
    for label in rng.choice(LABELS, min(depth, len(locale.kinds)) - 1, p=LABEL_SHARES).tolist():
        pool = pools[label]
        row = int(pool[rng.integers(len(pool))]) if len(pool) else int(rng.integers(len(locale.kinds)))
        judged.setdefault(row, label)
    query = words.gap.join((words.colours[colour], words.materials[material], words.kinds[kind][1]))
    return f"{query} {rng.integers(1, 1000)}" if rng.random() < 0.9 else query, list(judged.items())


def main(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    products: Annotated[int, typer.Option(min=10, help="Number of products.")] = 1_800_000,
    pairs: Annotated[int, typer.Option(min=10, help="Number of judgments, about.")] = 2_600_000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 7,
) -> None:
    """Write files with the schema and the size of the Shopping Queries Data Set."""
    with progress("rows") as step:
        print(generate(folder, products=products, pairs=pairs, seed=seed, progress=step))


if __name__ == "__main__":
    typer.run(main)
