"""What happened in a run, for people."""

from consensus.member import events
from gossip.messages.committee import DecidedFrame, HandOver, LinkFrame, StatusFrame
from gossip.messages.listing import ListModel
from testnet.simulator.happenings import (
    Answers,
    Arrives,
    Happening,
    IsLost,
    LearnsOfRescue,
    OperatorSpeaks,
    Restarts,
    SessionsEnd,
    SlotBegins,
    StatusDue,
)


def describe(happening: Happening) -> str:
    """A happening for people, in one line."""
    match happening:
        case Arrives(node, sender, frame):
            return f"{sender} -> {node}  {show(frame)}"
        case Answers(node, _, event):
            return f"{node}  {show(event)}"
        case SlotBegins(node, slot):
            return f"{node}  slot {slot} begins"
        case StatusDue(node):
            return f"{node}  tells its status"
        case SessionsEnd(slot):
            return f"the sessions of slot {slot} are filed"
        case Restarts(node):
            return f"{node}  restarts"
        case IsLost(node):
            return f"{node}  is lost for good"
        case LearnsOfRescue(node):
            return f"{node}  reads who was put in charge"
        case OperatorSpeaks(node, model, is_listed):
            return f"{node}  is told to {'list' if is_listed else 'unlist'} model {model}"


def show(thing: LinkFrame | events.Input) -> str:
    """A frame or an input by its name and its place."""
    name = type(thing).__name__
    match thing:
        case StatusFrame(height, round_) | events.TimerElapsed(_, height, round_):
            return f"{name} {height}/{round_}"
        case DecidedFrame(batch) | events.BatchAdopted(batch):
            return f"{name} {batch.header.height}/{batch.certificate.round}"
    payload = getattr(getattr(thing, "vote", None) or getattr(thing, "proposal", None), "payload", None)
    if payload is None:
        return name
    if isinstance(payload, HandOver):
        return f"{name} of epoch {payload.epoch} to 0x{payload.next_root[:4].hex()}"
    if isinstance(payload, ListModel):
        verb = "list" if payload.is_listed else "unlist"
        return f"{name} of day {payload.day} to {verb} 0x{payload.model_id[:4].hex()}"
    return f"{name} {payload.height}/{payload.round} 0x{payload.batch_hash[:4].hex()}"
