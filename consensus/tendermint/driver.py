"""The driver: one member's consensus over all heights, as a pure function of state and input.

``step(driver, input)`` gives the next driver and the effects that the shell has to run, in order. The shell checks
signatures before, writes inputs to its log before it runs effects, signs and sends what it is asked to, and feeds a
member's own proposals and votes back (see :mod:`consensus.tendermint.events`). Messages of a height that has not begun
are kept, within bounds, until it does.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.errors import WrongHeight
from consensus.tendermint import instance as one
from consensus.tendermint.events import (
    CertificateIn,
    Effect,
    Input,
    ProposalIn,
    Start,
    TimeoutElapsed,
    ValueReady,
    VoteIn,
)
from consensus.tendermint.instance import Instance, ProposerOf
from contracts.typed_data import ZERO_ADDRESS, Address

Message = ProposalIn | VoteIn | CertificateIn

EARLY_PER_SENDER = 64
"""Messages kept of one sender for heights that have not begun; the oldest goes first."""

EARLY_SENDERS = 128
"""Senders of whom early messages are kept: a committee has at most 64 members, and the next may be another."""


class Driver(msgspec.Struct, frozen=True):
    """A member and where it stands."""

    member: Address
    next_height: int
    """The lowest height that may start."""
    proposer_of: ProposerOf = Committee.proposer
    instance: Instance | None = None
    """The height that is running or was decided last; None before the first start."""
    early: Mapping[Address, tuple[Message, ...]] = msgspec.field(default_factory=dict)
    """Messages of ``next_height`` and the one above it, by sender; certificates under the zero address."""

    @classmethod
    def idle(cls, member: Address, next_height: int = 0, proposer_of: ProposerOf = Committee.proposer) -> "Driver":
        """A driver that waits for its first :class:`~consensus.tendermint.events.Start`."""
        return cls(member, next_height, proposer_of)


def step(driver: Driver, event: Input) -> tuple[Driver, tuple[Effect, ...]]:
    """Take one input.

    What is stale, repeated or out of place changes nothing. Raises :class:`~consensus.errors.WrongHeight` where a
    height is started that is over or already running: a bug of the caller.
    """
    match event:
        case Start():
            return _start(driver, event)
        case TimeoutElapsed():
            if driver.instance is None or driver.instance.state.height != event.height:
                return driver, ()
            return _settled(driver, one.elapse(driver.instance, event.step, event.round))
        case ValueReady():
            if driver.instance is None or driver.instance.state.height != event.height:
                return driver, ()
            return _settled(driver, one.offer_value(driver.instance, event))
        case ProposalIn() | VoteIn() | CertificateIn():
            height = height_of(event)
            if driver.instance is not None and height == driver.instance.state.height:
                return _settled(driver, _deliver(driver.instance, event))
            if driver.next_height <= height <= driver.next_height + 1:
                return _keep(driver, event), ()
            return driver, ()


def height_of(message: Message) -> int:
    """The height that a message belongs to."""
    match message:
        case ProposalIn():
            return message.height
        case VoteIn():
            return message.vote.height
        case CertificateIn():
            return message.certificate.height


def _start(driver: Driver, start: Start) -> tuple[Driver, tuple[Effect, ...]]:
    """Begin a height with what has already arrived for it; what is of lower heights is forgotten."""
    if start.height < driver.next_height:
        raise WrongHeight(start.height, driver.next_height)
    instance = Instance.of(driver.member, start.height, start.committee, driver.proposer_of, start.round)
    effects: tuple[Effect, ...] = ()
    for messages in driver.early.values():
        for message in messages:
            if height_of(message) == start.height:
                instance, more = _deliver(instance, message)
                effects += more
    instance, more = one.begin(instance)
    later = {
        sender: kept
        for sender, messages in driver.early.items()
        if (kept := tuple(message for message in messages if height_of(message) > start.height))
    }
    started = replace(driver, next_height=start.height + 1, instance=instance, early=later)
    return started, effects + more


def _deliver(instance: Instance, message: Message) -> one.Outcome:
    match message:
        case ProposalIn():
            return one.add_proposal(instance, message)
        case VoteIn():
            return one.add_vote(instance, message.vote)
        case CertificateIn():
            return one.add_certificate(instance, message.certificate)


def _settled(driver: Driver, outcome: one.Outcome) -> tuple[Driver, tuple[Effect, ...]]:
    instance, effects = one.settle(*outcome)
    return replace(driver, instance=instance), effects


def _keep(driver: Driver, message: Message) -> Driver:
    match message:
        case ProposalIn():
            sender = message.proposer
        case VoteIn():
            sender = message.vote.member
        case CertificateIn():
            sender = ZERO_ADDRESS
    kept = driver.early.get(sender, ())
    if message in kept or (not kept and len(driver.early) >= EARLY_SENDERS):
        return driver
    return replace(driver, early={**driver.early, sender: (*kept, message)[-EARLY_PER_SENDER:]})
