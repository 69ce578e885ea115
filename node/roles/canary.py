"""Canaries (S8): a committee member asks as a user does, now and then, and has every answer audited.

Its passes, session keys, RFCs and sessions are a user's: from a libp2p host of its own, whose peer id no record names.
An answer that two other providers find to be another model's is reported as Fail, and costs its provider a penalty
point (S44) like any user's. What a canary asks is paid out of the member's own allowance.
"""

import dataclasses
import random
import secrets as randomness

import trio
from msgspec.structs import replace

from gossip.network import NetworkConfig, open_network
from inference.engine import ChatMessage, Sampling
from node.api.backend import BackendError, ChatRequest
from node.context import Node
from node.roles.evidence import EvidencePool
from node.roles.peers import Peers
from node.roles.public import PublicState
from node.roles.sessions import SessionLog
from node.roles.user import UserAgent

FORMS = (
    "Explain {topic} in simple words.",
    "What should I know about {topic}?",
    "Write a short text about {topic}.",
    "List {number} facts about {topic}.",
    "I have to give a talk on {topic}. How do I begin?",
    "Give me {number} questions for a quiz about {topic}.",
    "Why do people care about {topic}?",
    "Summarise {topic} in {number} sentences.",
    "Compare {topic} with {other}.",
    "Is {topic} more important than {other}? Give reasons.",
)
TOPICS = (
    "the water cycle",
    "compound interest",
    "the French Revolution",
    "sorting algorithms",
    "sourdough bread",
    "black holes",
    "public transport",
    "vaccines",
    "chess openings",
    "the Silk Road",
    "photosynthesis",
    "jazz",
    "plate tectonics",
    "beekeeping",
    "unit tests",
    "the Roman aqueducts",
    "electric cars",
    "rainforests",
    "tax returns",
    "marathon training",
)
ENDINGS = (
    "",
    " Keep it short.",
    " I am new to this.",
    " Use plain words.",
    " Give an example.",
    " It is for school.",
    " Please be precise.",
    " Thanks!",
)
ANSWER_T = (48, 64, 96, 128, 256)
"""TokenMax, drawn from these: all long enough for a verdict."""


def compose(chance: random.Random, model: str) -> ChatRequest:
    """A request as users make them, of many thousand that there are."""
    topic, other = chance.sample(TOPICS, 2)
    text = chance.choice(FORMS).format(topic=topic, other=other, number=chance.randint(2, 9))
    text += chance.choice(ENDINGS)
    return ChatRequest(model, (ChatMessage("user", text),), chance.choice(ANSWER_T), Sampling())


class Canary:
    """One member's; ``bootstrap`` are multiaddrs as for any node."""

    def __init__(self, node: Node, public: PublicState, evidence: EvidencePool, bootstrap: tuple[str, ...]) -> None:
        self._node = node
        self._public = public
        self._evidence = evidence
        self._bootstrap = bootstrap
        self._chance = random.SystemRandom()
        self.sessions = SessionLog(node.terms.domain)
        """What was asked, and what came of it."""

    async def run(self) -> None:
        """Ask for ever; nothing to do on a network without canaries."""
        params = self._node.terms.params
        if params.canary_slots == 0:
            return
        async with open_network(NetworkConfig(), randomness.token_bytes(32)) as host:
            user = replace(self._node.config.user, audit_share=1.0)
            masked = dataclasses.replace(self._node, network=host, config=replace(self._node.config, user=user))
            agent = UserAgent(masked, self._public, self.sessions, self._evidence)
            peers = Peers(masked, self._public, ("user",), self._bootstrap)
            async with trio.open_nursery() as nursery:
                await nursery.start(peers.run)
                await nursery.start(agent.run)
                while True:
                    await trio.sleep(self._chance.expovariate(1_000 / (params.canary_slots * params.slot_ms)))
                    await self._ask(agent)

    async def _ask(self, agent: UserAgent) -> None:
        models = await agent.models()
        if not models:
            return
        request = compose(self._chance, self._chance.choice(models).name)
        try:
            async with agent.chat(request) as answer:
                async for _ in answer.pieces():
                    pass  # what counts is kept by the session
        except BackendError as error:
            self._node.log.info("canary without an answer", code=error.code, reason=error.message)
