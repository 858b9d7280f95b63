"""The specification of a vector index in one short text, such as "hnsw:m=16,ef_search=100".

An index type is one of FAISS's, or a combination of them. The sizes in bytes follow FAISS's wiki ("Faiss indexes", "Guidelines to
choose an index"), plus what FAISS's files hold in addition. Tests compare them with files.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from retrieval.errors import InvalidInput

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
AUTO_INDEX = "auto"  # in the place of an index type: chosen by the number of vectors and the memory

IndexType = Literal["flat", "fp16", "sq8", "pq", "ivf", "ivf_sq8", "ivf_pq", "ivf_pq4", "opq_ivf_pq", "hnsw", "hnsw_sq8"]
INDEX_TYPES: tuple[IndexType, ...] = get_args(IndexType)

GRAPH, LISTS, CODES = ("m", "ef_construction", "ef_search"), ("nlist", "nprobe"), ("pq_m", "pq_bits")
PARAMETERS: Mapping[IndexType, tuple[str, ...]] = {
    "flat": (),
    "fp16": ("rescore",),
    "sq8": ("rescore",),
    "pq": (*CODES, "rescore"),
    "ivf": LISTS,
    "ivf_sq8": (*LISTS, "rescore"),
    "ivf_pq": (*LISTS, *CODES, "rescore"),
    "ivf_pq4": (*LISTS, "pq_m", "rescore"),
    "opq_ivf_pq": (*LISTS, *CODES, "rescore"),
    "hnsw": GRAPH,
    "hnsw_sq8": (*GRAPH, "rescore"),
}
ZERO_ALLOWED = ("nlist", "ef_search", "pca")  # 0 derives nlist and ef_search from the number of vectors; pca=0 skips PCA

POINTS_PER_CENTROID = 64  # vectors per centroid in a training sample; FAISS's k-means warns below 39 and uses at most 256
MIN_POINTS_PER_CENTROID = 39
SAMPLE_OF_RANGES = 10_000  # vectors whose smallest and largest numbers set the range of sq8
MIN_TO_TRAIN = 1_000  # fewest vectors to train lists, codes, ranges or axes; with fewer, comparing with each is as quick
# The ef_search that reaches a recall@50 of .99 is 65, 144 and 569 among 10^4, 10^5 and 10^6 clustered vectors
EF_SEARCH_PER_ROOT, MIN_EF_SEARCH = 0.55, 100
PQ4_BLOCK = 32  # vectors of a list whose codes of ivf_pq4 lie in one block; the last block of a list is padded
MIN_LISTS_FOR_GRAPH = 8_192  # with at least so many lists, a graph over their centroids is quicker than comparing with each
LIST_GRAPH_LINKS = 32  # links per centroid in that graph
LISTS_PER_ROOT = 4  # FAISS's wiki advises 4 to 16 lists per √(number of vectors); few lists are quick to train


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """An index type with its parameters. Parameters that the index type does not have stay at their defaults.

    Attributes:
        index_type: a name in INDEX_TYPES, made of these parts. flat: float32 vectors. fp16: 2 bytes per number. sq8: 1 byte per
            number. pq: product quantisation (Jegou et al., TPAMI 2011). pq4: pq with codes of 4 bits, which are compared in
            registers (André et al., TPAMI 2021). opq: a rotation before pq (Ge et al., CVPR 2013). ivf: lists around centroids.
            hnsw: a graph (Malkov and Yashunin, TPAMI 2020). Plain ivf and hnsw store float32 vectors.
        m: links per vector in the graph, >= 2; twice as many in its lowest layer.
        ef_construction: candidates that are held while a vector is linked, >= 1.
        ef_search: candidates that are held while the graph is searched; 0 derives it from the number of vectors (ef_search_for()).
        nlist: number of lists; 0 derives it from the number of vectors (sized()).
        nprobe: number of lists that a search reads, >= 1.
        pq_m: parts of a vector, each with its own code; must divide `pca`, or the dimensions if `pca` is 0.
        pq_bits: bits of one code, 1 to 12; ivf_pq4 has 4.
        rescore: candidates fetched per requested result, >= 1, which are then scored again from full vectors.
        pca: dimensions that PCA keeps before indexing; 0 skips PCA.
    """

    index_type: IndexType = "hnsw"
    m: int = 16
    ef_construction: int = 256
    ef_search: int = 0
    nlist: int = 0
    nprobe: int = 16
    pq_m: int = 64
    pq_bits: int = 8
    rescore: int = 2
    pca: int = 0

    def __post_init__(self) -> None:
        if self.index_type not in INDEX_TYPES:
            raise InvalidInput(f"there is no index family {self.index_type!r}; there are {', '.join(INDEX_TYPES)}")
        for name in (*PARAMETERS[self.index_type], "pca"):
            value, least = getattr(self, name), 0 if name in ZERO_ALLOWED else 2 if name == "m" else 1
            if not isinstance(value, int) or value < least:
                raise InvalidInput(f"{name} of an index is {value!r}; it must be a whole number from {least}")
        if "pq_bits" in PARAMETERS[self.index_type] and self.pq_bits > 12:
            raise InvalidInput(f"pq_bits is {self.pq_bits}; codes of more than 12 bits take too long to train")
        if self.pca and self.index_type == "opq_ivf_pq":
            raise InvalidInput("opq_ivf_pq rotates the vectors itself; leave pca away, or take ivf_pq")

    @classmethod
    def parse(cls, text: str, otherwise: Mapping[str, int] = MappingProxyType({})) -> "IndexSpec":
        """Read "index_type" or "index_type:name=number,…".

        Args:
            text: the spec, as str() writes it.
            otherwise: parameter -> value for parameters that the text does not name; those that the index type lacks are ignored.

        Raises:
            InvalidInput: the index type or a parameter is unknown, or a number is not in its range.
        """
        type_name, _, rest = text.strip().partition(":")
        index_type = next((name for name in INDEX_TYPES if name == type_name), None)
        if index_type is None:
            raise InvalidInput(f"there is no index family {type_name!r}; there are {', '.join(INDEX_TYPES)}")
        allowed = (*PARAMETERS[index_type], "pca")
        values = {name: number for name, number in otherwise.items() if name in allowed}
        for part in filter(None, rest.split(",")):
            name, _, number = part.partition("=")
            if name not in allowed or not number.isascii() or not number.isdigit():
                raise InvalidInput(f"{part!r} is no parameter of {index_type}; write name=number with {', '.join(allowed)}")
            values[name] = int(number)
        return cls(index_type, **values)

    def __str__(self) -> str:
        names = (*PARAMETERS[self.index_type], *(("pca",) if self.pca else ()))
        return ":".join(filter(None, (self.index_type, ",".join(f"{name}={getattr(self, name)}" for name in names))))

    @property
    def stores_vectors(self) -> bool:
        """True if the index holds the exact vectors, so that candidates are not scored again."""
        return "rescore" not in PARAMETERS[self.index_type] and not self.pca

    @property
    def search_effort(self) -> str | None:
        """Return the name of the parameter that trades recall for time; None if a search compares with every vector."""
        return next((name for name in ("ef_search", "nprobe") if name in PARAMETERS[self.index_type]), None)

    def at(self, effort: int) -> "IndexSpec":
        """Return the spec with `effort` as its ef_search or nprobe; the same spec if the index type has neither."""
        if self.search_effort == "ef_search":
            return replace(self, ef_search=effort)
        return replace(self, nprobe=effort) if self.search_effort == "nprobe" else self

    @property
    def code_bits(self) -> int:
        """Return the bits of one product code; 0 if the index type has none."""
        return 4 if self.index_type == "ivf_pq4" else self.pq_bits if "pq_m" in PARAMETERS[self.index_type] else 0

    @property
    def has_list_graph(self) -> bool:
        """True if the lists nearest to a query are found by a graph over the centroids; `nlist` must be above 0."""
        return "nlist" in PARAMETERS[self.index_type] and self.nlist >= MIN_LISTS_FOR_GRAPH

    @property
    def built(self) -> "IndexSpec":
        """Return the spec with fixed search-time parameters. Specs that are equal in this form have equal files."""
        return replace(self, ef_search=0, nprobe=1, rescore=1)

    @property
    def candidates(self) -> int:
        """Return the number of candidates to fetch per requested result."""
        return 1 if self.stores_vectors else self.rescore

    def sized(self, items: int) -> "IndexSpec":
        """Return the spec with an nlist for this number of vectors; the same spec if it has an nlist, or its type has no lists.

        The nlist is the power of two nearest to 4 √items, but at most items / 39, so that training has 39 vectors per list.
        """
        if "nlist" not in PARAMETERS[self.index_type] or self.nlist:
            return self
        lists = 2 ** round(math.log2(max(LISTS_PER_ROOT * math.sqrt(max(items, 1)), 1)))
        return replace(self, nlist=max(1, min(lists, items // MIN_POINTS_PER_CENTROID)))

    def ef_search_for(self, items: int) -> int:
        """Return ef_search, or if it is 0, an estimate for a recall@50 of .99 among this number of clustered vectors.

        The estimate was fitted for up to a million vectors (docs/performance.md, "Which vector index"). Beyond, it is extrapolated.
        """
        return self.ef_search or max(MIN_EF_SEARCH, math.ceil(EF_SEARCH_PER_ROOT * math.sqrt(items)))

    def min_to_train(self) -> int:
        """Return the minimum number of vectors for training; 0 if nothing is trained."""
        if not self.training_sample(MIN_TO_TRAIN):
            return 0
        centroids = self.nlist if "nlist" in PARAMETERS[self.index_type] else 1
        codes = 1 << self.code_bits
        return max(MIN_TO_TRAIN, self.pca, MIN_POINTS_PER_CENTROID * max(centroids, codes))

    def lies_like(self, other: "IndexSpec") -> bool:
        """True if an index that was built with `other` may be searched with this spec.

        Then they differ only in the graph, in the search effort, in rescore, or in an nlist that this spec leaves open.
        """
        names = {"pq_m", "pq_bits"} & set(PARAMETERS[self.index_type]) | {"index_type", "pca"}
        names |= {"nlist"} if self.nlist and "nlist" in PARAMETERS[self.index_type] else set()
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def check_fit(self, dimensions: int) -> None:
        """Raise InvalidInput if `pca` or `pq_m` does not suit vectors of this length."""
        length = self.pca or dimensions
        if self.pca > dimensions:
            raise InvalidInput(f"vectors of {dimensions} numbers cannot be cut to {self.pca}; choose a smaller pca")
        if "pq" in self.index_type and length % self.pq_m:
            raise InvalidInput(f"vectors of {length} numbers cannot be cut into {self.pq_m} equal parts; choose another pq_m")

    def training_sample(self, items: int) -> int:
        """Return the number of training vectors, at most `items`; 0 if nothing is trained.

        Lists and codes take 64 per centroid, the ranges of sq8 and the axes of PCA 10,000. The largest of these counts.
        """
        sized, names = self.sized(items), PARAMETERS[self.index_type]
        sizes = [POINTS_PER_CENTROID * sized.nlist] if "nlist" in names else []
        sizes += [POINTS_PER_CENTROID * 2**self.code_bits] if "pq_m" in names else []
        sizes += [SAMPLE_OF_RANGES] if self.index_type.endswith("sq8") or self.pca else []
        return min(items, max(sizes, default=0))

    def bytes_per_item(self, dimensions: int) -> float:
        """Return the bytes per vector of the index, in memory and in its file, without full vectors for rescoring."""
        length = self.pca or dimensions
        names = PARAMETERS[self.index_type]
        code = {"fp16": 2.0 * length, "sq8": float(length), "ivf_sq8": float(length), "hnsw_sq8": float(length)}
        each = math.ceil(self.pq_m * self.code_bits / 8) if "pq_m" in names else code.get(self.index_type, 4.0 * length)
        links = 4 * (2 * self.m + self.m / (self.m - 1)) + 12 if "m" in names else 0  # links of all layers, level, offset
        return each + links + (8 if "nlist" in names else 0)  # a list stores an id of 8 bytes per vector

    def index_bytes(self, items: int, dimensions: int) -> int:
        """Return the bytes of the whole index, in memory and in its file."""
        sized, names, length = self.sized(items), PARAMETERS[self.index_type], self.pca or dimensions
        fixed = 4 * sized.nlist * (length + 2) if "nlist" in names else 0
        fixed += round(sized.nlist * (8 * LIST_GRAPH_LINKS + 16)) if sized.has_list_graph else 0
        fixed += sized.nlist * self.pq_m * PQ4_BLOCK // 4 if self.index_type == "ivf_pq4" else 0  # half a block of padding per list
        fixed += 4 * length * 2**self.code_bits if "pq_m" in names else 0
        fixed += 4 * dimensions * length if self.pca or self.index_type == "opq_ivf_pq" else 0
        return round(items * self.bytes_per_item(dimensions)) + fixed

    def disk_bytes(self, items: int, dimensions: int) -> int:
        """Return the bytes of the files: the index, and the full vectors if rescoring reads them."""
        return self.index_bytes(items, dimensions) + (0 if self.stores_vectors else 4 * items * dimensions)

    def comparisons_to_add(self, items: int) -> int:
        """Estimate the number of comparisons per added vector: all centroids, or the vectors that a graph search visits; else 0."""
        sized, names = self.sized(items), PARAMETERS[self.index_type]
        if "nlist" in names:
            return sized.nlist
        return self.ef_construction * self.m if "m" in names else 0


def default_specs(dimensions: int) -> list[IndexSpec]:
    """Return one spec per index type for vectors of this length. Product codes are 8 bits, or 4 bits, per 2 dimensions."""
    halves = max(dimensions // 2, 1)
    parts = halves if dimensions % halves == 0 else 1
    rescores = {"ivf_pq4": 16} | dict.fromkeys(("pq", "ivf_pq", "opq_ivf_pq"), 4)
    return [IndexSpec(index_type, pq_m=parts, rescore=rescores.get(index_type, 2)) for index_type in INDEX_TYPES]


def small_code_specs(dimensions: int) -> list[IndexSpec]:
    """Return specs with a quarter or an eighth of a byte per dimension, for more vectors than the default codes leave room for."""
    sizes = [(dimensions // 4, 8), (dimensions // 8, 32)]
    return [IndexSpec("ivf_pq", pq_m=parts, rescore=rescore) for parts, rescore in sizes if parts and dimensions % parts == 0]


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text such as 16GB, 512MB or 1.5TiB.

    Raises:
        InvalidInput: the text is not a number with a unit in UNITS.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([A-Z]+)", text.strip(), re.IGNORECASE)
    try:
        size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        raise InvalidInput(f"{text!r} is no size of memory; write it like 16GB or 512MiB")
    return size
