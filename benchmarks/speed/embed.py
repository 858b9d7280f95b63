"""Throughput of the embedding job from JPEG files and titles, compared with the bare model.

gavel bench embed --preset distilbert-resnet50
"""

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from processing.embedding.job import embed_with
from processing.embedding.photos import PhotoPlace, load_photo
from processing.embedding.plan import BATCH_SIZE, EmbeddingRun
from processing.embedding.prefetch import Stopwatch
from retrieval.contracts.item_files import read_items
from retrieval.contracts.items import Item, item_text

if TYPE_CHECKING:
    from models.artefacts.item_encoder import ItemBatch, ItemEncoder

Progress = Callable[[int, int], None]
PHASES = ("decode", "collate", "transfer", "compute", "write")
JPEG_QUALITY = 85
GRAIN = 4.0  # standard deviation of the noise, by which JPEGs of 640 pixels have about 90 kB, like those of shops
PATCHES = 16
LOTS_FILE = "lots.ndjson"
MAKERS = ("Omega", "Leica", "Rolex", "Meissen", "Fender", "Eames", "Lalique", "Zeiss")
THINGS = ("watch", "camera", "vase", "guitar", "armchair", "lamp", "ring", "microscope", "typewriter", "globe")
STATES = ("restored", "in its original box", "with light wear", "unused", "signed and numbered", "for parts")


@dataclass(frozen=True)
class Repetition:
    """One pass of the job and of the model over all items.

    Attributes:
        path_s: seconds of the job from files to a committed release, without loading the tower.
        model_s: seconds of the model over the same batches, which are tensors on the model's device.
        path_cpu_s: processor seconds of the job, with the busy time of decoding workers.
        model_cpu_s: processor seconds of the model.
        busy_s: phase -> busy seconds during the job; phases overlap.
    """

    path_s: float
    model_s: float
    path_cpu_s: float
    model_cpu_s: float
    busy_s: dict[str, float]


@dataclass(frozen=True)
class EmbedBenchmark(Measurement):
    """Throughput of the embedding job and of the bare model.

    Attributes:
        preset: architecture of the tower with random weights.
        lots: number of items, each with a photo.
        photo_size: side of the square JPEG in pixels.
        photo_kb: mean size of a JPEG in kB.
        batch_size: number of lots per batch.
        workers: number of processes that decode photos; 0 decodes in a thread.
        device: torch device of the model.
        repetitions: measurements of each repetition, in order.
        hardware: processor, cores, torch threads, and the GPU if it is used.
        load: load average of the minute before the measurement, caused by other processes.
    """

    preset: str
    lots: int
    photo_size: int
    photo_kb: float
    batch_size: int
    workers: int
    device: str
    repetitions: list[Repetition]
    hardware: str
    load: float
    derived: ClassVar = ("items_per_s", "model_items_per_s", "ratio", "cpu_ratio", "busy_share")

    @property
    def items_per_s(self) -> float:
        """Lots per second of the job, median over the repetitions."""
        return round(self.lots / median(one.path_s for one in self.repetitions), 1)

    @property
    def model_items_per_s(self) -> float:
        """Lots per second of the bare model, median over the repetitions."""
        return round(self.lots / median(one.model_s for one in self.repetitions), 1)

    @property
    def ratio(self) -> float:
        """Rate of the job divided by the rate of the bare model, median. At 1 all other work is hidden behind the model's."""
        return round(median(one.model_s / one.path_s for one in self.repetitions), 3)

    @property
    def cpu_ratio(self) -> float:
        """Processor time of the bare model divided by that of the job, median. It equals `ratio` if the model fills every core."""
        return round(median(one.model_cpu_s / one.path_cpu_s for one in self.repetitions), 3)

    def share(self, phase: str) -> float:
        """Return the busy share of a phase, median of the repetitions. Phases overlap, so shares may add up to more than 1."""
        return median(one.busy_s.get(phase, 0.0) / one.path_s for one in self.repetitions)

    @property
    def busy_share(self) -> dict[str, float]:
        """Phase -> busy share, see share()."""
        return {phase: round(self.share(phase), 4) for phase in PHASES}


def make_lots(folder: Path, lots: int, photo_size: int, progress: Progress | None = None, *, seed: int = 7) -> None:
    """Write a catalogue of items, each with its own JPEG.

    Args:
        folder: folder to write lots.ndjson and photos/ to.
        lots: number of items.
        photo_size: side of the square photos in pixels, >= 16.
        progress: called with (items done, items in all).
        seed: seed of the random titles and photos.
    """
    random = np.random.default_rng(seed)
    (folder / "photos").mkdir(parents=True)
    with (folder / LOTS_FILE).open("w") as file:
        for number in range(lots):
            _photo(random, photo_size).save(folder / f"photos/{number}.jpg", quality=JPEG_QUALITY)
            maker, thing, state = (str(random.choice(words)) for words in (MAKERS, THINGS, STATES))
            title = f"{maker} {thing} {random.integers(1890, 2000)}, {state}"
            row = {"item_id": f"lot-{number}", "title": title, "image": f"photos/{number}.jpg", "current_price": number % 900}
            file.write(json.dumps(row) + "\n")
            if progress:
                progress(number + 1, lots)


def _photo(random: np.random.Generator, size: int) -> Image.Image:
    """Return an image of soft patches of colour with grain, which compresses about like a photo."""
    patches = Image.fromarray(random.integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = random.standard_normal((size, size, 1), dtype=np.float32) * GRAIN
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def random_encoder(preset: str, texts: list[str], device: str | None, *, seed: int = 7) -> "ItemEncoder":
    """Create an item tower of a preset with random weights, because speed does not depend on training.

    Args:
        preset: name of the architecture.
        texts: texts to train the tokenizer on.
        device: torch device; None takes the GPU if there is one.
        seed: seed of the random weights.
    """
    import torch

    from models.artefacts.item_encoder import ItemEncoder
    from models.towers.config import preset as find_preset
    from models.towers.tokenizer import train_wordpiece
    from models.towers.two_towers import TwoTowers
    from retrieval.contracts.tower_card import TowerCard
    from retrieval.encoders.query_encoder import prepare_tokenizer

    torch.manual_seed(seed)
    config = find_preset(preset).fresh()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = prepare_tokenizer(train_wordpiece(texts, config.vocabulary), config.max_length)
    tower = TwoTowers(config).item_tower.to(where).eval()
    size = config.image_size if config.use_image else 0
    card = TowerCard(
        "random-weights", preset, config.dimensions, config.max_length, size, config.image_mean, config.image_std, {}, {}
    )
    return ItemEncoder(card, tower, tokenizer, where)


def ready_batches(encoder: "ItemEncoder", folder: Path) -> "list[ItemBatch]":
    """Return the batches of the job as tensors on the encoder's device."""
    items = [row for row in read_items(folder / LOTS_FILE) if isinstance(row, Item)]
    batches = []
    for start in range(0, len(items), BATCH_SIZE):
        lots = items[start : start + BATCH_SIZE]
        photos = [load_photo(PhotoPlace(lot.image, folder), encoder.card.image_size)[0] for lot in lots]
        batches.append(encoder.transfer(encoder.collate([item_text(lot.title, lot.description) for lot in lots], photos)))
    return batches


def measure(
    encoder: "ItemEncoder", folder: Path, out: Path, *, workers: int, repetitions: int, progress: Progress | None = None
) -> Iterator[Repetition]:
    """Run the job and the bare model in alternating order, and yield the measurements of each repetition.

    Args:
        encoder: encoder with the item tower.
        folder: catalogue that make_lots() wrote.
        out: folder for one release per repetition.
        workers: number of processes that decode photos; 0 decodes in a thread.
        repetitions: number of repetitions after a warm-up.
        progress: called with (passes done, passes in all).
    """
    batches = ready_batches(encoder, folder)
    passes = 2 * (repetitions + 1)
    for number in range(repetitions + 1):
        watch = Stopwatch()
        run = EmbeddingRun([folder], out, release_id=f"pass-{number}", workers=workers)
        steps: dict[str, Callable[[], object]] = {
            "path": partial(embed_with, encoder, run, watch=watch),
            "model": lambda: [encoder.compute(batch) for batch in batches],
        }
        took, processor = {}, {}
        for done, name in enumerate(sorted(steps, reverse=bool(number % 2))):
            gc.collect()
            start, processor_start = time.perf_counter(), time.process_time()
            steps[name]()
            took[name], processor[name] = time.perf_counter() - start, time.process_time() - processor_start
            if progress:
                progress(2 * number + done + 1, passes)
        if number:
            decoded = watch.seconds.get("decode", 0.0) if workers else 0.0
            yield Repetition(took["path"], took["model"], processor["path"] + decoded, processor["model"], watch.seconds)


def run_benchmark(
    preset: str,
    *,
    lots: int,
    photo_size: int,
    workers: int,
    device: str | None,
    repetitions: int,
    folder: Path,
    photos: Progress | None = None,
    passes: Progress | None = None,
) -> EmbedBenchmark:
    """Write items, create the tower and measure.

    Args:
        preset: architecture of the tower.
        lots: number of items, >= 1.
        photo_size: side of the photos in pixels, >= 16.
        workers: number of processes that decode photos; 0 decodes in a thread.
        device: torch device; None takes the GPU if there is one.
        repetitions: number of repetitions, >= 1.
        folder: empty folder for all files.
        photos: called with (items written, items in all).
        passes: called with (passes done, passes in all).
    """
    catalogue = folder / "lots"
    make_lots(catalogue, lots, photo_size, photos)
    titles = [row.title for row in read_items(catalogue / LOTS_FILE) if isinstance(row, Item)]
    encoder = random_encoder(preset, titles, device)
    sizes = [path.stat().st_size for path in (catalogue / "photos").iterdir()]
    machine, load = describe_machine(), os.getloadavg()[0]
    timings = measure(encoder, catalogue, folder / "out", workers=workers, repetitions=repetitions, progress=passes)
    return EmbedBenchmark(
        preset=preset,
        lots=lots,
        photo_size=photo_size,
        photo_kb=round(sum(sizes) / len(sizes) / 1000, 1),
        batch_size=BATCH_SIZE,
        workers=workers,
        device=str(encoder.device),
        repetitions=list(timings),
        hardware=describe_hardware(encoder.device.type),
        load=round(load, 2),
        machine=machine,
    )


def describe_hardware(device: str) -> str:
    """Return processor, available cores, torch threads, and the GPU if it is used."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{_processor()}, {cores} cores, {torch.get_num_threads()} torch threads"
    return f"{text}, {torch.cuda.get_device_name()}" if device == "cuda" else text


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
