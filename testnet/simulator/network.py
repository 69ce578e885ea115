"""The simulated network: whether a frame arrives, when, and how often."""

from random import Random

from testnet.simulator.faults import FAIR, FaultPlan

DUPLICATE_LATER_MS = 2_000
"""A duplicate comes up to so much later than the first copy."""


class Links:
    """Draws the fate of every frame from the plan and one source of chance."""

    def __init__(self, plan: FaultPlan, chance: Random) -> None:
        self._plan = plan
        self._chance = chance

    def delays_ms(self, sender: int, receiver: int, now_ms: int) -> tuple[int, ...]:
        """After how many ms each copy of a frame arrives; none where it is lost."""
        plan, chance = self._plan, self._chance
        if now_ms >= plan.heal_ms:
            return (chance.randint(FAIR.delay_min_ms, FAIR.delay_max_ms),)
        if any(
            cut.from_ms <= now_ms < cut.until_ms and sender in cut.senders and receiver in cut.receivers
            for cut in plan.cuts
        ):
            return ()
        weather = plan.weather
        if chance.randrange(100) < weather.loss_percent:
            return ()
        first = chance.randint(weather.delay_min_ms, weather.delay_max_ms)
        if chance.randrange(100) < weather.duplicate_percent:
            return first, first + chance.randrange(DUPLICATE_LATER_MS)
        return (first,)
