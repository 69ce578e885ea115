"""Every number that nodes of a network must agree on, in one table with units."""

from typing import Literal

import msgspec

from contracts.budget import MAX_LATE_DAYS, BudgetPolicy, Economics, Schedule
from contracts.emission import COMPUTE_DECREASE_WEI, COMPUTE_INITIAL_WEI
from contracts.typed_data import Domain


class NetworkParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network's parameters; fixed at genesis. Ratios are whole percent, times are ms or slots."""

    slot_ms: int = 12_000
    """An inference block (S17)."""
    day_slots: int = 7_200
    """Slots in a day."""
    speed_percent: int = 50
    """X of S31: credited while ms/T is at most so much above the mean."""
    speed_samples: int = 100
    """Z of S31: how many last queries of a model the mean is taken over."""
    speed_samples_min: int = 10
    """Fewer samples than this: no speed test."""
    speed_share: int = 5
    """One user or one provider gives at most a fifth (1/5) of the Z samples."""
    min_providers: int = 2
    """A model is payable only while so many providers, by distinct addresses, bid for it (S8)."""
    listed_models: bool = True
    """Only models that the committee has listed are payable (S8): the genesis file lists the first ones."""
    pair_percent: int = 50
    """At most so many percent of a pass's allowance are credited to one provider (S8); 100: no cap."""
    earnings_percent: int = 0
    """At most so many percent of the MOR that its coarse rank stands for are credited to a provider on one day (S8); 0:
    no bound."""
    audit_slots: int = 600
    """Credits mature after so many slots, in which a second opinion may be asked for (S8); 0: at once, and none is."""
    scores_required: bool = True
    """Where credits mature: only providers that can score count among the others of ``min_providers``."""
    audit_bps: int = 200
    """The beacon picks so many of 10,000 credited sessions of up to 500 T for a second opinion (S8), of longer ones in
    proportion to their T."""
    canary_slots: int = 0
    """A member that holds MOR asks as a user about once in so many slots, and has every answer audited; 0: never."""
    forfeits: Literal["pair", "provider"] = "provider"
    """Whose immature credits are forfeited when a pick fails: the session key's with the provider, or all of its."""
    deposit_tokens: int = 300_000
    """Where credits mature: those that come due first fill a provider's deposit, until it is worth so many T at the
    day's reference price (600 typical sessions); a failed pick forfeits it. 0: none."""
    deposit_slots: int = 14_400
    """A provider's full deposit is released once none of its sessions has been credited for so many slots (two days):
    longer than a ticket may be settled and picked."""
    tie_percent: int = 5
    """Bids so close to the lowest take part in the draw (S27, S34)."""
    ceiling_percent: int = 200
    """A bid above so many percent of the reference price is not matched."""
    reference_step_percent: int = 10
    """How far the reference price moves in a day."""
    withhold_only_if_user_richer: bool = False
    """The variant of S44: Fail withholds the reward only when the user's MOR exceeds the provider's."""
    budget_policy: Literal["emission", "pool"] = "emission"
    """A day's budget (S37): its compute emission, or 1 % of the pool at the end of the day before."""
    endowment_mor: int = 0
    """What the Compute Contract's pool holds at genesis, in whole MOR."""
    emission_start_s: int = 0
    """When compute's emission began, Unix seconds; 0: with this network."""
    emission_interval_s: int = 0
    """An interval of the emission, in seconds; 0: a day of this network, however short."""
    bootstrap_days: int = 365
    """For so many days, 365 at most, the leading providers share the bootstrap reserve (S24); 0: never."""
    bootstrap_providers: int = 100
    """How many of a day's providers share it."""
    report_deadline_slots: int = 5
    """After so many slots without a report, the last voucher or receipt counts."""
    settle_window_slots: int = 7_200
    """A ticket older than this is no longer settled."""
    ticket_ttl_ms: int = 30_000
    """A ticket opens a session for so long."""
    session_max_ms: int = 600_000
    """A session lasts at most so long."""
    liveness_ms: int = 500
    """The deadline of a liveness check (S28)."""
    challenge_slots: int = 50
    """A router challenges a provider's model about once in so many slots, beside the first time (S42)."""
    challenge_ms: int = 5_000
    """The deadline of an answer to a challenge."""
    age_boost_ms: int = 1_000
    """Waiting so long lifts an RFC by one priority step (S26: small holders don't starve)."""
    batch_settlements: int = 8_400
    """Settlements in one batch at most: those of 700 RFC/s in 12 s (S22)."""
    voucher_window: int = 32
    """T that a provider sends ahead of the last voucher before it waits."""
    propose_ms: int = 3_000
    prevote_ms: int = 1_000
    precommit_ms: int = 1_000
    round_step_ms: int = 500
    """Every further round waits so much longer."""

    @property
    def tells_ranks(self) -> bool:
        """Whether a day's opening tells providers' ranks by MOR: only where a rule needs them (S34)."""
        return self.withhold_only_if_user_richer or self.earnings_percent > 0

    def slot_at(self, now_ms: int, genesis_ms: int) -> int:
        """The slot that ``now_ms`` falls into; 0 is the first."""
        return max(0, now_ms - genesis_ms) // self.slot_ms

    def day_of(self, slot: int) -> int:
        """The day that ``slot`` belongs to; 0 is the first."""
        return slot // self.day_slots


class Terms(msgspec.Struct, frozen=True):
    """What pure rules need to know of the network that they run in."""

    domain: Domain
    genesis_ms: int
    params: NetworkParams

    @property
    def economics(self) -> Economics:
        """What the Compute Contract enforces on this network."""
        return economics_of(self.params, self.genesis_ms // 1_000)


def _late_days(params: NetworkParams) -> int:
    """Days that a credit may come after its ticket's: it is settled within one window, and matures within another.

    A day more where credits mature: no batch is decided while the committee stands still.
    """
    waits = params.audit_slots + params.audit_slots // 64 + 1 if params.audit_slots else 0
    return -(-(params.settle_window_slots + waits) // params.day_slots) + (1 if waits else 0)


def economics_of(params: NetworkParams, genesis_s: int) -> Economics:
    """What a Compute Contract is deployed with, for a network whose slot 0 begins at ``genesis_s`` (Unix seconds)."""
    interval_s = params.emission_interval_s or max(1, params.slot_ms * params.day_slots // 1_000)
    start_s = params.emission_start_s or genesis_s
    return Economics(
        schedule=Schedule(COMPUTE_INITIAL_WEI, COMPUTE_DECREASE_WEI, start_s, interval_s),
        genesis_s=genesis_s,
        slot_ms=params.slot_ms,
        day_slots=params.day_slots,
        policy=BudgetPolicy.EMISSION if params.budget_policy == "emission" else BudgetPolicy.POOL_PERCENT,
        endowment_wei=params.endowment_mor * 10**18,
        late_days=min(MAX_LATE_DAYS, _late_days(params)),
    )
