"""A real S3 server on this machine: SeaweedFS, from PyPI.

It writes to disk and, like S3, wants every request signed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from devtools.servers.server import free_ports
from devtools.timer import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Where benchmarks make their data: on a disk, as sources are.
SCRATCH = Path(__file__).parent.parent / "build" / "bench"


class ObjectStore:
    """SeaweedFS with an S3 gateway on free loopback ports; its data goes with it."""

    bucket = "bench"

    def __init__(self) -> None:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="s3-", dir=SCRATCH))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        self.endpoint = ""

    def __enter__(self) -> "ObjectStore":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the server, too
        ports = self._ports = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        options: dict[str, object] = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "s3.port": ports[0],
            "s3.port.grpc": ports[1],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "filer.port": ports[2],
            "filer.port.grpc": ports[3],
            "master.port": ports[4],
            "master.port.grpc": ports[5],
            "master.volumeSizeLimitMB": 4096,
            "volume.port": ports[6],
            "volume.port.grpc": ports[7],
            "volume.max": 64,
            "volume.preStopSeconds": 0,
        }
        weed = Path(sys.executable).with_name("weed")
        command = [str(weed), "server", "-s3", *(f"-{k}={v}" for k, v in options.items())]
        with (self._folder / "log").open("wb") as log:
            user = {key: value for key, value in self.environment.items() if "_KEY" in key}
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, env={**os.environ, **user}
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        for port in self._ports:  # sockets that SeaweedFS leaves behind
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Return what boto3, aws and rclone (remote ``s3:``) need to reach the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_S3_ENV_AUTH": "true",
            "RCLONE_CONFIG_S3_ENDPOINT": self.endpoint,
            "RCLONE_CONFIG_S3_NO_CHECK_BUCKET": "true",
        }

    @property
    def client(self) -> "S3Client":
        """Return a new client of the server."""
        import boto3

        environment = self.environment
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
        )

    def size(self, prefix: str = "") -> int:
        """Return the bytes stored under the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return sum(entry["Size"] for page in pages for entry in page.get("Contents", []))

    def empty(self, prefix: str = "") -> None:
        """Delete what is stored under the prefix."""
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=self.bucket, Key=entry["Key"])

    def _wait(self) -> None:
        """Wait until a bucket can be made and written to."""
        from botocore.exceptions import BotoCoreError, ClientError

        def ready() -> bool:
            try:
                client = self.client
                with suppress(client.exceptions.BucketAlreadyExists, ClientError):
                    client.create_bucket(Bucket=self.bucket)
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
                client.delete_object(Bucket=self.bucket, Key="ready")
            except (BotoCoreError, ClientError):
                return False
            return True

        process = self._process
        try:
            wait_until(
                ready,
                "SeaweedFS's first answer",
                seconds=60,
                pause=0.2,
                given_up=lambda: process is None or process.poll() is not None,
            )
        except TimeoutError as error:
            log = (self._folder / "log").read_text(errors="replace")
            raise RuntimeError(f"SeaweedFS did not start: {error}\n{log[-2_000:]}") from error
