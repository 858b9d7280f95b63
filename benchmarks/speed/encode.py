"""Latency of query encoding: the torch tower in float32, its int8 artefact, and a static query encoder, in turns.

Weights are random, because speed does not depend on training; sizes are those of the preset. All three encoders tokenise and encode
the same texts on one thread. A round encodes every query once with each encoder. Processor time is reported, too, because the clock
of a busy machine also measures other processes.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from catalog.lots import draw_lots
from models.artefacts.tower_files import save_towers
from models.towers.config import preset
from models.towers.tokenizer import train_wordpiece
from models.towers.two_towers import TwoTowers
from processing.evaluation.runs import Latency, summarise_ms
from retrieval.contracts.items import query_text
from retrieval.contracts.tower_card import QUERY_TOWER_FILE, SMALL_QUERY_TOWER_FILE, TOKENIZER_FILE
from retrieval.encoders.query_encoder import QueryEncoder, load_tokenizer, tokenize
from retrieval.encoders.static_query_encoder import Int8Table, SmallQueryEncoder, SmallQueryTower, pair_keys, token_ids

TORCH, INT8, SMALL = "torch, float32", "int8 ONNX artefact", "small query tower"
QUERIES, LOTS = 40, 400
PAIRS = 65_536  # maximum number of token pairs of a static query encoder
WARM_UP = 2  # uncounted rounds
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

Encode = Callable[[str], object]


@dataclass(frozen=True)
class EncoderResult:
    """Measurements of one encoder.

    Attributes:
        latency: wall-clock latency of single queries in milliseconds.
        cpu_ms: processor time per query in milliseconds, median over the rounds.
        ratio: wall-clock time of torch divided by this encoder's, median over the rounds.
        cpu_ratio: processor time of torch divided by this encoder's, median over the rounds.
    """

    latency: Latency
    cpu_ms: float
    ratio: float
    cpu_ratio: float


@dataclass(frozen=True)
class EncodeResult(Measurement):
    """Measurements of all three encoders.

    Attributes:
        preset: name of the architecture.
        tokens: number of tokens per query, without [CLS] and [SEP].
        rounds: number of rounds, without the warm-up.
        encoders: encoder -> measurements.
        bytes: file of the tower -> size in bytes.
    """

    preset: str
    tokens: int
    rounds: int
    encoders: dict[str, EncoderResult]
    bytes: dict[str, int]


def run_benchmark(
    name: str = "distilbert-resnet50",
    *,
    tokens: int = 5,
    rounds: int = 15,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EncodeResult:
    """Measure all three encoders on the same queries.

    Args:
        name: name of a preset.
        tokens: number of tokens per query, without [CLS] and [SEP].
        rounds: number of rounds, without the warm-up, >= 1.
        progress: called with (rounds done, rounds in all).
    """
    machine = describe_machine()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="gavel-bench-") as scratch:
            folder, by_torch, queries = _towers(name, tokens, Path(scratch))
            full, small = QueryEncoder.load(folder), SmallQueryEncoder.load(folder)
            encoders: dict[str, Encode] = {
                TORCH: by_torch,
                INT8: lambda text: full.encode([text]),
                SMALL: lambda text: small.encode([text]),
            }
            results = _in_turns(encoders, queries, rounds, progress)
            files = (QUERY_TOWER_FILE, SMALL_QUERY_TOWER_FILE, TOKENIZER_FILE)
            sizes = {file: (folder / file).stat().st_size for file in files}
    finally:
        torch.set_num_threads(threads)
    return EncodeResult(name, tokens, rounds, results, sizes, machine=machine)


def _towers(name: str, tokens: int, scratch: Path) -> tuple[Path, Encode, list[str]]:
    """Return the folder of a tower with both query encoders, a function that encodes with the torch tower, and queries."""
    torch.manual_seed(0)
    random = np.random.default_rng(7)
    config = replace(preset(name).fresh(), use_image=False)  # a query has no photo
    towers = TwoTowers(config).eval()
    titles = [query_text(lot.item.title) for lot in draw_lots(LOTS, random, NOW)]
    tokenizer = train_wordpiece(titles, config.vocabulary)
    folder = save_towers(towers, tokenizer, scratch)
    card = QueryEncoder.load(folder).card
    ready = load_tokenizer(folder, card)
    queries = _queries(titles, lambda text: len(token_ids(ready, text, card.max_length)), tokens)
    _small_tower(card.tower_id, card.dimensions, config.vocabulary, [token_ids(ready, q, card.max_length) for q in queries]).save(
        folder
    )

    def by_torch(text: str) -> object:
        ids, mask = tokenize(ready, [query_text(text)], card.max_length)
        with torch.inference_mode():
            return towers.query_tower(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()

    return folder, by_torch, queries


def _queries(titles: Sequence[str], count: Callable[[str], int], tokens: int) -> list[str]:
    """Return up to QUERIES beginnings of titles that have `tokens` tokens."""
    openings = (" ".join(title.split()[:words]) for title in titles for words in range(1, 12))
    queries = [text for text in dict.fromkeys(openings) if count(text) == tokens]
    return queries[:QUERIES]


def _small_tower(tower_id: str, dimensions: int, vocabulary: int, queries: Sequence[NDArray[np.int64]]) -> SmallQueryTower:
    """Create a static query encoder of about PAIRS pairs, with all token pairs of the queries."""
    random = np.random.default_rng(7)
    own = np.concatenate([pair_keys(ids) for ids in queries])
    others = pair_keys(random.integers(0, vocabulary, PAIRS - len(own) + 1))
    pairs = np.unique(np.concatenate([own, others]))
    tables = [Int8Table.of(random.normal(size=(rows, dimensions)).astype(np.float32)) for rows in (vocabulary, len(pairs))]
    return SmallQueryTower(tower_id, tables[0], pairs, tables[1], np.zeros(dimensions, np.float32))


def _in_turns(
    encoders: dict[str, Encode], queries: Sequence[str], rounds: int, progress: Callable[[int, int], None]
) -> dict[str, EncoderResult]:
    clock: dict[str, list[list[float]]] = {name: [] for name in encoders}
    cpu: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(WARM_UP + rounds):
        for name, encode in encoders.items():
            cpu_before, times = time.process_time(), []
            for text in queries:
                start = time.perf_counter()
                encode(text)
                times.append((time.perf_counter() - start) * 1000)
            if number >= WARM_UP:
                clock[name].append(times)
                cpu[name].append((time.process_time() - cpu_before) * 1000 / len(queries))
        progress(max(0, number + 1 - WARM_UP), rounds)
    return {name: _summarise(clock[TORCH], clock[name], cpu[TORCH], cpu[name]) for name in encoders}


def _summarise(base: list[list[float]], clock: list[list[float]], base_cpu: list[float], cpu: list[float]) -> EncoderResult:
    ratios = [median(one) / median(other) for one, other in zip(base, clock, strict=True)]
    cpu_ratios = [one / other for one, other in zip(base_cpu, cpu, strict=True)]
    latency = summarise_ms(ms for times in clock for ms in times)
    return EncoderResult(latency, round(median(cpu), 4), round(median(ratios), 2), round(median(cpu_ratios), 2))
