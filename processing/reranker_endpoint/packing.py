"""Pack a trained re-ranker for SageMaker: model.tar.gz with the booster and its inference script."""

import gzip
import io
import tarfile
from pathlib import Path

from processing.reranker_endpoint import inference
from retrieval.files import replacing
from retrieval.ranker.xgboost_ranker import BoosterRanker

SCRIPT = "code/inference.py"  # as in the model's environment (infra/reranker.py)


def pack_model(booster: Path, out: Path) -> Path:
    """Write the archive of an endpoint; the same booster gives the same bytes.

    Args:
        booster: a file that BoosterRanker.save() wrote.
        out: path of the archive, such as model.tar.gz.

    Returns:
        `out`.

    Raises:
        RankerUnavailable: the file is missing or no booster.
        FeatureMismatch: the booster was trained on other features than search computes.
    """
    BoosterRanker.load(booster)
    script = Path(inference.__file__)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out) as partial,
        partial.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, source in ((inference.BOOSTER_FILE, booster), (SCRIPT, script)):
            content = source.read_bytes()
            entry = tarfile.TarInfo(name)  # no owner and no time, so that equal boosters give equal bytes
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out
