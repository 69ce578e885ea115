# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Compute Contract
@license MIT
@notice Pays providers what the committee has credited them (S14, S32, S33). A certificate, more than 2/3 of the
        committee's stake in EIP-712 precommits over a batch header, is the Router's only instruction (S12); anybody
        submits it. Credits are cumulative per provider under a Merkle root, so a payment is cumulative minus paid.
@dev A batch that credits more than this contract ever received is refused whole (S35). Rules on what a day may
     spend (S23, S24, S37) belong into `_check_budget`.
"""

from ethereum.ercs import IERC20

# --- interfaces ---

interface Registry:
    def weigh(committee_root: bytes32, signers: DynArray[address, 64]) -> (uint256, uint256): view

# --- types ---

# The committee's value, field by field as it is signed.
struct BatchHeader:
    height: uint64
    slot: uint64
    day: uint64
    parent: bytes32
    body_root: bytes32
    credit_root: bytes32
    total_credited: uint256
    state_root: bytes32
    committee_root: bytes32
    beacon: bytes32
    reveal: bytes32
    proposer: address

# EIP-2098: the recovery bit sits on top of s.
struct CompactSignature:
    r: bytes32
    vs: bytes32

# --- events ---

event BatchAccepted:
    height: indexed(uint64)
    batch_hash: bytes32
    credit_root: bytes32
    total_credited: uint256

event Claimed:
    provider: indexed(address)
    height: indexed(uint64)
    amount: uint256

# --- constants and immutables ---

MAX_MEMBERS: constant(uint256) = 64
MAX_PROOF: constant(uint256) = 32

# EIP-2: a signature with a larger s has a twin.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
NAME_HASH: constant(bytes32) = keccak256("Yellowstone")
VERSION_HASH: constant(bytes32) = keccak256("1")
HEADER_TYPEHASH: constant(bytes32) = keccak256(
    "BatchHeader(uint64 height,uint64 slot,uint64 day,bytes32 parent,bytes32 bodyRoot,bytes32 creditRoot,uint256 totalCredited,bytes32 stateRoot,bytes32 committeeRoot,bytes32 beacon,bytes32 reveal,address proposer)"
)
PRECOMMIT_TYPEHASH: constant(bytes32) = keccak256(
    "Precommit(uint64 height,uint64 round,bytes32 batchHash,bytes32 committeeRoot)"
)

# @notice The token that providers are paid in.
TOKEN: public(immutable(address))

# @notice Where the committee's stake is kept.
REGISTRY: public(immutable(address))

# --- storage ---

# Of the newest accepted batch: its height in the low 64 bits, when it was accepted above. Together they cost one write.
newest: uint256

# @notice Wei credited by the newest accepted batch, all providers since genesis.
credited_total: public(uint256)

# @notice Wei paid out, all providers since genesis.
paid_total: public(uint256)

# @notice Wei paid to a provider since genesis.
paid: public(HashMap[address, uint256])

# @notice An accepted height's credit root; zero for a height that was never submitted.
credit_root: public(HashMap[uint64, bytes32])


@deploy
def __init__(token: address, registry: address):
    """
    @notice Bind the contract to its token and its committee's registry for good.
    @param token The ERC-20 that providers are paid in.
    @param registry The staking registry.
    """
    assert token != empty(address), "compute: zero token"
    assert registry != empty(address), "compute: zero registry"
    TOKEN = token
    REGISTRY = registry


@external
def submit(header: BatchHeader, round: uint64, signatures: DynArray[CompactSignature, MAX_MEMBERS]):
    """
    @notice Accept a certified batch.
    @param header The batch.
    @param round The consensus round that all signatures are of.
    @param signatures Precommits in ascending order of their signers.
    """
    self._accept(header, round, signatures)


@external
def claim(provider: address, cumulative: uint256, height: uint64, proof: DynArray[bytes32, MAX_PROOF]) -> uint256:
    """
    @notice Pay a provider what an accepted batch credits it and it hasn't been paid. Anybody may call.
    @param provider Who is paid.
    @param cumulative Wei credited to it since genesis, as of `height`.
    @param height An accepted batch.
    @param proof The siblings of its leaf under that batch's credit root.
    @return Wei paid.
    """
    return self._claim(provider, cumulative, height, proof)


@external
def claim_with_certificate(
    header: BatchHeader,
    round: uint64,
    signatures: DynArray[CompactSignature, MAX_MEMBERS],
    provider: address,
    cumulative: uint256,
    proof: DynArray[bytes32, MAX_PROOF],
) -> uint256:
    """
    @notice `submit` and `claim` in one. Where somebody has submitted that height already, only the claim is made.
    @param header The batch.
    @param round The consensus round that all signatures are of.
    @param signatures Precommits in ascending order of their signers.
    @param provider Who is paid.
    @param cumulative Wei credited to it since genesis, as of the batch.
    @param proof The siblings of its leaf under the batch's credit root.
    @return Wei paid.
    """
    if self.credit_root[header.height] == empty(bytes32):
        self._accept(header, round, signatures)
    return self._claim(provider, cumulative, header.height, proof)


@external
@view
def latest_height() -> uint64:
    """
    @notice The height of the newest accepted batch.
    @return 0 before the first.
    """
    return self._latest_height()


@external
@view
def accepted_s() -> uint256:
    """
    @notice When the newest batch was accepted; the registry's sign that the committee is alive.
    @return Unix seconds, 0 before the first.
    """
    return self.newest >> 64


@external
@view
def claimable(
    provider: address, cumulative: uint256, height: uint64, proof: DynArray[bytes32, MAX_PROOF]
) -> uint256:
    """
    @notice What `claim` would pay now; 0 where it would revert.
    @param provider Who would be paid.
    @param cumulative Wei credited to it since genesis, as of `height`.
    @param height An accepted batch.
    @param proof The siblings of its leaf under that batch's credit root.
    @return Wei.
    """
    root: bytes32 = self.credit_root[height]
    already: uint256 = self.paid[provider]
    if root == empty(bytes32) or cumulative <= already or not self._is_credited(root, provider, cumulative, proof):
        return 0
    return cumulative - already


@external
@view
def batch_hash(header: BatchHeader) -> bytes32:
    """
    @notice EIP-712 hashStruct of a batch header.
    @param header The batch.
    @return What the committee votes on.
    """
    return keccak256(abi_encode(HEADER_TYPEHASH, header))


@external
@view
def precommit_digest(height: uint64, round: uint64, batch_hash: bytes32, committee_root: bytes32) -> bytes32:
    """
    @notice What a member signs to precommit, on this chain and for this contract.
    @param height The batch's height.
    @param round The consensus round.
    @param batch_hash The batch's hash.
    @param committee_root The committee that decides.
    @return The EIP-712 digest.
    """
    return self._precommit_digest(height, round, batch_hash, committee_root)


@internal
def _accept(header: BatchHeader, round: uint64, signatures: DynArray[CompactSignature, MAX_MEMBERS]):
    assert header.height > self._latest_height(), "compute: old height"
    self._check_budget(header)
    batch_hash: bytes32 = keccak256(abi_encode(HEADER_TYPEHASH, header))
    digest: bytes32 = self._precommit_digest(header.height, round, batch_hash, header.committee_root)
    self._check_quorum(digest, header.committee_root, signatures)
    self.newest = block.timestamp << 64 | convert(header.height, uint256)
    self.credited_total = header.total_credited
    self.credit_root[header.height] = header.credit_root
    log BatchAccepted(
        height=header.height,
        batch_hash=batch_hash,
        credit_root=header.credit_root,
        total_credited=header.total_credited,
    )


@internal
@view
def _latest_height() -> uint64:
    return convert(self.newest & (2**64 - 1), uint64)


@internal
@view
def _check_budget(header: BatchHeader):
    assert header.total_credited >= self.credited_total, "compute: falling total"
    received: uint256 = staticcall IERC20(TOKEN).balanceOf(self) + self.paid_total
    assert header.total_credited <= received, "compute: over budget"


@internal
@view
def _check_quorum(digest: bytes32, committee_root: bytes32, signatures: DynArray[CompactSignature, MAX_MEMBERS]):
    signers: DynArray[address, MAX_MEMBERS] = []
    previous: address = empty(address)
    for signature: CompactSignature in signatures:
        signer: address = self._recover(digest, signature)
        # ascending order is what rules out counting a member twice
        assert convert(signer, uint160) > convert(previous, uint160), "compute: unsorted signers"
        signers.append(signer)
        previous = signer
    weight: uint256 = 0
    total: uint256 = 0
    weight, total = staticcall Registry(REGISTRY).weigh(committee_root, signers)
    assert 3 * weight > 2 * total, "compute: no quorum"


@internal
@pure
def _recover(digest: bytes32, signature: CompactSignature) -> address:
    vs: uint256 = convert(signature.vs, uint256)
    s: uint256 = (vs << 1) >> 1
    assert s <= HALF_ORDER, "compute: high s"
    signer: address = ecrecover(digest, 27 + (vs >> 255), convert(signature.r, uint256), s)
    assert signer != empty(address), "compute: bad signature"
    return signer


@internal
@view
def _precommit_digest(height: uint64, round: uint64, batch_hash: bytes32, committee_root: bytes32) -> bytes32:
    # not cached: the chain id changes when a chain forks
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, chain.id, self))
    precommit: bytes32 = keccak256(abi_encode(PRECOMMIT_TYPEHASH, height, round, batch_hash, committee_root))
    return keccak256(concat(x"1901", domain, precommit))


@internal
def _claim(provider: address, cumulative: uint256, height: uint64, proof: DynArray[bytes32, MAX_PROOF]) -> uint256:
    root: bytes32 = self.credit_root[height]
    assert root != empty(bytes32), "compute: unknown height"
    assert self._is_credited(root, provider, cumulative, proof), "compute: bad proof"
    already: uint256 = self.paid[provider]
    assert cumulative > already, "compute: nothing to claim"
    amount: uint256 = cumulative - already
    paid_total: uint256 = self.paid_total + amount
    assert paid_total <= self.credited_total, "compute: over credit"
    # everything is written before the token is called
    self.paid[provider] = cumulative
    self.paid_total = paid_total
    log Claimed(provider=provider, height=height, amount=amount)
    assert extcall IERC20(TOKEN).transfer(provider, amount, default_return_value=True), "compute: transfer failed"
    return amount


@internal
@pure
def _is_credited(
    root: bytes32, provider: address, cumulative: uint256, proof: DynArray[bytes32, MAX_PROOF]
) -> bool:
    # hashed twice: no inner node of the tree passes for a leaf
    node: bytes32 = keccak256(keccak256(abi_encode(provider, cumulative)))
    for sibling: bytes32 in proof:
        if convert(node, uint256) < convert(sibling, uint256):
            node = keccak256(concat(node, sibling))
        else:
            node = keccak256(concat(sibling, node))
    return node == root
