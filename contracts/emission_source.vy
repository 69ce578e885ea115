# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Emission source for test networks
@license MIT
@notice Stands for the MOR emission of a public network: holds MOR and pays its one beneficiary what the emission
        formula has released since the last payment (S7). Anybody may trigger a payment; no keeper is needed.
@dev What it holds bounds what it pays; what it couldn't pay stays due.
"""

from ethereum.ercs import IERC20

import emission

# --- events ---

event Paid:
    amount: uint256
    paid_total: uint256

# --- constants and immutables ---

# @notice The token that is emitted.
TOKEN: public(immutable(address))

# @notice Who receives it.
BENEFICIARY: public(immutable(address))

SCHEDULE: immutable(emission.Schedule)

# --- storage ---

# @notice Wei paid since the beginning.
paid_total: public(uint256)


@deploy
def __init__(token: address, beneficiary: address, schedule: emission.Schedule):
    """
    @notice Fix token, beneficiary and formula for good; the MOR is transferred in afterwards.
    @param token The ERC-20 that is emitted.
    @param beneficiary Who receives it, the Compute Contract.
    @param schedule Initial reward and decrease in wei per interval, payout start in Unix seconds, interval in seconds.
    """
    assert token != empty(address), "source: zero token"
    assert beneficiary != empty(address), "source: zero beneficiary"
    emission._check(schedule)
    TOKEN = token
    BENEFICIARY = beneficiary
    SCHEDULE = schedule


@external
def pay() -> uint256:
    """
    @notice Pay the beneficiary all that is due, or as much of it as is here. Anybody may call.
    @return Wei paid; 0 where nothing is due.
    """
    amount: uint256 = min(self._due(), staticcall IERC20(TOKEN).balanceOf(self))
    if amount == 0:
        return 0
    self.paid_total += amount
    log Paid(amount=amount, paid_total=self.paid_total)
    assert extcall IERC20(TOKEN).transfer(BENEFICIARY, amount, default_return_value=True), "source: transfer failed"
    return amount


@external
@view
def due() -> uint256:
    """
    @notice What the formula has released and nobody has fetched.
    @return Wei.
    """
    return self._due()


@external
@view
def schedule() -> emission.Schedule:
    """
    @notice The formula's numbers.
    @return Initial reward and decrease in wei per interval, payout start in Unix seconds, interval in seconds.
    """
    return SCHEDULE


@external
@view
def getPeriodReward(start_s: uint256, end_s: uint256) -> uint256:
    """
    @notice What the beneficiary is due for a period. Named as the Morpheus contracts name it.
    @param start_s Unix seconds.
    @param end_s Unix seconds.
    @return Wei.
    """
    return emission._period_reward(SCHEDULE, start_s, end_s)


@external
@pure
def period_reward(schedule: emission.Schedule, start_s: uint256, end_s: uint256) -> uint256:
    """
    @notice The emission formula for any schedule; a schedule that `__init__` would refuse reverts.
    @param schedule Initial reward and decrease in wei per interval, payout start in Unix seconds, interval in seconds.
    @param start_s Unix seconds.
    @param end_s Unix seconds.
    @return Wei.
    """
    emission._check(schedule)
    return emission._period_reward(schedule, start_s, end_s)


@internal
@view
def _due() -> uint256:
    return emission._emitted(SCHEDULE, block.timestamp) - self.paid_total
