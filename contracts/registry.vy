# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Staking registry of the committee
@license MIT
@notice Members stake MOR here. Opening an epoch freezes stakes into that epoch's committee; the Compute Contract asks
        how much stake stands behind a set of signers. Who signs two things for one place loses its stake.
@dev Only the newest epoch's committee has weight: stake that has left can't sign for the past. The first epoch is
     opened by the deployer, once; every later one by more than 2/3 of the committee that it relieves (`hand_over`),
     or, where the Compute Contract has heard of nobody for long, by anybody (`rescue`). All three go through `_open`.
     Whatever is signed here is signed under the Compute Contract's EIP-712 domain: members have one domain, not two.
"""

from ethereum.ercs import IERC20

# --- interfaces ---

interface Compute:
    def REGISTRY() -> address: view
    def accepted_s() -> uint256: view

# --- types ---

struct Unbonding:
    amount: uint256  # wei
    ready_s: uint256  # Unix seconds

# EIP-2098: the recovery bit sits on top of s.
struct CompactSignature:
    r: bytes32
    vs: bytes32

# What one signature says about a place, apart from the place itself.
struct Statement:
    batch_hash: bytes32  # zero for nil
    valid_round: uint64  # zero in a precommit, which has none
    signature: CompactSignature

# --- events ---

event Staked:
    member: indexed(address)
    amount: uint256
    stake: uint256

event Unstaked:
    member: indexed(address)
    amount: uint256
    stake: uint256
    ready_s: uint256

event Withdrawn:
    member: indexed(address)
    amount: uint256

event EpochOpened:
    epoch: indexed(uint256)
    committee_root: bytes32
    total: uint256

event HandedOver:
    epoch: indexed(uint256)
    day: uint64

event Slashed:
    member: indexed(address)
    finder: indexed(address)
    kind: uint8
    height: uint64
    round: uint64
    forfeited: uint256
    reward: uint256

event RescueAnnounced:
    epoch: indexed(uint256)
    possible_s: uint256

event Rescued:
    epoch: indexed(uint256)

# --- constants and immutables ---

# @notice The largest committee.
MAX_MEMBERS: public(constant(uint256)) = 64

# @notice The kinds of message that `slash` knows.
PROPOSAL: public(constant(uint8)) = 1
PREVOTE: public(constant(uint8)) = 2
PRECOMMIT: public(constant(uint8)) = 3

# EIP-2: a signature with a larger s has a twin.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
NAME_HASH: constant(bytes32) = keccak256("Yellowstone")
VERSION_HASH: constant(bytes32) = keccak256("1")
PROPOSAL_TYPEHASH: constant(bytes32) = keccak256(
    "Proposal(uint64 height,uint64 round,uint64 validRound,bytes32 batchHash,address proposer)"
)
PREVOTE_TYPEHASH: constant(bytes32) = keccak256(
    "Prevote(uint64 height,uint64 round,uint64 validRound,bytes32 batchHash)"
)
PRECOMMIT_TYPEHASH: constant(bytes32) = keccak256(
    "Precommit(uint64 height,uint64 round,bytes32 batchHash,bytes32 committeeRoot)"
)
HAND_OVER_TYPEHASH: constant(bytes32) = keccak256(
    "HandOver(uint64 epoch,uint64 day,bytes32 committeeRoot,bytes32 nextRoot)"
)

# @notice The token that is staked.
TOKEN: public(immutable(address))

# @notice Who binds the Compute Contract and opens the first epoch.
OPENER: public(immutable(address))

# @notice Seconds between unstaking, or leaving the committee if that is later, and withdrawing. In all this time the
#         stake can still be slashed: evidence is never too late for a stake that was there to secure a vote.
UNBONDING_S: public(immutable(uint256))

# @notice How much of its stake, unbonding or not, an equivocator loses.
SLASH_PERCENT: public(immutable(uint256))

# @notice How much of what is lost goes to whoever handed in the evidence.
FINDER_PERCENT: public(immutable(uint256))

# @notice Seconds without a batch and without a hand-over after which a rescue may be announced.
RESCUE_DELAY_S: public(immutable(uint256))

# @notice Seconds between announcing a rescue and carrying it out.
RESCUE_NOTICE_S: public(immutable(uint256))

# --- storage ---

# @notice The Compute Contract, whose domain members sign under; zero until it is bound.
compute: public(address)

# @notice The newest epoch; 0 before the first is opened.
epoch: public(uint256)

# @notice An epoch's committee root: epoch -> keccak256(abi_encode(epoch, addresses, stakes)).
root_of: public(HashMap[uint256, bytes32])

# @notice Whether an epoch was opened by a rescue, and not by the committee that it relieves.
is_rescue: public(HashMap[uint256, bool])

# @notice When an epoch was opened: epoch -> Unix seconds.
opened_s: public(HashMap[uint256, uint256])

# @notice The day that the newest hand-over named; 0 before the first.
latest_day: public(uint64)

# @notice When the newest rescue was announced, in Unix seconds; it is void where there was progress since.
announced_s: public(uint256)

# @notice Whether a member was ever slashed: it can't stake again.
is_slashed: public(HashMap[address, bool])

# @notice Wei lost by slashing that no finder got. It stays here for good.
forfeited_total: public(uint256)

# @notice A member's bonded wei, which the next epoch counts.
stake_of: public(HashMap[address, uint256])

# @notice What a member has unstaked and not yet withdrawn.
unbonding: public(HashMap[address, Unbonding])

# @notice Frozen stakes in wei: committee root -> member -> stake.
frozen_stake: public(HashMap[bytes32, HashMap[address, uint256]])

# @notice Frozen totals in wei: committee root -> all stake; 0 for every committee but the newest.
frozen_total: public(HashMap[bytes32, uint256])

# keccak256(abi_encode(member, kind, height, round)) of every offence that was punished.
punished: HashMap[bytes32, bool]

# The newest epoch that a member was in the committee of; 0 for none.
served: HashMap[address, uint256]

# Everybody with bonded stake, sorted by address.
staked: DynArray[address, MAX_MEMBERS]

# epoch -> members sorted by address.
epoch_members: HashMap[uint256, DynArray[address, MAX_MEMBERS]]


@deploy
def __init__(
    token: address,
    unbonding_s: uint256,
    slash_percent: uint256,
    finder_percent: uint256,
    rescue_delay_s: uint256,
    rescue_notice_s: uint256,
):
    """
    @notice The deployer may bind the Compute Contract and open the first epoch.
    @param token The ERC-20 that is staked.
    @param unbonding_s Seconds between unstaking, or leaving the committee, and withdrawing.
    @param slash_percent What an equivocator loses of its stake, 1 to 100.
    @param finder_percent What the finder gets of that, 0 to 100.
    @param rescue_delay_s Seconds without progress after which a rescue may be announced.
    @param rescue_notice_s Seconds between announcing a rescue and carrying it out.
    """
    assert token != empty(address), "registry: zero token"
    assert unbonding_s > 0, "registry: no unbonding"
    assert slash_percent > 0 and slash_percent <= 100, "registry: slash percent"
    assert finder_percent <= 100, "registry: finder percent"
    assert rescue_delay_s > 0 and rescue_notice_s > 0, "registry: no rescue delay"
    TOKEN = token
    OPENER = msg.sender
    UNBONDING_S = unbonding_s
    SLASH_PERCENT = slash_percent
    FINDER_PERCENT = finder_percent
    RESCUE_DELAY_S = rescue_delay_s
    RESCUE_NOTICE_S = rescue_notice_s


@external
def bind(compute: address):
    """
    @notice Name the Compute Contract. Only the deployer, only once; it must have been deployed for this registry.
    @dev The two need each other's address, and the Compute Contract's is fixed in its code: so it is deployed second.
    @param compute The Compute Contract.
    """
    assert msg.sender == OPENER, "registry: not the opener"
    assert self.compute == empty(address), "registry: already bound"
    assert staticcall Compute(compute).REGISTRY() == self, "registry: not its registry"
    self.compute = compute


@external
def stake(amount: uint256):
    """
    @notice Bond the caller's MOR, which this contract must be allowed to move. Counts from the next epoch on.
    @dev A full registry takes a newcomer only with more stake than its smallest member, who is then unstaked.
    @param amount Wei.
    """
    assert amount > 0, "registry: zero amount"
    assert not self.is_slashed[msg.sender], "registry: slashed"
    bonded: uint256 = self.stake_of[msg.sender]
    if bonded == 0:
        if len(self.staked) == MAX_MEMBERS:
            self._displace_smallest(amount)
        self._insert(msg.sender)
    self.stake_of[msg.sender] = bonded + amount
    log Staked(member=msg.sender, amount=amount, stake=bonded + amount)
    assert extcall IERC20(TOKEN).transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "registry: transfer failed"


@external
def unstake(amount: uint256):
    """
    @notice Begin to take stake out. It can be withdrawn UNBONDING_S after that and after the caller's last epoch;
            unstaking again starts the wait anew.
    @param amount Wei.
    """
    assert amount > 0, "registry: zero amount"
    assert self.stake_of[msg.sender] >= amount, "registry: stake too low"
    self._unbond(msg.sender, amount)


@external
def withdraw():
    """
    @notice Pay out everything that the caller has unstaked, once the wait is over.
    @dev Who still has weight keeps stake at risk, however long ago it was unstaked.
    """
    leaving: Unbonding = self.unbonding[msg.sender]
    assert leaving.amount > 0, "registry: nothing to withdraw"
    assert block.timestamp >= leaving.ready_s, "registry: still bonded"
    served: uint256 = self.served[msg.sender]
    if served > 0:
        assert served < self.epoch, "registry: still in the committee"
        assert block.timestamp >= self.opened_s[served + 1] + UNBONDING_S, "registry: still bonded"
    self.unbonding[msg.sender] = empty(Unbonding)
    log Withdrawn(member=msg.sender, amount=leaving.amount)
    assert extcall IERC20(TOKEN).transfer(
        msg.sender, leaving.amount, default_return_value=True
    ), "registry: transfer failed"


@external
def open_epoch() -> bytes32:
    """
    @notice Freeze the staked set into the first epoch's committee. Only the deployer, only once.
    @return The committee root.
    """
    assert msg.sender == OPENER, "registry: not the opener"
    assert self.epoch == 0, "registry: epoch already open"
    assert self.compute != empty(address), "registry: not bound"
    return self._open_candidates()


@external
def hand_over(
    day: uint64,
    members: DynArray[address, MAX_MEMBERS],
    stakes: DynArray[uint256, MAX_MEMBERS],
    signatures: DynArray[CompactSignature, MAX_MEMBERS],
) -> bytes32:
    """
    @notice Open the next epoch on the word of the committee that it relieves: more than 2/3 of its stake has signed
            `HandOver{epoch, day, committeeRoot, nextRoot}`, where epoch and committeeRoot are the outgoing ones and
            nextRoot is keccak256(abi_encode(epoch + 1, members, stakes)). Anybody may call.
    @dev Stakes are the ones that the signers saw. A member weighs no more than it still has here, bonded or unbonding,
         and 1 wei at the least, while the total stays what was signed: so nobody stops a hand-over by what it does, or
         by being slashed, between the signing and this call.
    @param day The day that the next committee begins on; it never falls.
    @param members The next committee, in ascending order.
    @param stakes Their voting power, in wei.
    @param signatures HandOver signatures in ascending order of their signers.
    @return The next committee's root.
    """
    epoch: uint256 = self.epoch
    assert epoch > 0, "registry: no epoch"
    assert day >= self.latest_day, "registry: old day"
    self._check_next(members, stakes)
    root: bytes32 = self.root_of[epoch]
    next_root: bytes32 = keccak256(abi_encode(epoch + 1, members, stakes))
    hand_over: bytes32 = keccak256(abi_encode(HAND_OVER_TYPEHASH, epoch, day, root, next_root))
    self._check_quorum(self._digest(hand_over), root, signatures)
    self.latest_day = day
    log HandedOver(epoch=epoch + 1, day=day)
    return self._open(members, stakes)


@external
def slash(
    member: address,
    kind: uint8,
    height: uint64,
    round: uint64,
    committee_root: bytes32,
    first: Statement,
    second: Statement,
) -> uint256:
    """
    @notice Punish a member that has signed two different things for one place. Anybody may call and is rewarded.
    @dev The member must have stake, bonded or unbonding. All of it is counted, SLASH_PERCENT is lost, what is left
         begins to unbond. The weight in the running epoch stays: it is part of a root that is signed all over, and
         ends with the next epoch. Two statements for one batch that differ in validRound only are no offence.
    @param member Who signed both.
    @param kind PROPOSAL, PREVOTE or PRECOMMIT.
    @param height The height of both.
    @param round The round of both.
    @param committee_root The committee of both precommits; zero for the other kinds, which name none.
    @param first What the member signed.
    @param second What it signed as well.
    @return The finder's reward in wei.
    """
    assert first.batch_hash != second.batch_hash, "registry: same batch"
    offence: bytes32 = keccak256(abi_encode(member, kind, height, round))
    assert not self.punished[offence], "registry: already punished"
    for statement: Statement in [first, second]:
        message: bytes32 = self._message(member, kind, height, round, committee_root, statement)
        signer: address = self._recover(self._digest(message), statement.signature)
        assert signer == member, "registry: not the signer"
    self.punished[offence] = True
    forfeited: uint256 = self._forfeit(member)
    reward: uint256 = forfeited * FINDER_PERCENT // 100
    self.forfeited_total += forfeited - reward
    log Slashed(
        member=member,
        finder=msg.sender,
        kind=kind,
        height=height,
        round=round,
        forfeited=forfeited,
        reward=reward,
    )
    if reward > 0:
        assert extcall IERC20(TOKEN).transfer(
            msg.sender, reward, default_return_value=True
        ), "registry: transfer failed"
    return reward


@external
def announce_rescue():
    """
    @notice Say that the committee is lost. Anybody may, once there was no progress for RESCUE_DELAY_S: no batch
            accepted and no epoch opened. Progress within RESCUE_NOTICE_S makes the announcement void.
    """
    assert self.epoch > 0, "registry: no epoch"
    quiet_s: uint256 = self._progress_s() + RESCUE_DELAY_S
    assert block.timestamp >= quiet_s, "registry: committee is alive"
    # announcing again would put the rescue off
    assert self.announced_s < quiet_s, "registry: already announced"
    self.announced_s = block.timestamp
    log RescueAnnounced(epoch=self.epoch, possible_s=block.timestamp + RESCUE_NOTICE_S)


@external
def rescue() -> bytes32:
    """
    @notice Open an epoch of all candidates, the 64 largest stakes, after an announcement that nobody has refuted by
            progress. Anybody may call.
    @return The committee root.
    """
    announced_s: uint256 = self.announced_s
    assert announced_s > 0, "registry: not announced"
    assert announced_s >= self._progress_s() + RESCUE_DELAY_S, "registry: committee is alive"
    assert block.timestamp >= announced_s + RESCUE_NOTICE_S, "registry: too early"
    log Rescued(epoch=self.epoch + 1)
    self.is_rescue[self.epoch + 1] = True
    return self._open_candidates()


@external
@view
def weigh(committee_root: bytes32, signers: DynArray[address, MAX_MEMBERS]) -> (uint256, uint256):
    """
    @notice How much stake of the newest epoch's committee stands behind some members.
    @dev The caller has checked that no signer appears twice.
    @param committee_root The committee that the signers claim to be of.
    @param signers Members; anybody else reverts.
    @return The signers' stake and all stake, in wei.
    """
    total: uint256 = self.frozen_total[committee_root]
    assert total > 0, "registry: unknown committee"
    weight: uint256 = 0
    for signer: address in signers:
        stake: uint256 = self.frozen_stake[committee_root][signer]
        assert stake > 0, "registry: unknown signer"
        weight += stake
    return weight, total


@external
@view
def committee(epoch: uint256) -> (DynArray[address, MAX_MEMBERS], DynArray[uint256, MAX_MEMBERS]):
    """
    @notice An epoch's members, sorted by address, and what each weighs.
    @param epoch 1 is the first; both lists are empty for an epoch that isn't open.
    @return Addresses and wei.
    """
    members: DynArray[address, MAX_MEMBERS] = self.epoch_members[epoch]
    stakes: DynArray[uint256, MAX_MEMBERS] = []
    root: bytes32 = self.root_of[epoch]
    for member: address in members:
        stakes.append(self.frozen_stake[root][member])
    return members, stakes


@external
@view
def committee_root() -> bytes32:
    """
    @notice The newest epoch's committee root.
    @return Zero before the first epoch.
    """
    return self.root_of[self.epoch]


@external
@view
def candidates() -> (DynArray[address, MAX_MEMBERS], DynArray[uint256, MAX_MEMBERS]):
    """
    @notice Everybody with bonded stake: the next epoch's committee, as things stand.
    @return Addresses, sorted, and wei.
    """
    return self.staked, self._bonded(self.staked)


@external
@view
def progress_s() -> uint256:
    """
    @notice When the newest batch was accepted or the newest epoch opened, whichever is later.
    @return Unix seconds.
    """
    return self._progress_s()


@internal
@view
def _progress_s() -> uint256:
    return max(self.opened_s[self.epoch], staticcall Compute(self.compute).accepted_s())


@internal
def _open_candidates() -> bytes32:
    members: DynArray[address, MAX_MEMBERS] = self.staked
    assert len(members) > 0, "registry: nobody has staked"
    return self._open(members, self._bonded(members))


@internal
@view
def _bonded(members: DynArray[address, MAX_MEMBERS]) -> DynArray[uint256, MAX_MEMBERS]:
    stakes: DynArray[uint256, MAX_MEMBERS] = []
    for member: address in members:
        stakes.append(self.stake_of[member])
    return stakes


@internal
def _open(members: DynArray[address, MAX_MEMBERS], stakes: DynArray[uint256, MAX_MEMBERS]) -> bytes32:
    epoch: uint256 = self.epoch + 1
    root: bytes32 = keccak256(abi_encode(epoch, members, stakes))
    total: uint256 = 0
    for place: uint256 in range(len(members), bound=MAX_MEMBERS):
        member: address = members[place]
        covered: uint256 = self.stake_of[member] + self.unbonding[member].amount
        # the least weight, for a member that has lost its stake meanwhile: its signature stays a known one
        self.frozen_stake[root][member] = max(1, min(stakes[place], covered))
        self.served[member] = epoch
        total += stakes[place]
    self.frozen_total[self.root_of[self.epoch]] = 0  # who has handed over has no say any more
    self.frozen_total[root] = total
    self.root_of[epoch] = root
    self.opened_s[epoch] = block.timestamp
    self.epoch_members[epoch] = members
    self.epoch = epoch
    log EpochOpened(epoch=epoch, committee_root=root, total=total)
    return root


@internal
@pure
def _check_next(members: DynArray[address, MAX_MEMBERS], stakes: DynArray[uint256, MAX_MEMBERS]):
    assert len(members) > 0, "registry: nobody to hand over to"
    assert len(members) == len(stakes), "registry: members without stakes"
    previous: address = empty(address)
    for place: uint256 in range(len(members), bound=MAX_MEMBERS):
        member: address = members[place]
        assert convert(member, uint160) > convert(previous, uint160), "registry: unsorted members"
        assert stakes[place] > 0, "registry: zero stake"
        previous = member


@internal
@view
def _check_quorum(
    digest: bytes32, committee_root: bytes32, signatures: DynArray[CompactSignature, MAX_MEMBERS]
):
    previous: address = empty(address)
    weight: uint256 = 0
    for signature: CompactSignature in signatures:
        signer: address = self._recover(digest, signature)
        # ascending order is what rules out counting a member twice
        assert convert(signer, uint160) > convert(previous, uint160), "registry: unsorted signers"
        stake: uint256 = self.frozen_stake[committee_root][signer]
        assert stake > 0, "registry: unknown signer"
        weight += stake
        previous = signer
    assert 3 * weight > 2 * self.frozen_total[committee_root], "registry: no quorum"


@internal
@pure
def _message(
    member: address, kind: uint8, height: uint64, round: uint64, committee_root: bytes32, statement: Statement
) -> bytes32:
    batch_hash: bytes32 = statement.batch_hash
    if kind == PRECOMMIT:
        assert statement.valid_round == 0, "registry: precommit with a valid round"
        return keccak256(abi_encode(PRECOMMIT_TYPEHASH, height, round, batch_hash, committee_root))
    assert committee_root == empty(bytes32), "registry: no committee is signed"
    if kind == PREVOTE:
        return keccak256(abi_encode(PREVOTE_TYPEHASH, height, round, statement.valid_round, batch_hash))
    assert kind == PROPOSAL, "registry: unknown kind"
    return keccak256(abi_encode(PROPOSAL_TYPEHASH, height, round, statement.valid_round, batch_hash, member))


@internal
@view
def _digest(struct_hash: bytes32) -> bytes32:
    assert self.compute != empty(address), "registry: not bound"
    # not cached: the chain id changes when a chain forks
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, chain.id, self.compute))
    return keccak256(concat(x"1901", domain, struct_hash))


@internal
@pure
def _recover(digest: bytes32, signature: CompactSignature) -> address:
    vs: uint256 = convert(signature.vs, uint256)
    s: uint256 = (vs << 1) >> 1
    assert s <= HALF_ORDER, "registry: high s"
    signer: address = ecrecover(digest, 27 + (vs >> 255), convert(signature.r, uint256), s)
    assert signer != empty(address), "registry: bad signature"
    return signer


@internal
def _forfeit(member: address) -> uint256:
    bonded: uint256 = self.stake_of[member]
    held: uint256 = bonded + self.unbonding[member].amount
    forfeited: uint256 = held * SLASH_PERCENT // 100
    assert forfeited > 0, "registry: nothing to slash"
    self.is_slashed[member] = True
    if bonded > 0:
        self.stake_of[member] = 0
        self._remove(member)
    self.unbonding[member] = Unbonding(amount=held - forfeited, ready_s=block.timestamp + UNBONDING_S)
    return forfeited


@internal
def _unbond(member: address, amount: uint256):
    left: uint256 = self.stake_of[member] - amount
    ready_s: uint256 = block.timestamp + UNBONDING_S
    self.stake_of[member] = left
    self.unbonding[member] = Unbonding(amount=self.unbonding[member].amount + amount, ready_s=ready_s)
    if left == 0:
        self._remove(member)
    log Unstaked(member=member, amount=amount, stake=left, ready_s=ready_s)


@internal
def _displace_smallest(amount: uint256):
    smallest: address = empty(address)
    least: uint256 = max_value(uint256)
    for member: address in self.staked:
        stake: uint256 = self.stake_of[member]
        if stake < least:
            least = stake
            smallest = member
    assert amount > least, "registry: full"
    self._unbond(smallest, least)


@internal
def _insert(member: address):
    # sorted on the way in, so that opening an epoch only reads
    self.staked.append(member)
    place: uint256 = len(self.staked) - 1
    for _: uint256 in range(MAX_MEMBERS):
        if place == 0:
            break
        below: address = self.staked[place - 1]
        if convert(below, uint160) < convert(member, uint160):
            break
        self.staked[place] = below
        place -= 1
    self.staked[place] = member


@internal
def _remove(member: address):
    count: uint256 = len(self.staked)
    found: bool = False
    for place: uint256 in range(count, bound=MAX_MEMBERS):
        if found:
            self.staked[place - 1] = self.staked[place]
        elif self.staked[place] == member:
            found = True
    self.staked.pop()
