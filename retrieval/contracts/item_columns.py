"""Which column of a file holds which field of an item: names in any spelling, and the headers of well-known exports."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from retrieval.contracts.items import ALIASES, REQUIRED, first_value, object_of
from retrieval.errors import InvalidInput
from retrieval.text.analysis import fold_name

GUESS_CUTOFF = 0.74  # similarity from which a name may be meant as another one: "img" and "image" have 0.75
GUESSED_FROM = 4  # characters; shorter names resemble too many others
MAX_LISTED = 20
OBJECT_COLUMNS = ("metadata", "attributes")  # objects whose keys are attributes by themselves
NAME_COLUMN = re.compile(r"((?:attribute|option)\d+)name")  # folded; beside it is a column "…value" or "…value(s)"
PROGRAM_MARKS = re.compile(r"^C:| \((?:product\.)?metafields\.[^)]*\)$")  # of eBay's item specifics and Shopify's metafields


@dataclass(frozen=True, slots=True)
class Source:
    """The headers of one program's export.

    Attributes:
        signature: folded names, as fold_name() writes them; one of them in a header tells the source.
        aliases: field -> names of its columns, best first, beside those in items.ALIASES.
        unsearched: pattern of the folded names of columns that say nothing about an item, such as those of stock and tax.
    """

    signature: frozenset[str]
    aliases: Mapping[str, tuple[str, ...]]
    unsearched: str = "$."


SOURCES: Mapping[str, Source] = {
    "Shopify": Source(
        frozenset({"bodyhtml", "variantprice", "urlhandle", "imagesrc"}),
        {
            "item_id": ("Handle", "URL handle"),
            "description": ("Body (HTML)",),
            "image": ("Image Src", "Product image URL"),
            "category": ("Product Category", "Type"),
            "brand": ("Vendor",),
            "current_price": ("Variant Price",),
        },
        "published|status|giftcard|seo.*|cost.*|(included|price|compare).*|variant.*|inventory.*|continueselling.*|fulfillment.*"
        "|requiresshipping|charge.*|image.*|googleshopping.*|template.*|weight.*grams|option.*linkedto.*",
    ),
    "WooCommerce": Source(
        frozenset({"regularprice", "isfeatured", "visibilityincatalog"}),
        {
            "item_id": ("SKU",),
            "description": ("Short description",),
            "image": ("Images",),
            "category": ("Categories",),
            "brand": ("Brands",),
            "current_price": ("Sale price", "Regular price"),
        },
        "type|published|isfeatured|visibility.*|date.*|tax.*|instock|stock|lowstock.*|backorders.*|soldindividually|allowcustomer.*"
        "|purchasenote|shippingclass|download.*|parent|grouped.*|upsells|crosssells|external.*|buttontext|position"
        "|attribute\\d+(visible|global|default)|meta.*",
    ),
    "Google Merchant": Source(
        frozenset({"imagelink", "googleproductcategory"}),
        {
            "image": ("image_link",),
            "category": ("product_type", "google_product_category"),
            "ends_at": ("expiration_date",),
        },
        ".*link|availability.*|shipping.*|tax.*|adult|identifierexists|customlabel\\d|itemgroupid|isbundle|saleprice.*|ads.*"
        "|excludeddestination|includeddestination|.*handlingtime",
    ),
    "eBay": Source(
        frozenset({"itemnumber", "ebaycategory1name", "picurl", "categoryleafname"}),
        {
            "item_id": ("Item number", "Item ID", "Custom label (SKU)", "CustomLabel"),
            "title": ("Item title",),
            "image": ("PicURL",),
            "category": ("eBay category 1 name", "Category leaf name", "eBay category 1 number"),
            "brand": ("C:Brand",),
            "current_price": ("Start price",),
            "bid_count": ("Bids",),
            "listed_at": ("Start date",),
            "ends_at": ("End date",),
        },
        "action.*|format|currency|.*price|.*quantity|watchers|soldquantity|listingsite|.*profile.*|variationdetails|relationship.*",
    ),
}

# field -> other names that people give its column; they are suggested, but never taken without being named
HINTS: Mapping[str, tuple[str, ...]] = {
    "item_id": (
        *("sku", "lot", "lot_id", "lot_number", "lot_no", "reference", "identifier", "article_number", "handle", "item_number"),
        *("Artikelnr", "Artikelnummer", "Losnummer", "Los", "Nr", "Nummer", "référence", "numéro", "lote", "referencia", "codice"),
        *("رقم", "الرقم", "رقم المنتج", "المعرف"),
    ),
    "title": (
        *("heading", "headline", "product_name", "item_title", "lot_title", "subject"),
        *("Titel", "Bezeichnung", "Artikelbezeichnung", "Artikelname", "Produktname", "titre", "nom", "désignation", "título"),
        *("nombre", "titolo", "nome", "العنوان", "الاسم", "اسم المنتج"),
    ),
    "description": (
        *("desc", "body", "text", "details", "long_description", "short_description", "body_html"),
        *("Beschreibung", "Artikelbeschreibung", "Langtext", "descriptif", "descripción", "descrizione", "الوصف", "وصف"),
    ),
    "image": (
        "img",
        "pic",
        "photo",
        "picture",
        "images",
        "photos",
        "pictures",
        "thumbnail",
        "image_link",
        "image_src",
        "photo_url",
        "pic_url",
        *("Bild", "Bilder", "Foto", "imagen", "immagine", "الصورة", "صورة"),
    ),
    "category": (
        *("department", "categories", "product_type", "section", "genre"),
        *("Kategorie", "Warengruppe", "catégorie", "rubrique", "categoría", "categoria", "الفئة", "فئة", "القسم"),
    ),
    "brand": (
        *("maker", "manufacturer", "make", "vendor", "brands"),
        *("Marke", "Hersteller", "marque", "fabricant", "marca", "العلامة", "العلامة التجارية", "الماركة"),
    ),
    "current_price": (
        "amount",
        "cost",
        "bid",
        "current_bid",
        "highest_bid",
        "start_price",
        "starting_bid",
        "sale_price",
        "regular_price",
        *("Preis", "Startpreis", "Gebot", "Verkaufspreis", "prix", "precio", "prezzo", "preço", "السعر", "سعر"),
    ),
    "bid_count": ("bids", "number_of_bids", "num_bids", "Gebote", "Anzahl Gebote"),
    "seller_rating": ("rating", "seller_score", "seller_feedback"),
    "listed_at": ("start_date", "start_time", "created_at", "listed", "published_at"),
    "ends_at": (
        "end_date",
        "end_time",
        "ends",
        "end",
        "closes_at",
        "closing_time",
        "expires_at",
        "expiration_date",
        "Auktionsende",
        "Enddatum",
    ),
    "updated_at": ("modified_at", "last_modified", "updated", "changed_at"),
    "seller": ("seller_name", "shop", "merchant", "consignor"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A place of a field's values in a row.

    Attributes:
        key: key of the row.
        inner: key within the object in the column; empty if the column holds the value itself.
    """

    key: str
    inner: str = ""

    def value(self, row: Mapping[str, Any]) -> Any:
        """Return the value in a row; None if it is missing or blank."""
        value = row.get(self.key)
        if self.inner:
            return first_value({"metadata": value}, (f"metadata.{self.inner}",))
        if isinstance(value, str):  # most values
            return value if value and not value.isspace() else None
        return first_value({"value": value}, ("value",))


@dataclass(frozen=True, slots=True)
class AttributeColumn:
    """A column whose values are attributes.

    Attributes:
        name: name of the attribute; empty for an object whose keys are the names.
        key: key of the row.
        name_key: key of the row that holds the name, as in the exports of WooCommerce and Shopify; empty if `name` does.
        fields: keys of the object that hold fields.
        separator: separator of several values in one text; empty for none.
    """

    name: str
    key: str
    name_key: str = ""
    fields: frozenset[str] = frozenset()
    separator: str = ""

    def named_value(self, row: Mapping[str, Any]) -> tuple[str, Any]:
        """Return name and value in a row, as attributes.read_attributes() takes them."""
        value = row.get(self.key)
        if self.fields:
            value = {name: inner for name, inner in (object_of(self.key, value) or {}).items() if name not in self.fields}
        elif self.separator and isinstance(value, str):
            value = value.split(self.separator)
        return (str(row.get(self.name_key) or "") if self.name_key else self.name), value


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Fields and the columns that hold them.

    Attributes:
        fields: field -> its columns, best first; the first one with a value counts.
        attributes: columns that hold attributes.
        unused: names of the columns that neither a field nor an attribute takes.
        source: name of the recognised source in SOURCES; empty for another file.
    """

    fields: Mapping[str, tuple[Column, ...]]
    attributes: tuple[AttributeColumn, ...] = ()
    unused: tuple[str, ...] = ()
    source: str = ""

    def keys(self) -> list[str]:
        """Return the keys of a row that hold a field, each once."""
        return list(dict.fromkeys(column.key for columns in self.fields.values() for column in columns))

    def names(self) -> list[str]:
        """Return the names of all columns, each once."""
        attributes = (key for column in self.attributes for key in (column.name_key, column.key) if key)
        return list(dict.fromkeys([*self.keys(), *attributes, *self.unused]))

    def with_guesses(self, names: Sequence[str]) -> list[str]:
        """Describe columns, each with the field that its name may mean, such as "`img`: did you mean image?"."""
        free = [field for field in ALIASES if field not in self.fields]
        guesses = {name: guess_field(name, free) for name in names}
        described = [f"`{name}`: did you mean {guess}?" for name, guess in guesses.items() if guess]
        return [*described, *(f"`{name}`" for name, guess in guesses.items() if not guess)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names of a header, a repeated one with its number, such as "price (2)"."""
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = number = counts.get(name, 0) + 1
        result.append(name if number == 1 else f"{name} ({number})")
    return result


def guess_field(name: str, fields: Sequence[str]) -> str:
    """Return the field among `fields` that a column's name may mean; empty if none is near."""
    names = {fold_name(other): field for field in fields for other in (field, *ALIASES[field], *HINTS.get(field, ()))}
    folded = fold_name(name)
    if folded in names:
        return names[folded]
    near = get_close_matches(folded, names, 1, GUESS_CUTOFF) if len(folded) >= GUESSED_FROM else ()
    return names[near[0]] if near else ""


def parse_columns(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the values of --column.

    Args:
        values: texts such as "image=img"; a field that is named twice takes the first of its columns that has a value.

    Raises:
        InvalidInput: a text has no "=", or names no field.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for text in values:
        field, mark, column = (part.strip() for part in text.partition("="))
        if not mark or not column:
            raise InvalidInput(f"--column {text} names no column; write --column FIELD=COLUMN, such as --column image=img")
        if field not in ALIASES:
            guess = guess_field(field, list(ALIASES))
            hint = f"did you mean {guess}={column}? " if guess else ""
            raise InvalidInput(f"--column {text}: {field} is no field; {hint}Fields are {', '.join(ALIASES)}")
        chosen[field] = (*chosen.get(field, ()), column)
    return chosen


def map_columns(names: Sequence[str], chosen: Mapping[str, tuple[str, ...]], where: str = "the file") -> ColumnMap:
    """Find the column of each field.

    Args:
        names: names of the columns, each once (unique_names()).
        chosen: field -> names of its columns, as the user chose them; such a column holds no other field.
        where: name of the file, for the message.

    Raises:
        InvalidInput: a chosen column is not there.
    """
    keys: dict[str, list[str]] = {}
    for name in names:
        keys.setdefault(fold_name(re.sub(r" \(\d+\)$", "", name) if name not in keys else name), []).append(name)
    source = next((source for source, known in SOURCES.items() if known.signature & keys.keys()), "")
    extra = SOURCES[source].aliases if source else {}
    fields: dict[str, tuple[Column, ...]] = {}
    for field, columns in chosen.items():
        matches = [Column(key) for column in columns for key in ([column] if column in names else keys.get(fold_name(column), ()))]
        for column in columns:
            if not matches and "." in column and (outer := keys.get(fold_name(column.split(".", 1)[0]))):
                matches.append(Column(outer[0], column.split(".", 1)[1]))
        if not matches:
            listed = ", ".join(f"`{name}`" for name in names[:MAX_LISTED]) or "none"
            raise InvalidInput(f"{where} has no column `{columns[0]}`, which --column {field}={columns[0]} names; it has {listed}")
        fields[field] = tuple(dict.fromkeys(matches))
    taken = {column.key for columns in fields.values() for column in columns if not column.inner}
    for field, aliases in ALIASES.items():
        if field in chosen:
            continue
        matching: list[Column] = []
        for alias in (*aliases, *extra.get(field, ())):
            matching += [Column(key) for key in keys.get(fold_name(alias), ())]
            if "." in alias:
                outer_name, inner = alias.split(".", 1)
                matching += [Column(key, inner) for key in keys.get(fold_name(outer_name), ())]
        if columns_left := tuple(column for column in dict.fromkeys(matching) if column.key not in taken):
            fields[field] = columns_left
    used = {column.key for columns in fields.values() for column in columns if not column.inner}
    attributes = tuple(_attribute_columns([name for name in names if name not in used and name.strip()], fields, source))
    used |= {key for column in attributes for key in (column.key, column.name_key)}
    return ColumnMap(fields, attributes, tuple(name for name in names if name not in used and name.strip()), source)


def _attribute_columns(names: Sequence[str], fields: Mapping[str, tuple[Column, ...]], source: str) -> Iterator[AttributeColumn]:
    """Yield the columns among `names` that hold attributes; a column of names beside one of values counts once."""
    inner: dict[str, set[str]] = {}
    for column in (column for columns in fields.values() for column in columns if column.inner):
        inner.setdefault(column.key, set()).add(column.inner)
    unsearched = re.compile(SOURCES[source].unsearched) if source else None
    folded = {fold_name(name): name for name in names}
    of_names: dict[str, str] = {}  # column of values -> column of their names
    for name in names:
        if pair := NAME_COLUMN.fullmatch(fold_name(name)):
            value = folded.get(f"{pair[1]}value") or folded.get(f"{pair[1]}values")
            if value:
                of_names[value] = name
    for name in names:
        if name in of_names:
            yield AttributeColumn("", name, of_names[name], separator=", " if source == "WooCommerce" else "")
        elif name not in of_names.values() and not (unsearched and unsearched.fullmatch(fold_name(name))):
            label = "" if fold_name(name) in OBJECT_COLUMNS else PROGRAM_MARKS.sub("", name)
            yield AttributeColumn(label, name, fields=frozenset(inner.get(name, ())))


def require_fields(columns: ColumnMap, names: Sequence[str], where: str) -> None:
    """Check that id and title have a column.

    Raises:
        InvalidInput: one has none; the message lists the accepted names, the columns of the file, and the options that take what
            its names may mean, also for other fields.
    """
    field = next((field for field in REQUIRED if field not in columns.fields), "")
    if not field:
        return
    listed = ", ".join(names[:MAX_LISTED]) or "none"
    guesses: dict[str, str] = {}
    taken = set(columns.keys())
    left = [name for name in names if name not in taken]
    for free in (free for free in ALIASES if free not in columns.fields):
        guess = next((name for name in left if name not in guesses.values() and guess_field(name, [free])), "")
        guesses |= {free: guess} if guess else {}
    options = " ".join(f"--column {shlex.quote(f'{free}={name}')}" for free, name in guesses.items())
    remedy = "" if field in guesses else f"; --column {field}=NAME names it"
    if field == "item_id" and remedy:
        remedy += ", or add a column of ids, each of its own and the same in the next file"
    remedy += f"; did you mean {options}?" if options else ""
    accepted = ", ".join(ALIASES[field])
    raise InvalidInput(f"{where} has no column for {field}: it needs one of {accepted}; found {listed}{remedy if names else ''}")
