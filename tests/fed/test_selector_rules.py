# SPDX-License-Identifier: MIT
"""Each rule on a case that is worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.fed.game import Call
from kofn.fed.selectors import Outcome, Status, check_sizes, make_selector
from kofn.fed.selectors.base import draw, largest
from kofn.fed.selectors.fedcs import greedy
from kofn.fed.selectors.oort import OortSelector, OortSettings
from kofn.fed.selectors.tifl import TiFLSelector, rank_law, tiers_of
from kofn.fed.status import FIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = [f"c{i}" for i in range(10)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def outcome(
    name: str, *, loss: float = 1.0, seconds: float = 1.0, samples: int = 10, arrived: bool = True
) -> Outcome:
    return Outcome(
        name=name,
        duration_s=seconds,
        loss=loss if arrived else None,
        samples=samples if arrived else 0,
        arrived=arrived,
        loss_rms=loss if arrived else None,
    )


def test_a_draw_without_replacement_follows_its_weights() -> None:
    # P(a first) = 0.6, P(a second) = 0.3 * 0.6 / 0.7 + 0.1 * 0.6 / 0.9: 0.924 in all.
    weights = {"a": 0.6, "b": 0.3, "c": 0.1}
    generator = rng(1)
    drawn = [draw(["c", "b", "a"], 2, generator, weights) for _ in range(4000)]
    share = np.mean(["a" in pair for pair in drawn])
    assert share == pytest.approx(0.6 + 0.3 * 0.6 / 0.7 + 0.1 * 0.6 / 0.9, abs=0.02)
    assert all(len(set(pair)) == 2 for pair in drawn)
    assert set(draw(NAMES, 3, generator, {"c1": 1.0, "c2": 1.0})) > {"c1", "c2"}


def test_ties_are_broken_by_the_generator() -> None:
    same = dict.fromkeys(NAMES, 1.0)
    first = Counter(largest(NAMES, 1, same, rng(i))[0] for i in range(500))
    assert len(first) == len(NAMES)


def test_random_chooses_every_set_equally_often() -> None:
    selector = make_selector("random")
    seen = Counter(frozenset(selector.select(1, NAMES[:4], 2, rng(i)).clients) for i in range(3000))
    assert len(seen) == 6
    assert max(seen.values()) < 1.25 * min(seen.values())


def test_power_of_choice_takes_the_largest_losses_of_its_candidates() -> None:
    selector = make_selector("power-of-choice", k=5)
    selector.register(NAMES)
    request = selector.wants(1, NAMES, rng())
    assert request.what == "loss"
    assert request.samples is None
    losses = {name: float(i) for i, name in enumerate(request.clients)}
    replies = [Status(name=name, loss=x, samples=9) for name, x in losses.items()]
    # The one with the largest loss stays silent, so it comes last.
    selector.observe(1, replies[:-1])
    chosen = selector.select(1, NAMES, 3, rng()).clients
    assert list(chosen) == [request.clients[3], request.clients[2], request.clients[1]]
    assert make_selector("power-of-choice-batch", k=5).wants(1, NAMES, rng()).samples == 20


def test_candidates_are_drawn_by_their_number_of_samples() -> None:
    selector = make_selector("power-of-choice", k=1)
    selector.update(1, [outcome(name, samples=10) for name in NAMES[:9]])
    selector.update(1, [outcome("c9", samples=90)])
    drawn = Counter(selector.wants(2, NAMES, rng(i)).clients[0] for i in range(1000))
    assert drawn["c9"] / 1000 == pytest.approx(0.5, abs=0.06)


def test_the_cached_variant_polls_nobody_and_takes_the_unseen_first() -> None:
    selector = make_selector("power-of-choice-cached", k=10)
    selector.register(NAMES)
    selector.update(1, [outcome(name, loss=float(i)) for i, name in enumerate(NAMES[:8])])
    request = selector.wants(2, NAMES, rng())
    assert not request.clients
    chosen = selector.select(2, NAMES, 4, rng()).clients
    assert set(chosen[:2]) == {"c8", "c9"}
    assert list(chosen[2:]) == ["c7", "c6"]


def oort(**settings: float) -> OortSelector:
    quiet = {"explore": 0.0, "explore_least": 0.0, "over_commit": 1.0}
    return OortSelector(settings=OortSettings(**{**quiet, **settings}))  # type: ignore[arg-type]


def test_oort_scores_by_utility_staleness_and_speed() -> None:
    selector = oort(clip=100.0, pacer_percentile=50.0)
    selector.update(4, [outcome("a", loss=1.0, seconds=2.0), outcome("b", loss=3.0, seconds=2.0)])
    selector.update(9, [outcome("c", loss=2.0, seconds=8.0)])
    score = selector.scores(["a", "b", "c", "never"], 10)
    stale4, stale9 = (math.sqrt(0.1 * math.log(10) / last) for last in (4, 9))
    # U = 10, 30, 20, scaled to 0, 1, 0.5; T = 2 s, so c is discounted by (2 / 8)^2.
    assert score == pytest.approx({"a": stale4, "b": 1 + stale4, "c": (0.5 + stale9) / 16})
    assert selector.select(10, ["a", "b", "c"], 1, rng()).clients == ("b",)


def test_oort_clips_what_one_client_claims() -> None:
    selector = oort(clip=50.0)
    losses = [1.0, 2.0, 1e6]
    selector.update(1, [outcome(name, loss=x) for name, x in zip("abc", losses, strict=True)])
    score = selector.scores(["a", "b", "c"], 2)
    assert score["b"] == pytest.approx(score["c"])


def test_oort_explores_the_unseen_less_and_less() -> None:
    selector = OortSelector(settings=OortSettings(over_commit=1.0))
    assert selector.exploring(1) == pytest.approx(0.9)
    assert selector.exploring(1000) == pytest.approx(0.2)
    selector.update(1, [outcome(name) for name in NAMES[:5]])
    chosen = selector.select(1000, NAMES, 5, rng()).clients
    assert len(set(chosen) & set(NAMES[5:])) == 1


def test_oort_sends_out_more_and_keeps_the_first() -> None:
    selection = OortSelector().select(1, [f"x{i}" for i in range(50)], 10, rng())
    assert (len(selection.clients), selection.keep) == (13, 10)


def test_oort_slows_its_pace_when_utility_is_flat() -> None:
    def after(utilities: Sequence[float]) -> float:
        selector = oort(pacer_step=2)
        for server_round, utility in enumerate(utilities, start=1):
            selector.update(server_round, [outcome("a", loss=utility)])
        return selector.percentile

    assert after([1, 1, 1, 1]) == 55
    assert after([1, 1, 2, 2]) == 50


def test_oort_leaves_out_who_took_part_too_often() -> None:
    selector = oort(most_rounds=3)
    for server_round in (1, 2, 3):
        selector.update(server_round, [outcome("a", loss=9.0)])
    selector.update(4, [outcome(name) for name in ("b", "c")])
    assert "a" not in selector.select(5, ["a", "b", "c"], 2, rng()).clients


def test_fedcs_adds_whoever_lengthens_the_round_least() -> None:
    # (compute, upload): b ends at 1 + 1 = 2; a computes meanwhile and adds its upload: 2 + 2 = 4;
    # c is still computing then and ends at max(4, 9) + 1 = 10.
    times = {"a": (1.0, 2.0), "b": (1.0, 1.0), "c": (9.0, 1.0)}
    assert greedy(times, 100, 3) == (["b", "a", "c"], 10.0)
    assert greedy(times, 5.0, 3) == (["b", "a"], 4.0)
    assert greedy(times, 0.5, 3) == (["b"], 2.0)
    assert greedy(times, 100, 2)[0] == ["b", "a"]


def test_fedcs_keeps_the_time_of_a_round() -> None:
    selector = make_selector("fedcs", k=3, round_s=5.0)
    request = selector.wants(1, NAMES[:3], rng())
    assert request.what == "resources"
    times = [(1.0, 2.0), (1.0, 1.0), (9.0, 1.0)]
    selector.observe(
        1,
        [
            Status(name=name, compute_s=c, upload_s=u)
            for name, (c, u) in zip(NAMES, times, strict=False)
        ],
    )
    selection = selector.select(1, NAMES[:3], 3, rng())
    assert selection.clients == ("c1", "c0")
    assert selection.deadline_s == pytest.approx(6.0)


def test_tiers_are_equal_parts_by_latency_and_the_least_accurate_is_drawn_most() -> None:
    latency = {name: float(i) for i, name in enumerate(NAMES)}
    assert [tiers_of(latency, 5)[name] for name in NAMES] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    # Three tiers: (3 - i) / 3 for the i-th from below.
    assert rank_law([0.9, 0.2, 0.5]) == pytest.approx([0.0, 2 / 3, 1 / 3])


def test_tifl_profiles_once_and_trains_one_tier_a_round() -> None:
    selector = TiFLSelector(tiers=2, credits_=(10**9, 2))
    assert set(selector.wants(1, NAMES, rng()).clients) == set(NAMES)
    profile = [Status(name=name, compute_s=float(i), upload_s=1.0) for i, name in enumerate(NAMES)]
    selector.observe(1, profile)
    assert not selector.wants(2, NAMES, rng()).clients
    fast, slow = set(NAMES[:5]), set(NAMES[5:])
    picks = [set(selector.select(r, NAMES, 3, rng(r)).clients) for r in range(1, 15)]
    assert all(pick <= fast or pick <= slow for pick in picks)
    assert sum(pick <= slow for pick in picks) == 2  # its credits
    # A tier that is too small is filled from the next one.
    assert len(selector.select(15, NAMES, 8, rng()).clients) == 8


def with_statuses(bins: dict[str, int], call: str, k: int = 6, **settings: object) -> object:
    selector = make_selector("fixed-call", k=k, call=call, **settings)
    selector.register(NAMES)
    selector.wants(1, NAMES, rng())
    selector.observe(1, [])
    opening = selector.select(1, NAMES, 4, rng())
    assert opening.keep == 2
    selector.update(
        1, [outcome(name, seconds=7.0, arrived=i < 2) for i, name in enumerate(opening.clients)]
    )
    asked = selector.wants(2, NAMES, rng()).clients
    selector.observe(2, [Status(name=name, bin=bins[name]) for name in asked if name in bins])
    return selector


def test_a_call_recruits_its_bins_and_fills_the_rest_from_the_unpolled() -> None:
    # Everybody slow and low, but those with even numbers: fast and high.
    bins = {name: FIVE.index(1, 1) if i % 2 == 0 else 0 for i, name in enumerate(NAMES)}
    selector = with_statuses(bins, "both")
    asked = set(selector._asked)  # type: ignore[attr-defined]
    matching = {name for name in asked if bins[name] == 3}
    chosen = set(selector.select(2, NAMES, 6, rng()).clients)  # type: ignore[attr-defined]
    assert matching <= chosen
    # Filled from those that were not asked, as far as they go.
    assert len((chosen - matching) & (set(NAMES) - asked)) == min(6 - len(matching), 4)


def test_a_call_has_a_deadline_and_efforts_by_bin() -> None:
    selector = with_statuses(dict.fromkeys(NAMES, 3), "fast")
    selection = selector.select(2, NAMES, 3, rng())  # type: ignore[attr-defined]
    limit = selector.limit_s  # type: ignore[attr-defined]
    # All six call themselves fast: the limit of 7 s moved down, by six tenths of a full step.
    assert limit == pytest.approx(7.0 * math.exp(0.6 * 0.5 * (0.5 - 1)))
    assert selection.deadline_s == pytest.approx(0.8 * limit)
    (config,) = {str(sorted(c.items())) for c in selection.per_client_config.values()}
    assert "'1,5,1,5'" in config
    assert selection.call == "fast"


def test_polls_go_to_all_registered_clients_or_on_request_to_those_online() -> None:
    for frame, frames in (("registered", set(NAMES)), ("online", set(NAMES[:3]))):
        selector = make_selector("fixed-call", k=10, call="all", frame=frame)
        selector.register(NAMES)
        assert set(selector.wants(1, NAMES[:3], rng()).clients) == frames


def test_a_silent_client_counts_as_offline() -> None:
    selector = with_statuses({}, "all", k=6)
    assert selector.counts.tolist() == [6, 0, 0, 0, 0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("fixed-call", {"k": 5, "call": "never"}, "there is no call 'never'"),
        ("fixed-call", {}, "needs k"),
        ("mean-field", {"k": 0}, "poll size 0 is not a whole number of at least 1"),
        ("mean-field", {"k": 5, "refit": "later"}, "refit is 'later'"),
        ("fixed-call", {"k": 5, "frame": "all"}, "frame is 'all'"),
        ("mean-field", {"k": 5, "speed": 3}, "does not take the settings k, speed"),
        ("fedcs", {"k": 5, "round_s": -1}, "round_s -1 is not a positive time"),
        ("tifl", {"tiers": 3}, "5 credits are given for 3 tiers"),
        (
            "fixed-call",
            {"k": 3, "calls": (Call(name="x", speed="warp"),), "call": "x"},
            "recruits 'warp', which no declared bin is",
        ),
    ],
)
def test_bad_settings_are_one_sentence(
    name: str, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        make_selector(name, **settings)  # type: ignore[arg-type]


def test_sizes_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(InputError, match="poll size 101 exceeds the 100 registered clients"):
        check_sizes("mean-field", n=100, m=10, k=101)
    with pytest.raises(InputError, match="poll size 5 is below the 10 clients that power"):
        check_sizes("power-of-choice", n=100, m=10, k=5)
    check_sizes("mean-field", n=100, m=10, k=5)
