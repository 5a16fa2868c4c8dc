"""S3 fails under way: what a unit does then."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from devtools.faults import Fault, Proxy, Request, at
from stepvault import engines, keys, multipart
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.deadline import Deadline
from stepvault.engines.base import Job, Snapshot
from stepvault.errors import (
    OutOfTime,
    ScratchFull,
    ShortRead,
    SourceUnreachable,
    StorageUnavailable,
)
from stepvault.records import Receipt
from tests.core.streams import RUN, Scripted, ScriptedEngine, unit
from tests.core.test_two_at_once import packed

MIB = multipart.MIB
LARGE = os.urandom(11 * MIB)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """One large object and a small one."""
    made = ScriptedEngine([packed("large", LARGE), packed("small", b"rows")])
    monkeypatch.setattr(engines, "find", lambda name: made)
    return made


def is_stored(vault: Vault, receipt: Receipt) -> None:
    """Each object of the receipt is there as it was read, and no upload is open."""
    there = {o.name: vault.get(keys.data("shop", RUN, o.name)) for o in receipt.objects}
    assert there == {"large": LARGE, "small": b"rows"}
    assert vault.receipt("shop", RUN, "0000") == receipt
    assert vault.open_uploads("") == []


@pytest.mark.parametrize(
    "operation",
    ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"],
)
@pytest.mark.parametrize("fault", ["refused", "lost", "cut", "busy", "broken", "slow"])
def test_one_fault_is_passed_over(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, operation: str, fault: Fault
) -> None:
    proxy.choose = at(operation, fault, key="data/")
    try:
        receipt = back_up(unit(), vault)
    except StorageUnavailable:  # an answer without its end is not asked for again by botocore
        assert fault == "cut"
        assert vault.open_uploads("") == []
        receipt = back_up(unit(), vault)
    assert proxy.met(fault) == 1
    is_stored(vault, receipt)


@pytest.mark.parametrize("fault", ["lost", "broken", "cut"])
def test_a_receipt_that_arrived_though_the_answer_did_not_counts(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, fault: Fault
) -> None:
    puts = iter(range(100))

    def choose(request: object) -> Fault | None:
        of_receipt = getattr(request, "operation", "") == "PutObject" and "receipts/" in str(
            request
        )
        return fault if of_receipt and next(puts) == 1 else None  # the first is the claim

    proxy.choose = choose
    receipt = back_up(unit(), vault)
    assert proxy.met(fault) == 1
    is_stored(vault, receipt)
    assert engine.opened == 1


@pytest.mark.parametrize("fault", ["lost", "broken"])
def test_a_claim_that_arrived_though_the_answer_did_not_counts(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, fault: Fault
) -> None:
    proxy.choose = at("PutObject", fault, key="receipts/")
    is_stored(vault, back_up(unit(), vault))
    assert engine.opened == 1


@pytest.mark.parametrize(
    ("operation", "what"), [("CreateMultipartUpload", "UploadId"), ("UploadPart", "ETag")]
)
def test_an_answer_without_what_it_should_tell_is_a_passing_fault(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, operation: str, what: str
) -> None:
    proxy.choose = at(operation, "anonymous")
    with pytest.raises(StorageUnavailable, match=f"answered {operation} without {what}"):
        back_up(unit(), vault)
    assert vault.open_uploads("") == []
    is_stored(vault, back_up(unit(), vault))


def test_an_upload_whose_creation_was_never_answered_is_aborted(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    proxy.choose = at("CreateMultipartUpload", "lost", times=100)
    with pytest.raises(StorageUnavailable):
        back_up(unit(), vault, Deadline(12, margin=1))
    assert proxy.met("lost") > 1
    assert vault.open_uploads("") == []


def test_a_unit_that_is_tried_again_aborts_what_a_killed_function_left(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    vault.claim("shop", RUN, "0000", over=None)  # as the killed function did
    from stepvault import storage

    for name in ("large", "large-not-ours"):
        storage.client().create_multipart_upload(
            Bucket=vault.bucket, Key=keys.data("shop", RUN, name)
        )
    back_up(unit(), vault)
    (left,) = vault.open_uploads("")
    assert left[0].endswith("large-not-ours")


def test_the_first_attempt_asks_no_more_than_it_must(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    engine.scripts = [packed(f"{n}", b"rows") for n in range(20)]
    back_up(unit(), vault)
    assert [request.operation for request, _ in proxy.log] == ["PutObject"] * 22


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_part_that_is_refused_for_good_fails_the_unit(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, which: str
) -> None:
    parts = iter(range(1000))

    def choose(request: Request) -> Fault | None:
        if request.operation != "UploadPart":
            return None
        return "busy" if which == "first" or next(parts) > 1 else None

    proxy.choose = choose
    with pytest.raises(StorageUnavailable, match=r"UploadPart .*SlowDown"):
        back_up(unit(), vault, Deadline(30))
    assert vault.get(keys.data("shop", RUN, "large")) is None
    assert vault.receipt("shop", RUN, "0000") is None
    assert vault.open_uploads("") == []


def test_an_upload_is_aborted_only_once_no_part_is_on_its_way(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    flying: list[int] = []

    def choose(request: Request) -> Fault | None:
        if request.operation == "AbortMultipartUpload":
            answered = sum(r.operation == "UploadPart" for r in proxy.answered)
            flying.append(proxy.asked("UploadPart") - answered)
        return "slow" if request.operation == "UploadPart" else None

    def dies() -> Iterator[bytes]:
        yield LARGE
        raise ShortRead("the server closed")

    engine.scripts = [Scripted("large", dies, encoding="none")]
    proxy.choose = choose
    with pytest.raises(ShortRead):
        back_up(unit(), vault)
    assert flying == [0]
    assert proxy.asked("UploadPart") == 2


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart", "CreateMultipartUpload"])
def test_an_s3_that_never_answers_ends_the_unit_in_time(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine, operation: str
) -> None:
    proxy.choose = at(operation, "silent", key="data/", times=100)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=r"S3 cannot be reached .*timeout"):
        back_up(unit(), vault, Deadline(8))
    assert time.monotonic() - started < 20


def test_an_abort_that_is_never_answered_ends_in_time(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    def dies() -> Iterator[bytes]:
        yield LARGE
        raise ShortRead("the server closed")

    engine.scripts = [Scripted("large", dies, encoding="none")]
    proxy.choose = at("AbortMultipartUpload", "silent", times=100)
    started = time.monotonic()
    with pytest.raises(ShortRead, match="the server closed"):
        back_up(unit(), vault, Deadline(8))
    assert time.monotonic() - started < 20


def blocked(released: threading.Event) -> Callable[[], Iterator[bytes]]:
    """A read that nothing can interrupt."""

    def script() -> Iterator[bytes]:
        yield LARGE
        released.wait(30)
        yield b"too late"

    return script


def test_a_source_that_falls_silent_while_it_is_opened_is_given_up_in_time(
    vault: Vault, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, opened, original = threading.Event(), threading.Event(), engine.open

    def silent(job: Job) -> object:
        released.wait(30)
        opened.set()
        return original(job)

    monkeypatch.setattr(engine, "open", silent)
    with pytest.raises(SourceUnreachable, match="no answer while the source was being opened"):
        back_up(unit(), vault, Deadline(1, margin=0.2))
    (failure,) = vault.failures(RUN)
    assert failure.error == "SourceUnreachable"
    released.set()  # the thread that was left behind goes on, and may not store anything
    assert opened.wait(5)
    time.sleep(0.5)
    assert list(vault.entries(keys.data_prefix("shop", RUN))) == []
    assert vault.receipt("shop", RUN, "0000") is None


def test_a_read_that_nothing_interrupts_is_given_up_and_its_upload_aborted(
    vault: Vault, engine: ScriptedEngine
) -> None:
    released = threading.Event()
    engine.scripts = [Scripted("large", blocked(released), encoding="none")]
    with pytest.raises(SourceUnreachable, match=r"while the source was being read.* 12 MB read"):
        back_up(unit(), vault, Deadline(2, margin=1))
    assert vault.open_uploads("") == []
    released.set()
    time.sleep(0.5)
    assert vault.open_uploads("") == []
    assert vault.receipt("shop", RUN, "0000") is None


def test_the_message_says_what_the_time_was_spent_on(vault: Vault, engine: ScriptedEngine) -> None:
    engine.scripts = [Scripted("large", engine.until_cancelled)]
    with pytest.raises(OutOfTime, match="most of them spent on waiting for the source"):
        back_up(unit(), vault, Deadline(3, margin=0.5))


# --- other causes ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["open", "read"])
def test_a_full_scratch_folder_is_named(
    vault: Vault,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def raising(*_: object) -> Snapshot:
        raise full

    if where == "open":
        monkeypatch.setattr(engine, "open", raising)
    else:
        engine.scripts = [Scripted("large", raising)]  # type: ignore[arg-type]
    with pytest.raises(ScratchFull, match=r"shop/0000 needs more temporary storage.*TMPDIR"):
        back_up(unit(), vault)


def test_an_engine_that_reads_nothing_is_no_backup(vault: Vault, engine: ScriptedEngine) -> None:
    engine.scripts = []
    with pytest.raises(ShortRead, match="Nothing of shop/0000"):
        back_up(unit(), vault)
    assert vault.receipt("shop", RUN, "0000") is None


def test_a_body_that_breaks_off_is_read_again(
    vault: Vault, proxy: Proxy, engine: ScriptedEngine
) -> None:
    receipt = back_up(unit(), vault)
    proxy.choose = at("GetObject", "cut", key="data/", times=2)
    (large,) = (o for o in receipt.objects if o.name == "large")
    assert b"".join(vault.read("shop", RUN, large)) == LARGE
    assert proxy.met("cut") == 2
