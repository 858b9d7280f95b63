"""Read from and write to a stage's buckets."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gavel.aws.account import NOT_FOUND, aws_errors, client


class Bucket:
    """One S3 bucket.

    Args:
        name: name of the bucket.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._s3 = client("s3")

    def __str__(self) -> str:
        return f"s3://{self.name}"

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key with a prefix, in S3's order."""
        with aws_errors(f"{self}/{prefix}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield from (entry["Key"] for entry in page.get("Contents", []))

    def folders(self) -> list[str]:
        """Return the names of the top-level folders."""
        with aws_errors(str(self)):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Delimiter="/")
            return [entry["Prefix"].rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])]

    def holds(self, key: str) -> bool:
        """True if the object exists."""
        return next(self.list_keys(key), None) == key

    def read_json(self, key: str) -> Any:
        """Read a JSON object, or None if it does not exist."""
        with aws_errors(f"{self}/{key}"):
            try:
                return json.loads(self._s3.get_object(Bucket=self.name, Key=key)["Body"].read())
            except ClientError as error:
                if error.response["Error"]["Code"] in NOT_FOUND:
                    return None
                raise

    def write_json(self, key: str, value: Any) -> None:
        """Write a JSON object."""
        with aws_errors(f"{self}/{key}"):
            self._s3.put_object(Bucket=self.name, Key=key, Body=json.dumps(value).encode(), ContentType="application/json")

    def write(self, key: str, content: bytes) -> None:
        """Write an object."""
        with aws_errors(f"{self}/{key}"):
            self._s3.put_object(Bucket=self.name, Key=key, Body=content)

    def download(self, prefix: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
        """Download the objects below a prefix. They never change, so existing files are skipped.

        Args:
            prefix: prefix of the keys to download.
            folder: folder to write; each file gets its key as path below it.
            progress: called with (files done, files in all).

        Returns:
            The number of files downloaded.
        """
        missing = [key for key in self.list_keys(prefix) if not key.endswith("/") and not (folder / key).exists()]
        for done, key in enumerate(missing, 1):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            with aws_errors(f"{self}/{key}"):
                self._s3.download_file(self.name, key, str(folder / key))  # boto renames the file when it is complete
            if progress:
                progress(done, len(missing))
        return len(missing)

    def upload(
        self,
        folder: Path,
        prefix: str,
        last: str = "",
        progress: Callable[[int, int], None] | None = None,
        select: Callable[[str], bool] = lambda name: True,
    ) -> int:
        """Upload the files of a folder below a prefix, except hidden ones.

        Args:
            folder: folder of the files, which may lie in sub-folders.
            prefix: prefix of the new keys, without a slash at the end.
            last: name of the file to upload last, because its presence means that the others exist.
            progress: called with (files done, files in all).
            select: returns True for each file to upload; called with its path below `folder`.

        Returns:
            The number of files uploaded.
        """
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [name for name in names if select(name) and not any(part.startswith(".") for part in name.split("/"))]
        names.sort(key=lambda name: name == last)
        for done, name in enumerate(names, 1):
            with aws_errors(f"{self}/{prefix}/{name}"):
                self._s3.upload_file(str(folder / name), self.name, f"{prefix}/{name}")
            if progress:
                progress(done, len(names))
        return len(names)
