# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Staking registry of the committee
@license MIT
@notice Members stake MOR here. Opening an epoch freezes the staked set into that epoch's committee; the Compute
        Contract asks how much stake stands behind a set of signers.
@dev Only the newest epoch's committee has weight: stake that has left can't sign for the past. The first epoch is
     opened by the deployer, once; a later one is to be opened by a certificate of the committee that it relieves, and
     takes the same path through `_open`.
"""

from ethereum.ercs import IERC20

# --- types ---

struct Unbonding:
    amount: uint256  # wei
    ready_s: uint256  # Unix seconds

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

# --- constants and immutables ---

# @notice The largest committee.
MAX_MEMBERS: public(constant(uint256)) = 64

# @notice The token that is staked.
TOKEN: public(immutable(address))

# @notice Who opens the first epoch.
OPENER: public(immutable(address))

# @notice Seconds between unstaking and withdrawing.
UNBONDING_S: public(immutable(uint256))

# --- storage ---

# @notice The newest epoch; 0 before the first is opened.
epoch: public(uint256)

# @notice An epoch's committee root: epoch -> keccak256(abi_encode(epoch, addresses, stakes)).
root_of: public(HashMap[uint256, bytes32])

# @notice A member's bonded wei, which the next epoch counts.
stake_of: public(HashMap[address, uint256])

# @notice What a member has unstaked and not yet withdrawn.
unbonding: public(HashMap[address, Unbonding])

# @notice Frozen stakes in wei: committee root -> member -> stake.
frozen_stake: public(HashMap[bytes32, HashMap[address, uint256]])

# @notice Frozen totals in wei: committee root -> all stake; 0 for every committee but the newest.
frozen_total: public(HashMap[bytes32, uint256])

# Everybody with bonded stake, sorted by address.
staked: DynArray[address, MAX_MEMBERS]

# epoch -> members sorted by address.
epoch_members: HashMap[uint256, DynArray[address, MAX_MEMBERS]]


@deploy
def __init__(token: address, unbonding_s: uint256):
    """
    @notice The deployer may open the first epoch.
    @param token The ERC-20 that is staked.
    @param unbonding_s Seconds between unstaking and withdrawing.
    """
    assert token != empty(address), "registry: zero token"
    TOKEN = token
    OPENER = msg.sender
    UNBONDING_S = unbonding_s


@external
def stake(amount: uint256):
    """
    @notice Bond the caller's MOR, which this contract must be allowed to move. Counts from the next epoch on.
    @dev A full registry takes a newcomer only with more stake than its smallest member, who is then unstaked.
    @param amount Wei.
    """
    assert amount > 0, "registry: zero amount"
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
    @notice Begin to take stake out. It can be withdrawn after UNBONDING_S; unstaking again starts the wait anew.
    @param amount Wei.
    """
    assert amount > 0, "registry: zero amount"
    assert self.stake_of[msg.sender] >= amount, "registry: stake too low"
    self._unbond(msg.sender, amount)


@external
def withdraw():
    """
    @notice Pay out everything that the caller has unstaked, once the wait is over.
    """
    leaving: Unbonding = self.unbonding[msg.sender]
    assert leaving.amount > 0, "registry: nothing to withdraw"
    assert block.timestamp >= leaving.ready_s, "registry: still bonded"
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
    return self._open()


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
    @notice An epoch's members, sorted by address, and their stakes.
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
def candidates() -> DynArray[address, MAX_MEMBERS]:
    """
    @notice Everybody with bonded stake: the next epoch's committee, as things stand.
    @return Addresses, sorted.
    """
    return self.staked


@internal
def _open() -> bytes32:
    members: DynArray[address, MAX_MEMBERS] = self.staked
    assert len(members) > 0, "registry: nobody has staked"
    epoch: uint256 = self.epoch + 1
    stakes: DynArray[uint256, MAX_MEMBERS] = []
    total: uint256 = 0
    for member: address in members:
        stake: uint256 = self.stake_of[member]
        stakes.append(stake)
        total += stake
    root: bytes32 = keccak256(abi_encode(epoch, members, stakes))
    for place: uint256 in range(len(members), bound=MAX_MEMBERS):
        self.frozen_stake[root][members[place]] = stakes[place]
    self.frozen_total[self.root_of[self.epoch]] = 0  # who has handed over has no say any more
    self.frozen_total[root] = total
    self.root_of[epoch] = root
    self.epoch_members[epoch] = members
    self.epoch = epoch
    log EpochOpened(epoch=epoch, committee_root=root, total=total)
    return root


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
