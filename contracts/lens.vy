# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Lens
@license MIT
@notice Reads a token's supply and many balances in one call (S6, S38: a snapshot of one block).
@dev Needs no deployment: the client lends its code to an address for the length of one eth_call.
"""

from ethereum.ercs import IERC20


@external
@view
def snapshot(token: address, owners: DynArray[address, 1000]) -> (uint256, DynArray[uint256, 1000]):
    """
    @notice The supply of a token and what some owners hold of it.
    @param token An ERC-20.
    @param owners At most 1,000 addresses.
    @return Wei in existence, and wei per owner in the order asked.
    """
    balances: DynArray[uint256, 1000] = []
    for owner: address in owners:
        balances.append(staticcall IERC20(token).balanceOf(owner))
    return staticcall IERC20(token).totalSupply(), balances
