"""Photos of lots: where they are found, and how worker processes decode them ahead."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing.embedding import photos as item_photos
from processing.embedding.photos import PhotoLoader, PhotoPlace, PhotoState, load_photo


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def photo(path: Path, colour="red") -> None:
    Image.new("RGB", (40, 40), colour).save(path)


def test_a_photo_is_found_relative_to_the_file_that_names_it_or_by_its_full_path(folder):
    (folder / "photos").mkdir()
    photo(folder / "photos" / "red.png")
    for image in ("photos/red.png", str(folder / "photos" / "red.png")):
        pixels, state, _ = load_photo(PhotoPlace(image, folder), 8)
        assert state == PhotoState.READ
        assert pixels.shape == (8, 8, 3)


def test_worker_processes_give_the_same_photos_in_the_same_order(folder):
    places = []
    for number in range(12):
        photo(folder / f"{number}.png", (20 * number, 0, 0))
        places.append(PhotoPlace(f"{number}.png" if number % 5 else "missing.png", folder))
    batches = [places[i : i + 2] for i in range(0, 12, 2)]
    taken = []

    def source():
        for number, batch in enumerate(batches):
            taken.append(number)
            yield batch

    with PhotoLoader(8, workers=1) as loader:
        decoded = loader.load(source())
        first = next(decoded)
        assert len(taken) <= 1 + item_photos.PREFETCHED_BATCHES
        rest = [photo for batch in decoded for photo in batch]
    with PhotoLoader(8, workers=0) as loader:
        expected = [photo for batch in loader.load(batches) for photo in batch]
    for (pixels, state, _), (wanted, wanted_state, _) in zip([*first, *rest], expected, strict=True):
        assert state == wanted_state
        np.testing.assert_array_equal(pixels, wanted)


def test_a_job_that_is_killed_leaves_no_worker_behind_also_where_temporary_paths_are_long(folder):
    photo(folder / "red.png")
    temporary = folder / ("t" * 100)  # too long for a socket
    temporary.mkdir()
    code = f"""
import os, signal
from pathlib import Path
from processing.embedding.photos import PhotoLoader, PhotoPlace
if __name__ == "__main__":
    with PhotoLoader(8, workers=1) as loader:
        next(loader.load([[PhotoPlace("red.png", Path({str(folder)!r}))]] * 9))
        print(*loader._pool._processes, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    (folder / "job.py").write_text(code)
    variables = {**environment(), "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, str(folder / "job.py")], stdout=subprocess.PIPE, text=True, env=variables, check=False)
    assert done.returncode == -signal.SIGKILL
    worker = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 10
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(item_photos.__file__).parents[2])}


def test_the_process_that_decodes_photos_needs_no_torch():
    code = "import sys, processing.embedding.job, processing.embedding.photos; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
