# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title MOR for test networks
@license MIT
@notice A plain ERC-20 with 18 decimals. On a public network the real MOR token takes its place; nothing else in the
        protocol depends on more than ERC-20.
@dev Only the account that deployed it mints. There is no burning: sending to the zero address is refused.
"""

from ethereum.ercs import IERC20
from ethereum.ercs import IERC20Detailed

implements: IERC20
implements: IERC20Detailed

# --- constants and immutables ---

name: public(constant(String[3])) = "MOR"
symbol: public(constant(String[3])) = "MOR"
decimals: public(constant(uint8)) = 18

# @notice The only account that mints.
MINTER: public(immutable(address))

# --- storage ---

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])


@deploy
def __init__():
    """
    @notice The deployer becomes the minter; the supply starts at zero.
    """
    MINTER = msg.sender


@external
def transfer(to: address, amount: uint256) -> bool:
    """
    @notice Move MOR of the caller.
    @param to Who receives it.
    @param amount Wei.
    @return Always true; a failure reverts.
    """
    self._move(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    """
    @notice Move MOR that its owner has let the caller move; an allowance of 2**256-1 never runs out.
    @param owner Whose MOR it is.
    @param to Who receives it.
    @param amount Wei.
    @return Always true; a failure reverts.
    """
    allowed: uint256 = self.allowance[owner][msg.sender]
    if allowed != max_value(uint256):
        assert allowed >= amount, "mor: allowance too low"
        self.allowance[owner][msg.sender] = allowed - amount
    self._move(owner, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    """
    @notice Let somebody move the caller's MOR.
    @param spender Who may move it.
    @param amount Wei; replaces what was allowed before.
    @return Always true.
    """
    self.allowance[msg.sender][spender] = amount
    log IERC20.Approval(owner=msg.sender, spender=spender, value=amount)
    return True


@external
def mint(to: address, amount: uint256):
    """
    @notice Create MOR.
    @param to Who receives it.
    @param amount Wei.
    """
    assert msg.sender == MINTER, "mor: not the minter"
    assert to != empty(address), "mor: zero address"
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=empty(address), receiver=to, value=amount)


@internal
def _move(owner: address, to: address, amount: uint256):
    assert to != empty(address), "mor: zero address"
    balance: uint256 = self.balanceOf[owner]
    assert balance >= amount, "mor: balance too low"
    self.balanceOf[owner] = balance - amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=owner, receiver=to, value=amount)
