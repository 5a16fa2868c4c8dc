"""AWS on this machine: start MiniStack, deploy the real stack into it, stop it.

MiniStack pins a botocore of its own and therefore lives in its own environment,
``build/emulator-venv``; ``prepare()`` makes it. ``running()`` starts one, on loopback only.

::

    with emulator.running() as endpoint:
        outputs = emulator.deploy(endpoint, Path("stepvault.toml"))
        client = boto3.client("s3", **emulator.client_options(endpoint))

At a terminal: ``python -m devtools.emulator [PORT]`` runs one until Ctrl-C.
"""

import hashlib
import json
import os
import platform
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devtools.servers.server import free_port
from devtools.timer import wait_until

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / "build" / "emulator-venv"
LOCK = Path(__file__).with_suffix(".txt")
PROGRAM = Path(__file__).with_name("ministack_plus.py")
CDK = ROOT / "infra" / "node_modules" / ".bin" / "cdk"
STACK = "Stepvault"
REGION = "us-east-1"
#: ``infra.local.LOCAL_ASSETS``; a test compares.
ASSETS = "stepvault-local-assets"


class EmulatorError(Exception):
    """The emulator or the deployment failed; the message quotes what it printed."""


@contextmanager
def running(
    port: int | None = None, log: Path | None = None, *, auth: bool = False
) -> Iterator[str]:
    """Run a MiniStack for the block; yield its endpoint, ``http://127.0.0.1:<port>``.

    Args:
        port: loopback port; a free one when left out.
        log: file for what the emulator prints; a temporary one when left out.
        auth: let every function do only what its role allows; the endpoint is then https,
            because the vault's policy refuses anything else.

    Raises:
        EmulatorError: it did not start; quotes the end of its log.
    """
    prepare()
    port = port or free_port()
    endpoint = f"{'https' if auth else 'http'}://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="stepvault-emulator-") as scratch:
        kept = log or Path(scratch) / "ministack.log"
        with kept.open("wb") as out:
            process = subprocess.Popen(
                [VENV / "bin" / "python", PROGRAM],
                env=_emulator_environment(port, scratch, auth),
                stdin=subprocess.PIPE,  # never written to: its end tells that this process is gone
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait(process, endpoint, kept)
            yield endpoint
        finally:
            _stop(process)


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables that point any AWS client, and the CDK, to that emulator."""
    trust = {}
    if endpoint.startswith("https:"):
        certificate = str(_certificate())
        trust = {"AWS_CA_BUNDLE": certificate, "NODE_EXTRA_CA_CERTS": certificate}
    return trust | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client_options(endpoint: str) -> dict[str, Any]:
    """Return arguments for ``boto3.client``, which then needs no environment."""
    return {
        "verify": str(_certificate()) if endpoint.startswith("https:") else None,
        "endpoint_url": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "region_name": REGION,
    }


def deploy(
    endpoint: str, config: Path, stack: str = STACK, assembly: Path | None = None
) -> dict[str, str]:
    """Run ``cdk deploy`` for the real stack; return the stack's outputs by name.

    Args:
        endpoint: of the emulator.
        config: the stepvault.toml to deploy.
        stack: name of the CloudFormation stack.
        assembly: what ``synthesize`` wrote; made here when left out.

    Raises:
        EmulatorError: quotes what the CDK printed.
    """
    if not CDK.exists():
        raise EmulatorError("The CDK is not installed: run 'make infra/node_modules/.ready'")
    with tempfile.TemporaryDirectory(prefix="stepvault-cdk-") as scratch:
        if assembly is None:
            assembly = Path(scratch) / "cdk.out"
            synthesize(config, assembly, stack)
        _make_assets_bucket(endpoint)
        outputs = Path(scratch) / "outputs.json"
        _run(
            [
                CDK, "deploy", stack, "--app", assembly, "--outputs-file", outputs,
                "--require-approval", "never", "--method", "direct",
                "--ci", "--progress", "events", "--no-notices", "--no-version-reporting",
            ],
            environment(endpoint) | {"CDK_DISABLE_CLI_TELEMETRY": "1"},
        )  # fmt: skip
        return dict(json.loads(outputs.read_text())[stack])


def synthesize(config: Path, assembly: Path, stack: str = STACK) -> None:
    """Write the stack's cloud assembly for the emulator, which need not run yet.

    Raises:
        EmulatorError: quotes what the CDK printed, such as the mistakes in the configuration.
    """
    build_layers()
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    context |= {"local": "1", "config": str(config.resolve()), "stack": stack}
    _run(
        [sys.executable, "-m", "infra.app"],
        {
            "CDK_OUTDIR": str(assembly),
            "CDK_CONTEXT_JSON": json.dumps(context),
            # The CDK's own linter takes ten seconds; `make synth` runs it.
            "CDK_VALIDATION": "false",
        },
    )


def architecture() -> str:
    """Return this machine's architecture in Lambda's words: arm64 or x86_64."""
    return "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"


def build_layers() -> None:
    """Build the layers for this machine, unless they are there."""
    for layer in ("deps", "postgres_client"):
        out = ROOT / "build" / "layers" / f"{layer}-{architecture()}"
        script = ROOT / "layers" / layer / "build.py"
        _run([sys.executable, script, "--arch", architecture(), "--out", out])


def prepare() -> None:
    """Install MiniStack into its own environment, unless it is there."""
    ready = VENV / ".ready"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if ready.is_file() and ready.read_text() == wanted:
        return
    uv = ROOT / "build" / "uv" / "bin" / "uv"
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV])
    _run([uv, "pip", "install", "--quiet", "--require-hashes", "--python", VENV, "-r", LOCK])
    ready.write_text(wanted)


def _emulator_environment(port: int, scratch: str, auth: bool) -> dict[str, str]:
    secure: dict[str, str] = {}
    if auth:
        secure = {"AUTH": "true", "USE_SSL": "1"} | {
            "MINISTACK_SSL_CERT": str(_certificate()),
            "MINISTACK_SSL_KEY": str(_certificate().with_suffix(".key")),
        }
    return (
        _clean(os.environ)
        | secure
        | {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "LOG_LEVEL": "WARNING",
            # Listeners of services that nobody here uses, on all interfaces.
            "IOT_MTLS_ENABLED": "false",
            "SFTP_ENABLED": "false",
            # Workers unpack the functions' code here; it goes when the emulator goes.
            "TMPDIR": scratch,
        }
    )


def _clean(given: Mapping[str, str]) -> dict[str, str]:
    """Leave out the caller's AWS and Python settings."""
    return {
        k: v
        for k, v in given.items()
        # Without Python's cache, each deploy compiles the CDK's huge modules again (5 s). The
        # CA bundles would win over the emulator's own certificate.
        if not k.startswith(("AWS_", "PYTHON")) and not k.endswith(("CA_BUNDLE", "SSL_CERT_FILE"))
    }


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    try:
        wait_until(
            lambda: _answers(f"{endpoint}/_ministack/health"),
            "MiniStack's first answer",
            seconds=60,
            given_up=lambda: process.poll() is not None,
        )
    except TimeoutError as error:
        printed = log.read_text(errors="replace")[-2000:]
        raise EmulatorError(f"MiniStack did not start on {endpoint}: {error}\n{printed}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the emulator and the functions' workers: they are one process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    if process.stdin:
        process.stdin.close()


def _make_assets_bucket(endpoint: str) -> None:
    import boto3

    boto3.client("s3", **client_options(endpoint)).create_bucket(Bucket=ASSETS)


def _answers(url: str) -> bool:
    trust = ssl.create_default_context(cafile=_certificate()) if url.startswith("https:") else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=trust):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _certificate() -> Path:
    """Return a self-signed certificate for the loopback address; its key is beside it."""
    certificate = ROOT / "build" / "emulator-tls" / "server.crt"
    if not certificate.is_file():
        certificate.parent.mkdir(parents=True, exist_ok=True)
        _run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
                "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
                "-addext", "basicConstraints=critical,CA:FALSE",
                "-keyout", certificate.with_suffix(".key"), "-out", certificate,
            ]
        )  # fmt: skip
    return certificate


def _run(command: Sequence[str | Path], extra: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=_clean(os.environ) | dict(extra or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        name = " ".join(str(word) for word in command[:3])
        raise EmulatorError(f"{name} failed:\n{done.stdout}{done.stderr}".rstrip())


def main() -> None:
    """Run an emulator until Ctrl-C and print the variables that point to it."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with running(port) as endpoint:
        print("\n".join(f"export {k}={v}" for k, v in environment(endpoint).items()), flush=True)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except EmulatorError as error:
        sys.exit(str(error))
