"""Writes vectors/economics.json: what the market's integers come to, for other implementations to replay.

``python -m tests.consensus.market.economics_vectors`` writes it anew, ``--check`` only compares. Amounts are decimal
text, since most of them outgrow 64 bits.
"""

import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from consensus.market import access
from consensus.market.bootstrap import bootstrap_reserve, bootstrap_shares, reserve_until
from consensus.market.budget import compute_budget
from consensus.market.day_account import moved_price
from consensus.market.speed import SpeedSample, Timed, draw_timed, is_fast_enough, us_per_t, with_samples
from consensus.params import NetworkParams, Terms
from contracts.typed_data import Address, Digest, Domain

Json = dict[str, Any]

PATH = Path(__file__).parent / "vectors" / "economics.json"
MOR = 10**18
ENDOWMENT_MOR = 100_000


def access_case(supply: int, budget: int, price: int, balances: list[int]) -> Json:
    """S38, S39: all in wei and T."""
    most = access.max_t(budget, price)
    return {
        "supply_wei": str(supply),
        "budget_wei": str(budget),
        "reference_price_wei": str(price),
        "max_t": str(most),
        "access_rate": str(access.access_rate(most, supply)),
        "holders": [
            {"balance_wei": str(balance), "user_max": str(access.user_max(most, supply, balance))}
            for balance in balances
        ],
    }


def dollars_case(budget: str, mor: str, per_1000: str) -> Json:
    """S39 as the source has it: MOR, $ per MOR, $ per 1,000 T."""
    most = access.max_t_dollars(Fraction(budget), Fraction(mor), Fraction(per_1000))
    return {"budget_mor": budget, "dollars_per_mor": mor, "dollars_per_1000_t": per_1000, "max_t": str(most)}


def price_case(old: int, tokens: int, wei: int, percent: int = 10) -> Json:
    params = NetworkParams(reference_step_percent=percent)
    return {
        "reference_price_wei": str(old),
        "credited_t": str(tokens),
        "credited_wei": str(wei),
        "step_percent": percent,
        "next_wei": str(moved_price(old, tokens, wei, params)),
    }


def terms_of(**params: Any) -> Terms:
    """A network whose days are the emission's, from its first on."""
    return Terms(Domain(1, Address(bytes(20))), 0, NetworkParams(**params))


def budget_case(day: int, credited: int, policy: Any) -> Json:
    budget = compute_budget(day, credited, terms_of(budget_policy=policy, endowment_mor=ENDOWMENT_MOR))
    return {"day": day, "credited_wei": str(credited), "policy": policy, "budget_wei": str(budget)}


def speed_case(samples: list[int], last_ms: int, tokens: int, percent: int = 50, least: int = 10) -> Json:
    params = NetworkParams(speed_percent=percent, speed_samples_min=least)
    held = [SpeedSample(_address(0, number), _address(1, number), value) for number, value in enumerate(samples)]
    value = us_per_t(last_ms, tokens)
    return {
        "samples_us_per_t": samples,
        "speed_percent": percent,
        "speed_samples_min": least,
        "last_ms": last_ms,
        "tokens": tokens,
        "us_per_t": value,
        "passes": is_fast_enough(held, value, params),
    }


def window_case(size: int, share: int, given: list[tuple[int, int, int]]) -> Json:
    """Drawn sessions (user, provider, µs per T) as they come, and the samples that are left of them."""
    params = NetworkParams(speed_samples=size, speed_share=share)
    drawn = [Timed(_address(0, user), _address(1, provider), value, 1) for user, provider, value in given]
    return {
        "speed_samples": size,
        "speed_share": share,
        "given": given,
        "kept_us_per_t": [sample.us_per_t for sample in with_samples((), drawn, params)],
    }


def draw_case(size: int, beacon: int, tokens: list[int]) -> Json:
    """Passed sessions of a batch by their T, and which of them become samples."""
    passed = [Timed(_address(0, number), _address(1, number), number, held) for number, held in enumerate(tokens)]
    seed, model_id = (Digest(number.to_bytes(32, "big")) for number in (beacon, 7))
    drawn = draw_timed(passed, seed, model_id, NetworkParams(speed_samples=size))
    return {
        "speed_samples": size,
        "beacon": "0x" + seed.hex(),
        "model_id": "0x" + model_id.hex(),
        "tokens": tokens,
        "drawn": [one.us_per_t for one in drawn],
    }


def bootstrap_case(day: int, credited: dict[int, int], providers: int = 100) -> Json:
    params = NetworkParams(bootstrap_providers=providers)
    reserve = bootstrap_reserve(day, terms_of(bootstrap_providers=providers))
    wei = {_address(2, number): amount for number, amount in credited.items()}
    shares = bootstrap_shares(wei, reserve, params)
    return {
        "day": day,
        "reserve_wei": str(reserve),
        "reserve_before_wei": str(reserve_until(day, terms_of())),
        "providers": providers,
        "credited_wei": {"0x" + who.hex(): str(amount) for who, amount in wei.items()},
        "shares_wei": {"0x" + who.hex(): str(amount) for who, amount in sorted(shares.items())},
    }


def make_vectors() -> Json:
    """All of them."""
    return {
        "access": [
            access_case(10_000_000 * MOR, 3_000 * MOR, 10**11, [5 * MOR, 500 * MOR, 1, 0, 10_000_000 * MOR]),
            access_case(10_000_000 * MOR, 3_456 * MOR, 10**11, [5 * MOR, MOR // 3]),
            access_case(7, 3, 2, [1, 6, 7]),
        ],
        "dollars": [dollars_case("3000", "20", "0.002"), dollars_case("3456", "17.31", "0.0007")],
        "reference_price": [
            price_case(10**11, 0, 0),
            price_case(10**11, 10, 10**12),
            price_case(10**11, 10, 5 * 10**12),
            price_case(10**11, 10, 1),
            price_case(10**11, 3, 3 * 10**11 + 2),
            price_case(1, 5, 1),
            price_case(99, 100, 9_000),
            price_case(9, 1, 100, 25),
        ],
        "budget": [
            budget_case(day, credited, policy)
            for policy in ("emission", "pool")
            for day, credited in (
                (0, 0),
                (1, 0),
                (1, 3_456 * MOR),
                (100, 12_345 * MOR),
                (365, 0),
                (5_832, 0),
                (5_833, 0),
            )
        ],
        "speed": [
            speed_case([20_000] * 10, 3_000, 100),
            speed_case([20_000] * 10, 3_001, 100),
            speed_case([20_000] * 9, 10**9, 100),
            speed_case([10, 11, 12], 17, 1_000, least=3),
            speed_case([1] * 10, 1, 3, percent=0),
            speed_case(list(range(1, 101)), 76, 1_000),
            speed_case([1] * 5 + [20_000] * 6, 2_318, 100),
            speed_case([1] * 5 + [20_000] * 6, 2_319, 100),
            speed_case([20_000] * 6 + [10**9] * 5, 7_091, 100),
        ],
        "speed_window": [
            window_case(10, 5, [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 2, 4), (2, 2, 5)]),
            window_case(5, 1, [(number, number, number) for number in range(8)]),
            window_case(4, 4, [(0, 0, 1), (1, 1, 2), (1, 1, 3), (1, 1, 4), (1, 1, 5), (2, 2, 6)]),
        ],
        "speed_draw": [
            draw_case(100, 1, [500] * 4),
            draw_case(100, 2, [1] * 600),
            draw_case(100, 3, [100] * 100),
            draw_case(10, 4, [1, 2, 3, 5_000, 1]),
            draw_case(100, 5, []),
        ],
        "bootstrap": [
            bootstrap_case(0, {1: 3 * MOR, 2: MOR, 3: 0}),
            bootstrap_case(1, {1: 1, 2: 1, 3: 1}),
            bootstrap_case(7, {1: 5, 2: 5, 3: 5, 4: 4}, providers=2),
            bootstrap_case(364, {number: number for number in range(1, 121)}),
            bootstrap_case(365, {1: MOR}),
            bootstrap_case(10, {}),
        ],
    }


def _address(kind: int, number: int) -> Address:
    return Address(bytes([kind]) + number.to_bytes(19, "big"))


def main(arguments: list[str], say: Callable[[str], object] = print) -> int:
    """0 where the file is as it should be, afterwards."""
    text = json.dumps(make_vectors(), indent=1) + "\n"
    if arguments == ["--check"]:
        is_same = PATH.read_text(encoding="utf-8") == text
        say(f"{PATH.name} is {'up to date' if is_same else 'not what the code says'}")
        return 0 if is_same else 1
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text, encoding="utf-8")
    say(f"wrote {PATH.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
