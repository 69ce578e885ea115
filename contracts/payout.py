"""A provider's word on where it is paid. Pure: contracts/compute.vy fixes the same EIP-712 type."""

import msgspec

from contracts.typed_data import Address


class PayoutOrder(msgspec.Struct, frozen=True):
    """Signed by ``provider`` in the committee's domain; anybody hands it in (EIP-712)."""

    provider: Address
    receiver: Address
    """Who receives the payments; the zero address for the provider itself."""
    nonce: int
    """The provider's, one more with every change, so that an order is good once."""
    deadline: int
    """The last Unix second at which the order is good."""
