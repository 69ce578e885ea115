"""A session's credit on its way in words (S8): whether it was picked, who says what of it, and when it matures."""

from consensus.market.deposits import has_deposits
from consensus.market.errors import show
from consensus.market.ledger_state import Ledger
from consensus.market.opinions import TYPICAL_T, Pick, bucket_of, due_slot, needs_two, turns
from consensus.params import NetworkParams
from contracts.typed_data import Address, Digest

_DECISIONS = {
    "passed": "passed: the credit matures",
    "failed": "FAILED: the credit is forfeited, and the provider's deposit",
    "unread": "no scorer could read it: the credit matures; only once a provider and window",
    "unheard": "nobody said Pass or Fail in time: the credit is forfeited, and the provider's deposit",
}


_SAID = {True: "says Pass", False: "says Fail", None: "could not read it"}


def explain_credit(
    ledger: Ledger, params: NetworkParams, ticket_id: Digest, pair: tuple[Address, Address], picked_slot: int | None
) -> tuple[str, ...]:
    """Lines of text for a credited session of ``pair``, provider and session key.

    ``picked_slot`` is the slot of the batch after the one that settled it, None where there is none yet.
    """
    if params.audit_slots == 0:
        return ("credit: at once; this network asks for no second opinions (params.audit_slots = 0)",)
    if picked_slot is None:
        return ("credit: settled; the beacon of the next batch says whether a second opinion is wanted",)
    bucket = bucket_of(picked_slot, params)
    end = due_slot(bucket, params)
    if ledger.slot >= end:
        has_gone = "has filled the provider's deposit or matured" if has_deposits(params) else "has matured"
        return (f"credit: its window ended in slot {end}; what had not been forfeited {has_gone}",)
    lines = [
        f"credit: immature until slot {end}, {params.audit_slots} slots after the batch of slot {picked_slot}"
        f" (params.audit_slots; the ledger stands at slot {ledger.slot})"
    ]
    pick = ledger.audits.pick(ticket_id)
    if pick is None:
        share = f"{params.audit_bps} of 10,000 are (params.audit_bps)"
        lines.append(f"not picked for a second opinion: {share}, of those above {TYPICAL_T} T more in proportion")
    else:
        lines += _pick_lines(pick, ledger.slot, params)
    if ledger.audits.is_struck(*pair, bucket):
        whose = "this session key's with it" if params.forfeits == "pair" else "its"
        lines.append(f"FORFEITED: a session of {show(pair[0])} failed, and with it all of {whose} immature credits")
    return tuple(lines)


def _pick_lines(pick: Pick, slot: int, params: NetworkParams) -> list[str]:
    said = {given.scorer: _SAID[given.passed] for given in pick.given}
    may = turns(pick, slot + 1, params)
    lines = [f"picked for a second opinion on {pick.tokens} T of transcript {show(pick.transcript)}; scorers by turns:"]
    for number, offer in enumerate(pick.scorers):
        state = said.get(offer.provider) or ("may speak" if number < may else "waits for its turn")
        lines.append(f"  {show(offer.provider)} at {offer.price_wei} wei per T: {state}")
    if needs_two(pick.tokens, params):
        lines.append(f"  two of a kind are asked for: {pick.tokens} T in parts would be picked twice")
    lines.append("verdict: " + (_DECISIONS[pick.decision] if pick.decision else "still open"))
    return lines
