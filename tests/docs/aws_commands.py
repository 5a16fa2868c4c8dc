"""``aws`` for tests: the few commands that the documents use, over boto3, so that they need no AWS CLI.

aws s3 cp [--recursive] FROM TO
aws s3 sync FROM TO
aws s3api OPERATION --name value … [--query JMESPATH] [--output text]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import boto3
import jmespath

OF_S3API = ("bucket", "prefix", "key", "version-id")


def copy(source: str, target: str, *, recursive: bool) -> None:
    """Copy one object to a file or into a folder, or everything below a prefix."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    if not recursive:
        path = Path(target, Path(key).name) if Path(target).is_dir() else Path(target)
        _download(s3, bucket, key, path)
        return
    prefix = key if key.endswith("/") else f"{key}/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            _download(s3, bucket, entry["Key"], Path(target, entry["Key"][len(prefix) :]))


def _download(s3: Any, bucket: str, key: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(path))


def call(operation: str, values: dict[str, str], query: str | None) -> None:
    """Call an operation of S3 and print what the query takes from its answer, as text."""
    words = {
        "".join(word.title() for word in name.split("_")): v for name, v in values.items() if v
    }
    answer = getattr(boto3.client("s3"), operation.replace("-", "_"))(**words)
    rows = jmespath.search(query, answer) if query else []
    for row in rows or []:
        print("\t".join(map(str, row)))


def main(words: list[str]) -> None:
    service, operation, *rest = words
    parser = argparse.ArgumentParser(prog=f"aws {service} {operation}")
    if service == "s3":
        parser.add_argument("--recursive", action="store_true", default=operation == "sync")
        parser.add_argument("source")
        parser.add_argument("target")
        given = parser.parse_args(rest)
        copy(given.source, given.target, recursive=given.recursive)
        return
    for name in OF_S3API:
        parser.add_argument(f"--{name}")
    parser.add_argument("--query")
    parser.add_argument("--output", choices=["text"])
    given = parser.parse_args(rest)
    values = {name: getattr(given, name) for name in (n.replace("-", "_") for n in OF_S3API)}
    call(operation, values, given.query)


if __name__ == "__main__":
    main(sys.argv[1:])
