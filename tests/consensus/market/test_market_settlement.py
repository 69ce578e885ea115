"""What is remembered of a settlement's signatures, and what a certificate may stand in for."""

import pytest
from msgspec.structs import replace

from consensus.market import settlement as settlements
from consensus.market.errors import SettlementInvalid
from consensus.market.settlement import Standing, VerifiedSettlements, certified_ids, verify_settlement
from contracts.signing import recover
from contracts.typed_data import Address, Digest, Signature
from gossip.errors import SignerMismatch
from gossip.messages import Signed, sign
from gossip.messages.session import Settlement
from tests.consensus.builders import World, key


@pytest.fixture
def world() -> World:
    return World()


def test_without_signatures_the_ids_are_the_same(world: World) -> None:
    whole = world.settlement(voucher_tokens=90)
    assert certified_ids(whole, world.terms) == verify_settlement(whole, world.terms)


def forge(world: World, whole: Settlement) -> list[Settlement]:
    """``whole`` with one signature after the other by a stranger."""
    stranger, domain = key("stranger"), world.domain
    rfc, ticket, voucher, receipt, report = whole.rfc, whole.ticket, whole.voucher, whole.receipt, whole.report
    assert voucher is not None
    assert receipt is not None
    assert report is not None
    return [
        replace(whole, rfc=sign(rfc.payload, stranger, domain)),
        replace(whole, ticket=sign(ticket.payload, stranger, domain)),
        replace(whole, voucher=sign(voucher.payload, stranger, domain)),
        replace(whole, receipt=replace(receipt, session_signature=stranger.sign(receipt.receipt, domain))),
        replace(whole, receipt=replace(receipt, provider_signature=stranger.sign(receipt.receipt, domain))),
        replace(whole, report=sign(report.payload, stranger, domain)),
    ]


def test_every_signature_counts_unless_the_certificate_stands_in_for_it(world: World) -> None:
    whole = world.settlement(voucher_tokens=90)
    verified = VerifiedSettlements(world.terms)
    ids = verified(whole)
    for forged in forge(world, whole):
        with pytest.raises(SettlementInvalid, match=r"^signature: "):
            verified(forged)
        assert certified_ids(forged, world.terms) == ids


def test_the_signatures_within_what_is_signed_count_too(world: World) -> None:
    """Pass and bid say the same as before, and a stranger has signed them: whoever signed around them named others."""
    whole, stranger, domain = world.settlement(), key("stranger"), world.domain
    rfc, ticket = whole.rfc, whole.ticket
    false_pass = sign(rfc.payload.access_pass.payload, stranger, domain)
    false_bid = sign(ticket.payload.bid.payload, stranger, domain)
    other_rfc = sign(replace(rfc.payload, access_pass=false_pass), stranger, domain)
    for forged in (
        replace(whole, rfc=Signed(replace(rfc.payload, access_pass=false_pass), rfc.signature)),
        replace(
            whole, rfc=other_rfc, ticket=sign(replace(ticket.payload, rfc_id=other_rfc.id(domain)), stranger, domain)
        ),
        replace(whole, ticket=Signed(replace(ticket.payload, bid=false_bid), ticket.signature)),
    ):
        with pytest.raises(SettlementInvalid):
            VerifiedSettlements(world.terms)(forged)


def test_what_does_not_belong_together_is_refused_without_signatures_too(world: World) -> None:
    whole, other = world.settlement(), world.settlement()
    for broken in (replace(whole, ticket=other.ticket), replace(whole, report=other.report)):
        with pytest.raises(SettlementInvalid):
            certified_ids(broken, world.terms)


def test_a_standing_bid_is_checked_once_and_another_signature_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []

    def count(value: Digest, signature: bytes) -> Address:
        checked.append(signature)
        return recover(value, signature)

    monkeypatch.setattr("gossip.messages.base.recover", count)
    standing, bid = Standing(), world.bid()
    for _ in range(3):
        assert standing.check(bid, world.domain) == bid.id(world.domain)
    assert checked == [bid.signature]
    forged = Signed(bid.payload, Signature(key("stranger").sign(bid.payload, world.domain)))
    for _ in range(2):
        with pytest.raises(SignerMismatch):
            standing.check(forged, world.domain)
    assert len(checked) == 3, "what does not hold is not remembered"


def test_what_stands_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlements, "MAX_REMEMBERED", 2)
    standing = Standing()
    for number in range(5):
        bid = world.bid(f"p{number}")
        standing.check(bid, world.domain)
        assert len(standing._good) <= 2


def test_noted_settlements_are_bounded_and_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlements, "MAX_REMEMBERED", 2)
    verified = VerifiedSettlements(world.terms)
    made = [world.settlement() for _ in range(3)]
    for whole in made:
        verified.note(whole, certified_ids(whole, world.terms))
    assert list(verified._known) == [one.digest for one in made[1:]]
    verified.forget(made[1])
    verified.forget(made[0])
    assert list(verified._known) == [one.digest for one in made[2:]]
