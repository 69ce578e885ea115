"""Replay a log of certified batches from genesis: the check that anybody can make of what the committee did.

Every certificate, every settlement's signatures and every rule of the ledger are checked again, and every header has
to come out as it was certified. Signatures, the dear half, need no ledger: they are checked by processes of their own,
some batches ahead; the ledger is one chain and is followed by the caller's process alone.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field

import msgspec

from consensus.committee import Committee
from consensus.errors import CertificateFault, CertificateInvalid
from consensus.market.batch import apply_batch, body_root
from consensus.market.errors import BatchInvalid, SettlementInvalid
from consensus.market.ledger_state import Ledger, rescue, state_root
from consensus.market.settlement import Standing, VerifiedIds, VerifiedSettlements, certified_ids, verify_settlement
from consensus.membership import Term
from consensus.params import Terms
from consensus.tendermint.certificate import check_signers, check_subject, signers_of
from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages.base import decode
from gossip.messages.committee import BatchBody, CertifiedBatch
from node.errors import ReplayFailed
from node.network_file import NetworkFile

AHEAD = 4
"""Batches that each process is given ahead of the ledger."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where a log leads. ``settlements`` are all that were settled, ``total_credited`` is wei since genesis."""

    height: int
    state_root: Digest
    total_credited: int
    settlements: int


@dataclass(frozen=True, slots=True)
class Checks:
    """How a log is checked. The ledger's rules and every certificate always are.

    Settlements' signatures are left to the certificate below ``signatures_from`` (a height), and everywhere with
    ``trust_certificates``: then more than 2/3 of stake is believed to have checked them. ``processes`` check
    signatures; with 0 the caller's own does.
    """

    trust_certificates: bool = False
    signatures_from: int = 1
    processes: int = 0
    rescues: tuple[Digest, ...] = ()
    """Roots of committees that came by a rescue, on the reader's word: no batch can vouch for them."""

    def with_signatures(self, height: int) -> bool:
        """Whether the settlements of ``height`` are checked signature by signature."""
        return not self.trust_certificates and height >= self.signatures_from


class Checked(msgspec.Struct, frozen=True):
    """What a batch says of itself: the ids of its settlements in order, or the field at fault and why."""

    ids: tuple[VerifiedIds, ...] = ()
    signers: tuple[Address, ...] = ()
    """Whose signatures the certificate holds; the ledger says who decides."""
    fault: tuple[str, str] | None = None


def replay(
    batches: Iterable[tuple[int, bytes]],
    network: NetworkFile,
    checks: Checks,
    on_batch: Callable[[Ledger], None] = lambda _: None,
) -> Replayed:
    """Follow ``batches`` (height and encoding, from height 1 on) from the genesis of ``network``.

    ``on_batch`` is called with the ledger after each. Raises :class:`~node.errors.ReplayFailed` at the first batch
    that is missing, not certified or not what follows, and what :meth:`NetworkFile.genesis` does for a bad genesis.
    """
    terms, ledger = network.terms(), network.genesis()
    verified = VerifiedSettlements(terms)
    settlements = 0
    with closing(_checked(_in_order(batches), terms, checks)) as log:
        for height, data, checked in log:
            if checked.fault is not None:
                raise ReplayFailed(height, *checked.fault)
            batch = decode(CertifiedBatch, data)
            for settlement, ids in zip(batch.body.settlements, checked.ids, strict=True):
                verified.note(settlement, ids)
            try:
                ledger = _rescued(ledger, batch, checks.rescues)
                _check_decided(batch, checked.signers, ledger.committee)
                ledger = apply_batch(ledger, terms, batch.header, batch.body, verified=verified)
            except CertificateInvalid as error:
                raise ReplayFailed(height, "certificate", str(error)) from error
            except BatchInvalid as error:
                raise ReplayFailed(height, error.reason, str(error)) from error
            for settlement in batch.body.settlements:
                verified.forget(settlement)
            settlements += len(batch.body.settlements)
            on_batch(ledger)
    return Replayed(ledger.height, state_root(ledger), int(ledger.total_credited), settlements)


def _rescued(ledger: Ledger, batch: CertifiedBatch, trusted: tuple[Digest, ...]) -> Ledger:
    if batch.body.rescue is None:
        return ledger
    committee = Term(batch.body.rescue.epoch, batch.body.rescue.members).committee
    if committee.root not in trusted:
        raise BatchInvalid("rescue_unknown", committee.root)
    return rescue(ledger, committee)


def _check_decided(batch: CertifiedBatch, signers: tuple[Address, ...], committee: Committee) -> None:
    """The half of the certificate's check that needs to know who decides."""
    for named in (batch.certificate.committee_root, batch.header.committee_root):
        if named != committee.root:
            raise CertificateInvalid(CertificateFault.COMMITTEE_ROOT, named)
    check_signers(signers, committee)


@dataclass(slots=True)
class Checker:
    """Checks what a batch says of itself, without any ledger."""

    terms: Terms
    checks: Checks
    _standing: Standing = field(default_factory=Standing)

    def check(self, height: int, data: bytes) -> Checked:
        """The certificate of a stored batch and its settlements."""
        try:
            batch = decode(CertifiedBatch, data)
            if batch.header.height != height:
                return Checked(fault=("height", f"the batch stored here is of height {batch.header.height}"))
            check_subject(batch.certificate, batch.header)
            signers = signers_of(batch.certificate, self.terms.domain)
            if body_root(batch.body) != batch.header.body_root:
                return Checked(fault=("body_root", "the stored body is not the one that was certified"))
            return Checked(self._ids(batch.body, with_signatures=self.checks.with_signatures(height)), signers)
        except MessageError as error:
            return Checked(fault=("encoding", str(error)))
        except CertificateInvalid as error:
            return Checked(fault=("certificate", str(error)))
        except BatchInvalid as error:
            return Checked(fault=(error.reason, str(error)))

    def _ids(self, body: BatchBody, *, with_signatures: bool) -> tuple[VerifiedIds, ...]:
        found = []
        for number, settlement in enumerate(body.settlements):
            try:
                if with_signatures:
                    found.append(verify_settlement(settlement, self.terms, self._standing))
                else:
                    found.append(certified_ids(settlement, self.terms))
            except SettlementInvalid as error:
                raise BatchInvalid("settlement", f"number {number}: {error}") from error
        return tuple(found)


def _in_order(batches: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    expected = 1
    for height, data in batches:
        if height != expected:
            raise ReplayFailed(expected, "height", f"no batch is stored; the next is of height {height}")
        yield height, data
        expected += 1


def _checked(
    batches: Iterator[tuple[int, bytes]], terms: Terms, checks: Checks
) -> Generator[tuple[int, bytes, Checked], None, None]:
    """Each batch with what it says of itself, in order."""
    if checks.processes == 0:
        checker = Checker(terms, checks)
        for height, data in batches:
            yield height, data, checker.check(height, data)
        return
    # spawned, not forked: a fork would copy whatever locks other threads hold
    pool = ProcessPoolExecutor(checks.processes, multiprocessing.get_context("spawn"), _start_checker, (terms, checks))
    try:
        yield from _through(pool, batches, AHEAD * checks.processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _through(
    pool: ProcessPoolExecutor, batches: Iterator[tuple[int, bytes]], ahead: int
) -> Iterator[tuple[int, bytes, Checked]]:
    waiting: deque[tuple[int, bytes, Future[bytes]]] = deque()
    missing: ReplayFailed | None = None
    while True:
        while missing is None and len(waiting) < ahead:
            try:
                height, data = next(batches)
            except StopIteration:
                break
            except ReplayFailed as error:
                missing = error  # what comes before the gap is checked first
                break
            waiting.append((height, data, pool.submit(_check_remotely, height, data)))
        if not waiting:
            if missing is not None:
                raise missing
            return
        height, data, future = waiting.popleft()
        try:
            checked = future.result()
        except BrokenProcessPool as error:
            raise ReplayFailed(height, "process", "a checking process died; memory may be short") from error
        yield height, data, msgspec.msgpack.decode(checked, type=Checked)


_checker: list[Checker] = []
"""The one checker of a checking process; made when it starts."""


def _start_checker(terms: Terms, checks: Checks) -> None:
    """In a new process: an interrupt is the caller's to handle, and without a caller there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _checker.append(Checker(terms, checks))


def _end_with_parent() -> None:
    """A killed caller can't shut its processes down, and they would wait for work for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _check_remotely(height: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode(_checker[0].check(height, data))
