"""What the commands look up in a stage's buckets, and put there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gavel.aws.account import NOT_FOUND, asking_aws, client


class Bucket:
    """One bucket.

    Args:
        name: of it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._s3 = client("s3")

    def __str__(self) -> str:
        return f"s3://{self.name}"

    def listed(self, prefix: str = "") -> Iterator[str]:
        """Every key with a prefix, in order."""
        with asking_aws(f"{self}/{prefix}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield from (entry["Key"] for entry in page.get("Contents", []))

    def folders(self) -> list[str]:
        """Names of what stands at the top with something below."""
        with asking_aws(str(self)):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Delimiter="/")
            return [entry["Prefix"].rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])]

    def holds(self, key: str) -> bool:
        """Whether an object is there."""
        return next(self.listed(key), None) == key

    def read_json(self, key: str) -> Any:
        """An object of JSON; None where there is none."""
        with asking_aws(f"{self}/{key}"):
            try:
                return json.loads(self._s3.get_object(Bucket=self.name, Key=key)["Body"].read())
            except ClientError as error:
                if error.response["Error"]["Code"] in NOT_FOUND:
                    return None
                raise

    def write_json(self, key: str, value: Any) -> None:
        """Write an object of JSON."""
        with asking_aws(f"{self}/{key}"):
            self._s3.put_object(Bucket=self.name, Key=key, Body=json.dumps(value).encode(), ContentType="application/json")

    def download(self, prefix: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
        """Fetch what lies below a prefix, whose objects never change; a file that is there already is not fetched again.

        Args:
            prefix: of the keys.
            folder: gets the files, under their keys.
            progress: called with (files done, files in all).

        Returns:
            How many files were fetched.
        """
        missing = [key for key in self.listed(prefix) if not key.endswith("/") and not (folder / key).exists()]
        for done, key in enumerate(missing, 1):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            with asking_aws(f"{self}/{key}"):
                self._s3.download_file(self.name, key, str(folder / key))  # under another name until it is whole
            if progress:
                progress(done, len(missing))
        return len(missing)

    def upload(
        self,
        folder: Path,
        prefix: str,
        last: str = "",
        progress: Callable[[int, int], None] | None = None,
        wanted: Callable[[str], bool] = lambda name: True,
    ) -> int:
        """Put the files of a folder below a prefix; hidden ones stay behind.

        Args:
            folder: with its sub-folders.
            prefix: of the keys.
            last: the file that goes last, since its presence says that the others are there.
            progress: called with (files done, files in all).
            wanted: which of them, by their names below the folder.

        Returns:
            How many files went up.
        """
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [name for name in names if wanted(name) and not any(part.startswith(".") for part in name.split("/"))]
        names.sort(key=lambda name: name == last)
        for done, name in enumerate(names, 1):
            with asking_aws(f"{self}/{prefix}/{name}"):
                self._s3.upload_file(str(folder / name), self.name, f"{prefix}/{name}")
            if progress:
                progress(done, len(names))
        return len(names)
