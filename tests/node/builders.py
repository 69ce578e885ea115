"""Networks, nodes and messages for the tests of node/."""

from pathlib import Path

from consensus.committee import Member
from consensus.params import NetworkParams
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.messages import Signed, Unit, sign
from gossip.messages.committee import BatchBody, BatchHeader, CertifiedBatch, CommitCertificate, batch_hash
from gossip.messages.market import Ticket
from gossip.messages.records import BeaconCommitment, Bid
from gossip.messages.session import Cosigned, Receipt, Voucher
from node.config import ContractAddresses, KeyFiles, ModelOffer, NetworkFile, NodeFile

DOMAIN = Domain(77_101, Address(b"\x03" * 20))
MEMBERS = [Key(bytes([number]) * 32) for number in range(1, 5)]
PROVIDER = Key(b"\x21" * 32)
SESSION = Key(b"\x22" * 32)
ROUTER = MEMBERS[0]
ZERO = Digest(bytes(32))
MODEL = Digest(b"\x44" * 32)


def network_file() -> NetworkFile:
    commitments = tuple(sign(BeaconCommitment(key.address, 0, Digest(b"\x07" * 32)), key, DOMAIN) for key in MEMBERS)
    return NetworkFile(
        name='a "test" network',
        genesis_ms=1_700_000_000_000,
        chain_id=DOMAIN.chain_id,
        contracts=ContractAddresses(Address(b"\x01" * 20), Address(b"\x02" * 20), DOMAIN.contract),
        epoch=1,
        members=tuple(Member(key.address, 1_000 * 10**18) for key in MEMBERS),
        params=NetworkParams(slot_ms=4_000, withhold_only_if_user_richer=True),
        snapshot_block=7,
        supply_wei=10_000_000 * 10**18,
        budget_wei=3_456 * 10**18,
        reference_price_wei=10**11,
        commitments=commitments,
        bootstrap=("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWTest",),
    )


def node_file(folder: Path) -> NodeFile:
    return NodeFile(
        network=folder.parent / "network.toml",
        data_dir=folder / "data",
        keys=KeyFiles(folder / "mor.json", folder / "node.json", folder / "password"),
        roles=("provider", "user"),
        models=(ModelOffer(model="smollm2-135m-instruct", price_wei=9 * 10**10),),
    )


def batch(height: int, *, slot: int = 1, signature: bytes = b"\x01" * 65) -> CertifiedBatch:
    header = BatchHeader(
        height=height,
        slot=slot,
        day=0,
        parent=ZERO,
        body_root=ZERO,
        credit_root=ZERO,
        total_credited=Uint256(height),
        bootstrap_credited=Uint256(0),
        state_root=ZERO,
        committee_root=ZERO,
        beacon=ZERO,
        reveal=ZERO,
        proposer=ROUTER.address,
    )
    certificate = CommitCertificate(height, 0, batch_hash(header), ZERO, (signature,))  # type: ignore[arg-type]  # 65 bytes
    return CertifiedBatch(header, certificate, BatchBody(None, (), ()))


def ticket(number: int = 0, *, expires_ms: int = 1_000) -> Signed[Ticket]:
    bid = sign(Bid(PROVIDER.address, MODEL, Unit.TEXT_TOKEN, 10, 1, 100, 1, 10_000), PROVIDER, DOMAIN)
    rfc_id = Digest(number.to_bytes(32, "big"))
    return sign(Ticket(rfc_id, SESSION.address, bid, 64, 32, 1, expires_ms, ROUTER.address), ROUTER, DOMAIN)


def voucher(ticket_id: Digest, tokens: int) -> Signed[Voucher]:
    return sign(Voucher(ticket_id, SESSION.address, tokens), SESSION, DOMAIN)


def cosigned(ticket_id: Digest, tokens: int) -> Cosigned:
    receipt = Receipt(ticket_id, tokens, 5, ZERO, "stop")
    return Cosigned(receipt, SESSION.sign(receipt, DOMAIN), PROVIDER.sign(receipt, DOMAIN))
