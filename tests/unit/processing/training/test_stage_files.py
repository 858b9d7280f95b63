"""A schedule of one's own, in a file."""

from pathlib import Path

import pytest

from models.config.training import Stage
from processing.training.schedule_files import read_stages
from retrieval.errors import InvalidInput

MIXED = """
- {name: in-batch, epochs: 4, random_negatives: 1}
- name: mined
  epochs: 2
  rate: 0.5
  hard_negatives: 3
  random_negatives: 1
"""


def test_stages_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(MIXED)
    assert read_stages(tmp_path / "stages.yaml") == (
        Stage("in-batch", 4, random_negatives=1),
        Stage("mined", 2, rate=0.5, hard_negatives=3, random_negatives=1),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no list"),
        ("[]", "no list"),
        ("name: mined", "no list"),
        ("- {epochs: 3}", "must have a name"),
        ("- {name: mined, negatives: 3}", "no field but"),
        ("- {name: mined, epochs: many}", "epochs of stage 1"),
        ("- {name: mined}\n- {name: two, rate: fast}", "rate of stage 2"),
        ("- {name: mined, hard_negatives: 0.5}", "must be int"),
        ("- {name: mined, epochs: 0}", "epochs >= 1"),
        ("- {name: mined", "no readable file"),
        ("- {name: mined, loss: guess}", "loss of stage 1"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "stages.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=complaint):
        read_stages(tmp_path / "stages.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no readable file"):
        read_stages(tmp_path / "absent.yaml")
