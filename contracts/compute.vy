# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Compute Contract
@license MIT
@notice Receives the compute pool's MOR (S14) and pays providers what the committee has credited them (S32, S33). A
        certificate, more than 2/3 of the committee's stake in EIP-712 precommits over a batch header, is the Router's
        only instruction (S12); anybody submits it. Credits are cumulative per provider under a Merkle root, so a
        payment is cumulative minus paid.
        What the committee may credit is bounded by formula, day by day (S23, S24, S37), and by what the contract really
        holds (S35); contracts/budget.py is the formula's twin. No rule needs a keeper.
@dev Everything but the emission source's address is fixed at deployment; changing that takes a governor and a delay.
"""

from ethereum.ercs import IERC20

import emission

# --- interfaces ---

interface Registry:
    def weigh(committee_root: bytes32, signers: DynArray[address, 64]) -> (uint256, uint256): view

interface EmissionSource:
    def pay() -> uint256: nonpayable

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
    bootstrap_credited: uint256
    state_root: bytes32
    committee_root: bytes32
    beacon: bytes32
    reveal: bytes32
    proposer: address

# EIP-2098: the recovery bit sits on top of s.
struct CompactSignature:
    r: bytes32
    vs: bytes32

# One provider's leaf and the siblings that lead from it to a credit root.
struct Credit:
    provider: address
    cumulative: uint256
    proof: DynArray[bytes32, 24]

# The network's clock and budget. Unix seconds, ms, slots, 0 for the day's emission or 1 for 1 % of the pool, wei, and
# for how many days after its own a session may be paid.
struct Terms:
    genesis_s: uint256
    slot_ms: uint256
    day_slots: uint256
    policy: uint256
    endowment: uint256
    late_days: uint256

# Who may change the emission source, and how long everybody can see it coming. Nobody, where the governor is zero.
struct Governance:
    governor: address
    delay_s: uint256

# A change that was announced: to what, and from when on it can be made.
struct Change:
    value: address
    ready_s: uint256

# --- events ---

event BatchAccepted:
    height: indexed(uint64)
    batch_hash: bytes32
    total_credited: uint256

# The fields of the Morpheus Distribution contract's UserClaimed: the pool's place is taken by the height.
event Claimed:
    provider: indexed(address)
    height: indexed(uint64)
    receiver: address
    amount: uint256

# As the Morpheus Distribution contract has it, without a pool.
event ClaimReceiverSet:
    provider: indexed(address)
    receiver: address

event EmissionReceived:
    amount: uint256

event SourceAnnounced:
    source: address
    ready_s: uint256

event SourceSet:
    source: address

event GovernorAnnounced:
    governor: address
    ready_s: uint256

event GovernorSet:
    governor: address

# --- constants and immutables ---

MAX_MEMBERS: constant(uint256) = 64
MAX_PROOF: constant(uint256) = 24
MAX_CLAIMS: constant(uint256) = 64

# So many days are caught up with in one call; `roll` takes care of more.
MAX_ROLL: constant(uint256) = 4096

# A session may be paid so many days late at most.
MAX_LATE: constant(uint256) = 64

BOOTSTRAP_INTERVALS: constant(uint256) = 365
BOOTSTRAP_SHARE: constant(uint256) = 10
POOL_SHARE: constant(uint256) = 100

POLICY_EMISSION: constant(uint256) = 0
POLICY_POOL_PERCENT: constant(uint256) = 1

# Whoever governs can be seen coming for a day at the least.
SHORTEST_DELAY_S: constant(uint256) = 86400

# One MOR in wei.
MOR: constant(uint256) = 10**18

# Amounts that are kept take up to 88 bits, 309 million MOR; heights and times take 40.
MASK_40: constant(uint256) = 2**40 - 1
MASK_88: constant(uint256) = 2**88 - 1
MASK_96: constant(uint256) = 2**96 - 1

# EIP-2: a signature with a larger s has a twin.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPEHASH: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
NAME_HASH: constant(bytes32) = keccak256("Yellowstone")
VERSION_HASH: constant(bytes32) = keccak256("1")
HEADER_TYPEHASH: constant(bytes32) = keccak256(
    "BatchHeader(uint64 height,uint64 slot,uint64 day,bytes32 parent,bytes32 bodyRoot,bytes32 creditRoot,uint256 totalCredited,uint256 bootstrapCredited,bytes32 stateRoot,bytes32 committeeRoot,bytes32 beacon,bytes32 reveal,address proposer)"
)
PRECOMMIT_TYPEHASH: constant(bytes32) = keccak256(
    "Precommit(uint64 height,uint64 round,bytes32 batchHash,bytes32 committeeRoot)"
)
PAYOUT_TYPEHASH: constant(bytes32) = keccak256(
    "PayoutOrder(address provider,address receiver,uint64 nonce,uint64 deadline)"
)

# @notice The token that providers are paid in.
TOKEN: public(immutable(address))

# @notice Where the committee's stake is kept.
REGISTRY: public(immutable(address))

# @notice When slot 0 begins, Unix seconds.
GENESIS_S: public(immutable(uint256))

# @notice A slot, in ms.
SLOT_MS: public(immutable(uint256))

# @notice Slots in a day.
DAY_SLOTS: public(immutable(uint256))

# @notice A day, in seconds.
DAY_S: public(immutable(uint256))

# @notice What a day's budget is by rule: 0 the day's emission, 1 one percent of the unused pool.
POLICY: public(immutable(uint256))

# @notice Wei that the pool holds at genesis.
ENDOWMENT: public(immutable(uint256))

# @notice For so many days after its own a session may still be paid, out of its own day's budget.
LATE_DAYS: public(immutable(uint256))

# @notice How long a change of governance waits, in seconds.
GOVERNANCE_DELAY_S: public(immutable(uint256))

SCHEDULE: immutable(emission.Schedule)
DEPLOYER: immutable(address)

# --- storage ---

# One word, because each more would cost a submission 5,000 gas. From the low end, all providers since genesis and of
# the newest accepted batch: wei credited (88 bits), wei paid (88), the height (40), when it was accepted (40).
totals: uint256

# What honest days can have led to, from the low end: the market's limit (88 bits), the bootstrap's credit (88), how
# many days the limit covers (40), and whether the contract was seen to hold enough for all that they allow.
gate: uint256

# By provider: wei paid in the low 96 bits, above who receives its payments where that isn't itself.
accounts: HashMap[address, uint256]

# @notice An accepted height's credit root; zero for a height that was never submitted.
credit_root: public(HashMap[uint64, bytes32])

# @notice The nonce that a provider's next payout order must carry.
nonce_of: public(HashMap[address, uint64])

# @notice Where emissions are fetched; zero where they only come by plain transfer.
source: public(address)

# @notice Who may announce another emission source or governor; zero for nobody.
governor: public(address)

# @notice The announced emission source.
coming_source: public(Change)

# @notice The announced governor.
coming_governor: public(Change)


@deploy
def __init__(token: address, registry: address, schedule: emission.Schedule, terms: Terms, governance: Governance):
    """
    @notice Bind the contract to its token, its committee's registry, its emission and its clock for good.
    @param token The ERC-20 that providers are paid in.
    @param registry The staking registry.
    @param schedule The compute pool's emission: wei per interval, Unix seconds, seconds.
    @param terms Clock, budget policy and the pool at genesis; the same as in the network's genesis file.
    @param governance Who may change the emission source after what delay, a day at the least; a zero governor for
                      nobody ever.
    """
    assert token != empty(address), "compute: zero token"
    assert registry != empty(address), "compute: zero registry"
    emission._check(schedule)
    assert terms.endowment < 2**86, "compute: bad endowment"
    assert emission._emitted(schedule, max_value(uint256)) < 2**86, "compute: bad emission"
    assert terms.genesis_s < 2**40, "compute: bad genesis"
    assert 0 < terms.slot_ms and terms.slot_ms < 2**40, "compute: bad slot"
    assert 0 < terms.day_slots and terms.day_slots < 2**40, "compute: bad day"
    assert terms.slot_ms * terms.day_slots % 1000 == 0, "compute: bad day"
    assert terms.policy <= POLICY_POOL_PERCENT, "compute: bad policy"
    assert terms.late_days <= MAX_LATE, "compute: bad late days"
    assert governance.governor == empty(address) or governance.delay_s >= SHORTEST_DELAY_S, "compute: bad delay"
    assert governance.delay_s < 2**40, "compute: bad delay"
    TOKEN = token
    REGISTRY = registry
    SCHEDULE = schedule
    GENESIS_S = terms.genesis_s
    SLOT_MS = terms.slot_ms
    DAY_SLOTS = terms.day_slots
    DAY_S = terms.slot_ms * terms.day_slots // 1000
    POLICY = terms.policy
    ENDOWMENT = terms.endowment
    LATE_DAYS = terms.late_days
    GOVERNANCE_DELAY_S = governance.delay_s
    DEPLOYER = msg.sender
    self.governor = governance.governor


# --- batches and claims ---

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
def claim_many(height: uint64, credits: DynArray[Credit, MAX_CLAIMS]) -> uint256:
    """
    @notice `claim` for many providers at once. One that has been paid in the meantime is passed over, so that nobody
            stops the others by claiming for it first; a wrong proof reverts all.
    @param height An accepted batch.
    @param credits The providers' credits since genesis as of that batch, with their proofs.
    @return Wei paid, all together.
    """
    root: bytes32 = self.credit_root[height]
    assert root != empty(bytes32), "compute: unknown height"
    amounts: DynArray[uint256, MAX_CLAIMS] = []
    receivers: DynArray[address, MAX_CLAIMS] = []
    sum: uint256 = 0
    for credit: Credit in credits:
        assert self._is_credited(root, credit.provider, credit.cumulative, credit.proof), "compute: bad proof"
        account: uint256 = self.accounts[credit.provider]
        already: uint256 = account & MASK_96
        if credit.cumulative <= already:
            continue
        sum += credit.cumulative - already
        assert credit.cumulative <= MASK_96, "compute: over credit"
        self.accounts[credit.provider] = account - already + credit.cumulative
        receiver: address = self._receiver(credit.provider, account)
        amounts.append(credit.cumulative - already)
        receivers.append(receiver)
        log Claimed(provider=credit.provider, height=height, receiver=receiver, amount=credit.cumulative - already)
    self._pay_out(sum)
    index: uint256 = 0
    for receiver: address in receivers:
        self._transfer(receiver, amounts[index])
        index += 1
    return sum


# --- the pool ---

@external
def pull() -> uint256:
    """
    @notice Fetch the emission that is due. Anybody may call, nobody has to: a batch that needs it fetches it itself.
    @return Wei received.
    """
    assert self.source != empty(address), "compute: no source"
    return self._pull()


@external
def roll(until_day: uint64):
    """
    @notice Catch up with days on which no batch was submitted. Needed only where they are more than a batch can catch
            up with itself. Anybody may call, so it must grant nothing: a batch proves how little the days before have
            led to and a roll does not, so the days that may still be paid late are left to batches. Twin:
            BudgetGate.roll.
    @param until_day The last day to catch up with: more than `LATE_DAYS` before today, at most 4,096 further than
                     before.
    """
    day: uint256 = convert(until_day, uint256)
    assert day + LATE_DAYS < self._today(), "compute: day not over"
    gate: uint256 = self.gate
    rolled: uint256 = gate >> 176 & MASK_40
    assert day >= rolled, "compute: old day"
    limit: uint256 = self._rolled_limit(rolled, gate & MASK_88, day + 1, max_value(uint256))
    self.gate = (day + 1) << 176 | gate & (MASK_88 << 88) | limit


# --- where a provider is paid ---

@external
def set_receiver(receiver: address):
    """
    @notice Have the caller's payments sent to another address from now on.
    @param receiver Who receives them; zero for the provider itself.
    """
    self._set_receiver(msg.sender, receiver)


@external
def set_receiver_by_order(provider: address, receiver: address, deadline: uint64, signature: CompactSignature):
    """
    @notice Have a provider's payments sent to another address, by the provider's signed order. Anybody may call.
    @param provider Whose payments, and who signed.
    @param receiver Who receives them; zero for the provider itself.
    @param deadline The last Unix second at which the order is good.
    @param signature EIP-712 over PayoutOrder with the provider's current nonce, in the committee's domain.
    """
    assert block.timestamp <= convert(deadline, uint256), "compute: order expired"
    order: bytes32 = keccak256(abi_encode(PAYOUT_TYPEHASH, provider, receiver, self.nonce_of[provider], deadline))
    assert self._recover(self._digest(order), signature) == provider, "compute: not the provider"
    self._set_receiver(provider, receiver)


# --- governance ---

@external
def bind_source(source: address):
    """
    @notice Name the first emission source, which can only be deployed after this contract. The deployer, once.
    @param source A contract that pays this one what is due when it is asked to.
    """
    assert msg.sender == DEPLOYER, "compute: not the deployer"
    assert self.source == empty(address) and self.totals == 0, "compute: too late to bind"
    assert source != empty(address), "compute: zero source"
    self._set_source(source)


@external
def announce_source(source: address):
    """
    @notice Announce another emission source. The governor; a further announcement replaces this one.
    @param source Where emissions will be fetched; zero for nowhere.
    """
    assert msg.sender == self.governor, "compute: not the governor"
    ready_s: uint256 = block.timestamp + GOVERNANCE_DELAY_S
    self.coming_source = Change(value=source, ready_s=ready_s)
    log SourceAnnounced(source=source, ready_s=ready_s)


@external
def change_source():
    """
    @notice Make the announced change of the emission source, once the delay is over. Anybody may call.
    """
    coming: Change = self.coming_source
    assert coming.ready_s != 0, "compute: nothing announced"
    assert block.timestamp >= coming.ready_s, "compute: too early"
    self.coming_source = empty(Change)
    self._set_source(coming.value)


@external
def announce_governor(governor: address):
    """
    @notice Announce another governor. The governor; a further announcement replaces this one.
    @param governor Who will be; zero for nobody ever again.
    """
    assert msg.sender == self.governor, "compute: not the governor"
    ready_s: uint256 = block.timestamp + GOVERNANCE_DELAY_S
    self.coming_governor = Change(value=governor, ready_s=ready_s)
    log GovernorAnnounced(governor=governor, ready_s=ready_s)


@external
def change_governor():
    """
    @notice Make the announced change of governor, once the delay is over. What the old one announced is void.
            Anybody may call.
    """
    coming: Change = self.coming_governor
    assert coming.ready_s != 0, "compute: nothing announced"
    assert block.timestamp >= coming.ready_s, "compute: too early"
    self.coming_governor = empty(Change)
    self.coming_source = empty(Change)
    self.governor = coming.value
    log GovernorSet(governor=coming.value)


# --- views: batches and claims ---

@external
@view
def latest_height() -> uint64:
    """
    @notice The height of the newest accepted batch.
    @return 0 before the first.
    """
    return convert(self.totals >> 176 & MASK_40, uint64)


@external
@view
def accepted_s() -> uint256:
    """
    @notice When the newest batch was accepted; the registry's sign that the committee is alive.
    @return Unix seconds, 0 before the first.
    """
    return self.totals >> 216


@external
@view
def credited_total() -> uint256:
    """
    @notice What the newest accepted batch credits, all providers since genesis, bootstrap included.
    @return Wei.
    """
    return self.totals & MASK_88


@external
@view
def bootstrap_credited() -> uint256:
    """
    @notice How much of `credited_total` is bootstrap (S24).
    @return Wei.
    """
    return self.gate >> 88 & MASK_88


@external
@view
def paid_total() -> uint256:
    """
    @notice What has been paid out, all providers since genesis; never more than `credited_total`.
    @return Wei.
    """
    return self.totals >> 88 & MASK_88


@external
@view
def paid(provider: address) -> uint256:
    """
    @notice What a provider has been paid since genesis.
    @param provider Whose payments.
    @return Wei.
    """
    return self.accounts[provider] & MASK_96


@external
@view
def receiver_of(provider: address) -> address:
    """
    @notice Where a provider's payments go.
    @param provider Whose payments.
    @return Itself, or whom it has named.
    """
    return self._receiver(provider, self.accounts[provider])


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
    already: uint256 = self.accounts[provider] & MASK_96
    if root == empty(bytes32) or cumulative <= already or not self._is_credited(root, provider, cumulative, proof):
        return 0
    if cumulative - already > (self.totals & MASK_88) - (self.totals >> 88 & MASK_88):
        return 0
    return cumulative - already


@external
@view
def is_eligible(provider: address) -> bool:
    """
    @notice Whether a provider holds any MOR, as it must to be matched (S43).
    @param provider Who.
    @return Whether the balance isn't zero.
    """
    return staticcall IERC20(TOKEN).balanceOf(provider) > 0


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
    return self._digest(keccak256(abi_encode(PRECOMMIT_TYPEHASH, height, round, batch_hash, committee_root)))


# --- views: the pool ---

@external
@view
def schedule() -> emission.Schedule:
    """
    @notice The compute pool's emission.
    @return Initial reward and decrease in wei per interval, payout start in Unix seconds, interval in seconds.
    """
    return SCHEDULE


@external
@view
def today() -> uint64:
    """
    @notice The day by the chain's clock.
    @return 0 for the first day and before it.
    """
    return convert(self._today(), uint64)


@external
@view
def emission_of(day: uint64) -> uint256:
    """
    @notice What the compute pool receives during a day by formula, the bootstrap reserve's share included.
    @param day The day.
    @return Wei.
    """
    start_s: uint256 = self._day_start_s(convert(day, uint256))
    return emission._emitted(SCHEDULE, start_s + DAY_S) - emission._emitted(SCHEDULE, start_s)


@external
@view
def budget(day: uint64, credited_before: uint256) -> uint256:
    """
    @notice What bids may be credited on a day (S37): the policy's amount, held down by S23 and by what is in the pool.
    @param day The day.
    @param credited_before Wei credited to bids, bootstrap left out, at the end of the day before.
    @return Wei.
    """
    return self._budget(convert(day, uint256), credited_before)


@external
@view
def budget_left(day: uint64) -> uint256:
    """
    @notice How much more a batch of a day could credit to bids, by what has been submitted so far.
    @param day The day; one that later batches have left behind counts as theirs.
    @return Wei.
    """
    gate: uint256 = self.gate
    market: uint256 = (self.totals & MASK_88) - (gate >> 88 & MASK_88)
    return self._rolled_limit(gate >> 176 & MASK_40, gate & MASK_88, convert(day, uint256) + 1, max_value(uint256)) - market


@external
@view
def pool() -> uint256:
    """
    @notice The unused compute pool (S23): what the market has been given until today began, less its credit.
    @return Wei; 0 where today's batches have credited all of it.
    """
    start_s: uint256 = self._day_start_s(self._today())
    income: uint256 = self._income(emission._emitted(SCHEDULE, start_s), start_s)
    market: uint256 = (self.totals & MASK_88) - (self.gate >> 88 & MASK_88)
    return income - min(income, market)


@external
@view
def reserve() -> uint256:
    """
    @notice What is left of the bootstrap reserve (S24) that has been set aside until today began.
    @return Wei.
    """
    return self._reserve(self._day_start_s(self._today())) - (self.gate >> 88 & MASK_88)


@external
@view
def received() -> uint256:
    """
    @notice What the contract has ever received, by whatever way.
    @return Wei; never less than `credited_total` (S35).
    """
    return staticcall IERC20(TOKEN).balanceOf(self) + (self.totals >> 88 & MASK_88)


# --- views: access (S38) ---

@external
@pure
def max_t(budget: uint256, reference_price: uint256) -> uint256:
    """
    @notice MaxT: the T that a day's budget buys at its reference price.
    @param budget Wei.
    @param reference_price Wei per T.
    @return T, rounded down.
    """
    assert reference_price > 0, "compute: zero price"
    return budget // reference_price


@external
@pure
def max_t_dollars(budget: uint256, dollars_per_mor: uint256, dollars_per_1000_t: uint256) -> uint256:
    """
    @notice MaxT as S38 writes it, in dollars: (budget x MOR price / T price per 1000) x 1000.
    @param budget Wei.
    @param dollars_per_mor Dollars with 18 decimals.
    @param dollars_per_1000_t Dollars with 18 decimals.
    @return T, rounded down.
    """
    assert dollars_per_1000_t > 0, "compute: zero price"
    return budget * dollars_per_mor * 1000 // (dollars_per_1000_t * MOR)


@external
@pure
def access_rate(max_t: uint256, supply: uint256) -> uint256:
    """
    @notice AccessRate: the T that 1 MOR gives access to in a day (S40).
    @param max_t The day's MaxT, in T.
    @param supply MOR in existence, in wei.
    @return T, rounded down.
    """
    assert supply > 0, "compute: zero supply"
    return max_t * MOR // supply


@external
@pure
def user_max(max_t: uint256, supply: uint256, balance: uint256) -> uint256:
    """
    @notice UserMax: AccessRate x balance, rounded down once (S2).
    @param max_t The day's MaxT, in T.
    @param supply MOR in existence, in wei.
    @param balance The user's, in wei.
    @return T.
    """
    assert supply > 0, "compute: zero supply"
    return max_t * balance // supply


# --- batches ---

@internal
def _accept(header: BatchHeader, round: uint64, signatures: DynArray[CompactSignature, MAX_MEMBERS]):
    totals: uint256 = self.totals
    height: uint256 = convert(header.height, uint256)
    day: uint256 = convert(header.day, uint256)
    assert height > totals >> 176 & MASK_40, "compute: old height"
    assert height <= MASK_40, "compute: bad height"
    assert day == convert(header.slot, uint256) // DAY_SLOTS, "compute: wrong day"
    assert self._day_start_s(day) <= block.timestamp, "compute: day not reached"
    self._credit(totals, day, header.total_credited, header.bootstrap_credited)
    batch_hash: bytes32 = keccak256(abi_encode(HEADER_TYPEHASH, header))
    digest: bytes32 = self._digest(
        keccak256(abi_encode(PRECOMMIT_TYPEHASH, header.height, round, batch_hash, header.committee_root))
    )
    signers: DynArray[address, MAX_MEMBERS] = []
    previous: address = empty(address)
    for signature: CompactSignature in signatures:
        signer: address = self._recover(digest, signature)
        # ascending order is what rules out counting a member twice
        assert convert(signer, uint160) > convert(previous, uint160), "compute: unsorted signers"
        signers.append(signer)
        previous = signer
    weight: uint256 = 0
    stakes: uint256 = 0
    weight, stakes = staticcall Registry(REGISTRY).weigh(header.committee_root, signers)
    assert 3 * weight > 2 * stakes, "compute: no quorum"
    paid_total: uint256 = totals >> 88 & MASK_88
    self.totals = block.timestamp << 216 | height << 176 | paid_total << 88 | header.total_credited
    self.credit_root[header.height] = header.credit_root
    log BatchAccepted(
        height=header.height,
        batch_hash=batch_hash,
        total_credited=header.total_credited,
    )


@internal
def _credit(totals: uint256, day: uint256, total: uint256, bootstrap: uint256):
    """
    @notice Check a batch's totals against day, pool and reserve, and keep what the next check needs. The twin is
            BudgetGate.objection.
    """
    gate: uint256 = self.gate
    credited: uint256 = totals & MASK_88
    paid_total: uint256 = totals >> 88 & MASK_88
    bootstrap_before: uint256 = gate >> 88 & MASK_88
    assert total >= credited and bootstrap >= bootstrap_before, "compute: falling total"
    assert bootstrap <= total and total - bootstrap >= credited - bootstrap_before, "compute: falling total"
    if bootstrap > bootstrap_before:
        assert bootstrap <= self._reserve(self._day_start_s(day)), "compute: over reserve"
    market: uint256 = total - bootstrap
    rolled: uint256 = gate >> 176 & MASK_40
    limit: uint256 = gate & MASK_88
    funded: uint256 = gate >> 216
    if day >= rolled:
        limit = self._rolled_limit(rolled, limit, day + 1, market)
        rolled = day + 1
        funded = 0
    assert market <= limit, "compute: over budget"
    if funded == 0:
        received: uint256 = staticcall IERC20(TOKEN).balanceOf(self) + paid_total
        if total > received and self.source != empty(address):
            # emission that nobody has fetched yet
            received += self._pull()
            # the source is the one stranger that is called before all is written
            assert self.totals == totals, "compute: reentered"
        assert total <= received, "compute: not funded"
        if received >= limit + self._reserve(self._day_start_s(rolled - 1)):
            # what was received never shrinks: the rest of the day needs no look at the balance
            funded = 1
    new_gate: uint256 = funded << 216 | rolled << 176 | bootstrap << 88 | limit
    if new_gate != gate:
        self.gate = new_gate


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
def _digest(struct_hash: bytes32) -> bytes32:
    # not cached: the chain id changes when a chain forks
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, chain.id, self))
    return keccak256(concat(x"1901", domain, struct_hash))


# --- claims ---

@internal
def _claim(provider: address, cumulative: uint256, height: uint64, proof: DynArray[bytes32, MAX_PROOF]) -> uint256:
    root: bytes32 = self.credit_root[height]
    assert root != empty(bytes32), "compute: unknown height"
    assert self._is_credited(root, provider, cumulative, proof), "compute: bad proof"
    account: uint256 = self.accounts[provider]
    already: uint256 = account & MASK_96
    assert cumulative > already, "compute: nothing to claim"
    amount: uint256 = cumulative - already
    # everything is written before the token is called
    self._pay_out(amount)
    self.accounts[provider] = account + amount
    receiver: address = self._receiver(provider, account)
    log Claimed(provider=provider, height=height, receiver=receiver, amount=amount)
    self._transfer(receiver, amount)
    return amount


@internal
def _pay_out(amount: uint256):
    """
    @notice Count a payment. What is paid stays within what is credited, so it fits.
    """
    totals: uint256 = self.totals
    assert amount <= (totals & MASK_88) - (totals >> 88 & MASK_88), "compute: over credit"
    self.totals = totals + (amount << 88)


@internal
def _transfer(receiver: address, amount: uint256):
    assert extcall IERC20(TOKEN).transfer(receiver, amount, default_return_value=True), "compute: transfer failed"


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


@internal
@pure
def _receiver(provider: address, account: uint256) -> address:
    receiver: address = convert(account >> 96, address)
    if receiver == empty(address):
        return provider
    return receiver


@internal
def _set_receiver(provider: address, receiver: address):
    # MOR paid to this contract would count as received once more
    assert receiver != self, "compute: bad receiver"
    self.nonce_of[provider] += 1
    self.accounts[provider] = convert(receiver, uint256) << 96 | self.accounts[provider] & MASK_96
    log ClaimReceiverSet(provider=provider, receiver=receiver)


# --- the pool ---

@internal
def _pull() -> uint256:
    # what came is measured, not believed
    before: uint256 = staticcall IERC20(TOKEN).balanceOf(self)
    extcall EmissionSource(self.source).pay()
    amount: uint256 = staticcall IERC20(TOKEN).balanceOf(self) - before
    if amount > 0:
        log EmissionReceived(amount=amount)
    return amount


@internal
def _set_source(source: address):
    self.source = source
    log SourceSet(source=source)


@internal
@view
def _today() -> uint256:
    if block.timestamp < GENESIS_S:
        return 0
    return (block.timestamp - GENESIS_S) // DAY_S


@internal
@view
def _day_start_s(day: uint256) -> uint256:
    return GENESIS_S + day * DAY_S


@internal
@view
def _reserve(until_s: uint256) -> uint256:
    """
    @notice The bootstrap reserve (S24): a tenth of the first 365 intervals' emission.
    """
    first_year: uint256 = SCHEDULE.payout_start_s + BOOTSTRAP_INTERVALS * SCHEDULE.interval_s
    return emission._emitted(SCHEDULE, min(until_s, first_year)) // BOOTSTRAP_SHARE


@internal
@view
def _income(emitted: uint256, until_s: uint256) -> uint256:
    """
    @notice What the market's pool has received until a time; `emitted` is what has been emitted until then.
    """
    return ENDOWMENT + emitted - self._reserve(until_s)


@internal
@view
def _rolled_limit(rolled: uint256, limit_before: uint256, until: uint256, known: uint256) -> uint256:
    """
    @notice The most that the market can have been credited honestly by the end of day `until` - 1, where it was
            `limit_before` by the end of day `rolled` - 1. Twin: Economics.roll.
    @param known The market's total in a batch of day `until` - 1: days too old to be paid late can't have led above it.
    """
    if rolled >= until:
        return limit_before
    assert until - rolled <= MAX_ROLL, "compute: roll first"
    limit: uint256 = limit_before
    for day: uint256 in range(rolled, until - 1, bound=MAX_ROLL):
        limit += self._budget(day, limit)
    last: uint256 = until - 1
    if limit > known:
        late: uint256 = 0
        for day: uint256 in range(last - min(last, LATE_DAYS), last, bound=MAX_LATE):
            late += self._budget(day, 0)
        limit = min(limit, known + late)
    return limit + self._budget(last, limit)


@internal
@view
def _budget(day: uint256, before: uint256) -> uint256:
    """
    @notice What the market may be credited on a day where it was credited `before` until then. Twin: Economics.budget.
    """
    start_s: uint256 = self._day_start_s(day)
    emitted: uint256 = emission._emitted(SCHEDULE, start_s)
    income: uint256 = self._income(emitted, start_s)
    emitted_next: uint256 = emission._emitted(SCHEDULE, start_s + DAY_S)
    income_next: uint256 = self._income(emitted_next, start_s + DAY_S)
    unused: uint256 = income - min(income, before)
    percent: uint256 = unused // POOL_SHARE
    wanted: uint256 = percent
    if POLICY == POLICY_EMISSION:
        wanted = emitted_next - emitted
    return min(min(wanted, income_next - income + percent), unused)
