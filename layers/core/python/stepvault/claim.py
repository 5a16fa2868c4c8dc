"""Who may store a unit when several invocations work on it.

A claim is a small object under the key of the unit's receipt. S3 compares and writes in one step,
so that two invocations cannot both go on:

* A receipt is written only over the writer's own claim. An invocation whose claim was replaced
  can never finish the unit.
* An object is written only over what was there when the claim was taken. What the present holder
  of the claim has written is not overwritten by an earlier one.
"""

import threading
from contextlib import suppress

from stepvault.catalog import Vault, is_whole
from stepvault.errors import SourceBusy, StepvaultError
from stepvault.multipart import Condition
from stepvault.objects import Listed
from stepvault.records import Receipt, Unit

#: How often a claim is tried while other invocations begin.
_TRIES = 3


class Overtaken(Exception):
    """Another invocation has stored the unit meanwhile."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.unit)
        self.receipt = receipt


class Claim:
    """The right to store a unit. The invocation that began last has it.

    Args:
        unit: what is to be stored.
        vault: where.
    """

    def __init__(self, unit: Unit, vault: Vault) -> None:
        self.vault = vault
        self._unit = unit
        self._names = (unit.source.name, unit.run_id, unit.id)
        self._etag: str | None = None
        self._there: dict[str, str | None] = {}
        """ETags of the data objects by name, as an earlier invocation left them."""
        self._retried = False
        self._interrupted = False
        """Another invocation had the claim meanwhile, and may have written over our objects."""
        self._lock = threading.Lock()

    def take(self) -> None:
        """Put up the claim.

        Raises:
            Overtaken: the unit is stored already.
            SourceBusy: other invocations begin again and again.
        """
        self._etag = self.vault.claim(*self._names, over=None)
        if self._etag is not None:
            return  # the first invocation: nothing of the unit is there
        self._retried = True
        for _ in range(_TRIES):
            etag, _ = self._present()
            self._etag = self.vault.claim(*self._names, over=etag)
            if self._etag is not None:
                objects = self._stored_objects()
                self._there = {name: listed.etag for (_, name), listed in objects.items()}
                return
        raise self._lost()

    def condition(self, name: str) -> Condition:
        """Return on what condition the data object of that name may be written."""
        return Condition(self._there.get(name), self.confirm, self._retried)

    def confirm(self) -> None:
        """Make sure that the claim is still there.

        Raises:
            Overtaken: another invocation has stored the unit.
            SourceBusy: another invocation is at work on it.
        """
        with self._lock:
            etag, is_claim = self._present()
            if etag is not None and etag == self._etag:
                return
            if is_claim:
                raise self._lost()
            # Another invocation has ended, and what it stored is not there any more.
            self._etag = self.vault.claim(*self._names, over=etag)
            self._interrupted = True
            if self._etag is None:
                raise self._lost()

    def turn_into(self, receipt: Receipt) -> None:
        """Put the receipt in the claim's place: now the unit is stored.

        Raises:
            Overtaken, SourceBusy: as ``confirm``.
        """
        if self._interrupted and not self._is_whole(receipt):
            raise self._lost()
        if not self.vault.put_receipt(receipt, over=self._etag):
            self.confirm()  # if the answer was lost, it raises Overtaken with our own receipt
            raise self._lost()

    def stored_by_another(self) -> Receipt | None:
        """Return the receipt of another invocation that has stored the unit, if that is known."""
        with suppress(StepvaultError):
            try:
                self._present()
            except Overtaken as overtaken:
                return overtaken.receipt
        return None

    def _present(self) -> tuple[str | None, bool]:
        """Return the ETag of the claim, or of a receipt that proves nothing, and whether it is a claim.

        Raises:
            Overtaken: there is a receipt, and its objects are still there as they were stored.
        """
        there = self.vault.receipt_or_claim(*self._names)
        if there.receipt and self._is_whole(there.receipt):
            raise Overtaken(there.receipt)
        return there.etag, there.is_claim

    def _is_whole(self, receipt: Receipt) -> bool:
        return is_whole(receipt, self._stored_objects())

    def _stored_objects(self) -> dict[tuple[str, str], Listed]:
        return self.vault.stored_objects(self._unit.source.name, [self._unit.run_id])

    def _lost(self) -> SourceBusy:
        return SourceBusy(
            f"Another invocation began to store {self._unit.source.name}/{self._unit.id} later",
            "Let it end: it stores the unit instead",
        )
