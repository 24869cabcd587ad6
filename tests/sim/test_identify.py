# SPDX-License-Identifier: MIT
"""Identification finds the kernel that moved the robots, and says when there is no such kernel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import drawn, info, ring_kernel

from kofn.controller.core.errors import InputError
from kofn.controller.core.presets import arena
from kofn.sim.identify import from_recordings, identify, tally
from kofn.sim.kernel import Kernel, bin_of, default_bins, l1_rows
from kofn.sim.kernel_checks import dispersion, intervals
from kofn.sim.recording import Recording, WorldConfig, record_replicas

FIRST = (0, 4, 6, 8, 11)
CROWDED = [0.9, 0.8, 0.7, 0.6, 0.5]

# P(. | zone 0, action) of ten robots in the default ring: 300 option steps of
# `kofn identify ring20 --robots 10 --option-steps 300 --seed 77`.
TEN_ROBOTS = np.array(
    [
        [0.996, 0.003, 0.0, 0.0, 0.001],
        [0.066, 0.933, 0.0, 0.0, 0.0],
        [0.042, 0.0, 0.0, 0.0, 0.958],
    ]
)


def identified(
    P: Any, *, steps: int = 400, seed: int = 0, stuck: float = 0.0, **keys: Any
) -> Kernel:
    first, chance = keys.pop("first", FIRST), keys.pop("chance", None)
    recording = drawn(P, FIRST[: len(P)], n=30, steps=steps, seed=seed, stuck=stuck)
    about = info(symmetry="ring", **keys)
    return from_recordings([recording], arena(), about, first=first, chance=chance)


def test_moves_are_counted_by_crowd_zone_action_and_outcome() -> None:
    zones = np.array([[0, 0, 0, 1], [1, 0, -1, 1], [1, 1, 2, 2]])
    actions = np.array([[1, 1, 2, 0], [0, 1, -1, 1]])
    recording = Recording(zones, actions, np.array([3, 3]), np.full(2, -1))
    counts = tally([recording], arena(), (0, 2), by_target=False)
    assert counts.sum() == 6  # robot 2 was away after the first option and before the second
    assert counts[0, 1, 0, 1].tolist() == [1, 1, 0, 0, 0]  # from a zone with three robots
    assert counts[0, 0, 1, 0].tolist() == [0, 1, 0, 0, 0]
    assert counts[0, 1, 1, 0].tolist() == [0, 1, 0, 0, 0]  # two robots in zone 1 by then
    assert counts[0, 1, 1, 1].tolist() == [0, 0, 1, 0, 0]
    by_target = tally([recording], arena(), (0, 2), by_target=True)
    assert by_target.shape == (5, 2, 5, 3, 5)
    assert np.array_equal(by_target[3], counts[0])


def test_default_bins_are_those_of_thirty_robots_and_scale_with_the_crowd() -> None:
    assert default_bins(30, 5, 5) == FIRST
    assert default_bins(60, 5, 5) == (0, 8, 12, 16, 22)
    assert default_bins(30, 5, 1) == (0,)
    assert bin_of(FIRST, np.array([0, 3, 4, 7, 8, 10, 11, 30])).tolist() == [0, 0, 1, 2, 3, 3, 4, 4]


def test_a_crowd_dependent_kernel_is_found_within_its_intervals() -> None:
    P = ring_kernel(CROWDED)
    kernel = identified(P)
    assert np.abs(kernel.binned[0] - P).sum(axis=-1).max() < 0.1
    low, high, radius = intervals(kernel, dispersion(kernel))
    truth = np.einsum("b,bsaz->saz", _weights(kernel), P)
    assert np.mean((truth >= low[0]) & (truth <= high[0])) > 0.8
    assert np.all(l1_rows(kernel.plain[0], truth) <= 2 * radius[0])
    assert radius.max() < 0.04


def _weights(kernel: Kernel) -> Any:
    per_bin = kernel.counts.sum(axis=(0, 2, 3, 4))
    return per_bin / per_bin.sum()


def test_intervals_narrow_with_the_root_of_the_data() -> None:
    few, many = (identified(ring_kernel([0.7]), steps=steps, first=(0,)) for steps in (100, 1600))
    ratio = intervals(few)[2][0, 0, 1] / intervals(many)[2][0, 0, 1]
    assert 3 < ratio < 5.5


def test_symmetry_pools_what_a_rotation_maps_on_each_other() -> None:
    kernel = identified(ring_kernel([0.7]), steps=60, first=(0,))
    for s in range(5):
        assert np.allclose(np.roll(kernel.plain[0, 0], s, axis=-1), kernel.plain[0, s])
    assert kernel.pooled.sum() == 5 * kernel.counts.sum()
    by_target = identified(ring_kernel([0.7]), steps=60, first=(0,), by_target=True)
    turned = np.roll(by_target.plain, (2, 2, 2), axis=(0, 1, 3))
    assert np.allclose(turned, by_target.plain)


def test_checks_warn_of_crowds_and_of_memory_and_of_nothing_else() -> None:
    crowded = identified(ring_kernel(CROWDED))
    assert [warning.split()[0] for warning in crowded.info.warnings] == ["density"]
    assert crowded.info.checks["density"]["spread"] > 0.3
    even = identified(ring_kernel([0.7]))
    assert even.info.warnings == []
    assert even.info.checks["density"]["spread"] < 0.1
    assert 0.8 < even.info.checks["overdispersion"]["1"] < 1.25
    sticky = identified(ring_kernel([0.7]), stuck=0.7)
    assert [warning.split()[0] for warning in sticky.info.warnings] == ["markov"]
    success = sticky.info.checks["markov"]["success"]
    assert success["failed"] < 0.4 < success["succeeded"]


def test_what_outlasts_an_option_widens_the_intervals() -> None:
    slow = [
        drawn(ring_kernel([success]), (0,), n=30, steps=20, seed=seed)
        for seed, success in enumerate([0.6, 0.8] * 10)
    ]
    about = info(symmetry="ring")
    kernel = from_recordings(slow, arena(), about, first=(0,))
    checks = kernel.info.checks
    assert checks["overdispersion_of_ten"]["1"] > 2 * checks["overdispersion"]["1"]
    assert dispersion(kernel) == max(checks["overdispersion_of_ten"].values())
    # The two kinds of arenas are twenty samples of the success, not 12 000 moves.
    radius = intervals(kernel, dispersion(kernel))[2][0, 0, 1]
    assert radius > 1.5 * intervals(kernel)[2][0, 0, 1]


@pytest.mark.parametrize("matters", ["how far along", "how far out"])
def test_weights_take_out_the_luck_of_the_draw_and_leave_the_long_run(matters: str) -> None:
    P, even = ring_kernel(CROWDED), np.full((5, 5, 3), 1 / 3)

    def success(steps: int, seed: int) -> tuple[float, float]:
        recording = drawn(P, FIRST, n=30, steps=steps, seed=seed)
        rng = np.random.default_rng(seed)
        z, a = recording.zones[:-1], recording.actions
        crowd = (z[:, :, None] == z[:, None, :]).sum(axis=2)
        failed = 1.0 - np.array(CROWDED)[bin_of(FIRST, crowd)]
        # Who stood well gets there; robots stand anywhere in a zone, whatever they draw.
        x = rng.random(z.shape)
        way = np.where(recording.zones[1:] == z, x * failed, failed + x * (1.0 - failed))
        way = np.where(a == 0, x, way)
        if matters == "how far along":
            along, out = np.where(a == 2, 1.0 - way, way), np.zeros_like(way)
        else:
            along, out = rng.random(z.shape), way
        angle = (z + along) * 2 * np.pi / 5
        ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        placed = replace(recording, places=(1.0 + out)[..., None] * ray)
        plain, fair = (
            from_recordings([placed], arena(), info(symmetry="ring"), first=FIRST, chance=chance)
            for chance in (None, even)
        )
        assert fair.counts.sum() == plain.counts.sum()
        return float(plain.plain[0, 0, 1, 1]), float(fair.plain[0, 0, 1, 1])

    truth = success(6000, 99)
    assert abs(truth[0] - truth[1]) < 0.004
    errors = np.array([success(60, seed) for seed in range(60)]) - truth[0]
    raw, fair = (errors**2).mean(axis=0)
    assert fair < 0.75 * raw
    assert abs(errors[:, 1].mean()) < 3 * np.sqrt(fair / 60)


def test_the_ideal_kernel_is_what_actions_are_for() -> None:
    kernel = identified(ring_kernel([0.3]))  # moves mostly fail
    assert kernel.purpose[:, 1].tolist() == [1, 2, 3, 4, 0]
    assert kernel.purpose[:, 2].tolist() == [4, 0, 1, 2, 3]
    assert kernel.purpose[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(kernel.ideal[0, 0, 1], [0, 1, 0, 0, 0])


def test_a_bin_that_was_never_met_says_what_the_plain_kernel_says() -> None:
    kernel = identified(ring_kernel([0.7]), first=(0, 29))
    assert kernel.counts[0, 1].sum() == 0
    assert np.allclose(kernel.binned[0, 1], kernel.plain[0])


def test_a_kernel_file_holds_everything_and_no_pickle(tmp_path: Path) -> None:
    kernel = identified(ring_kernel(CROWDED), chance=np.full((5, 5, 3), 1 / 3))
    assert kernel.weighted is not None
    assert not np.array_equal(kernel.weighted, kernel.counts)
    path = tmp_path / "kernel.npz"
    kernel.save(path)
    again = Kernel.load(path)
    assert again.sha256 == kernel.sha256
    assert again.info == kernel.info
    assert np.array_equal(again.binned, kernel.binned)
    assert again.game().sha256 == kernel.game().sha256
    with np.load(path, allow_pickle=False) as file:  # what a finite world reads
        assert file["P"].shape == (1, 5, 5, 3, 5)
        share = np.array([3, 4, 10, 11]) / 30
        assert np.searchsorted(file["edges"], share).tolist() == [0, 1, 3, 4]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="is not a kofn kernel, or is truncated or damaged"):
        Kernel.load(path)


def test_data_that_do_not_fit_the_game_are_refused() -> None:
    recording = Recording(
        np.full((2, 3), 7), np.zeros((1, 3), int), np.zeros(1, int), np.zeros(1, int)
    )
    with pytest.raises(InputError, match="zone 7, the game has 5"):
        tally([recording], arena(), (0,), by_target=False)
    with pytest.raises(InputError, match=r"option steps 0 must be at least 1"):
        identify(WorldConfig(robots=4), arena(), option_steps=0)
    with pytest.raises(InputError, match=r"arenas 0 must be at least 1"):
        identify(WorldConfig(robots=4), arena(), arenas=0)
    with pytest.raises(InputError, match="game 'arena' has 4 zones, the arena has 5"):
        identify(WorldConfig(robots=4), arena(zones=4))


@pytest.mark.bullet
def test_ten_robots_in_physics_give_the_stored_kernel(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pybullet", reason="PyBullet is not installed: no physics to identify")
    config = WorldConfig(robots=10)
    seen = []

    def kernel(workers: int) -> Kernel:
        return identify(
            config, arena(), option_steps=20, workers=workers, symmetry="ring", seed=5,
            watch=lambda done, total: seen.append((done, total)),
        )  # fmt: skip

    first = kernel(1)
    assert first.info.transitions == 200
    assert "luck_l1" not in first.info.checks  # too few options for weights
    assert l1_rows(first.plain[0, 0], TEN_ROBOTS).max() <= 0.2
    assert first.plain[0, 0, 0, 0] >= 0.9
    assert seen[-1] == (20, 20)
    assert capfd.readouterr().out == ""


@pytest.mark.bullet
def test_a_recording_does_not_depend_on_the_number_of_processes() -> None:
    pytest.importorskip("pybullet", reason="PyBullet is not installed: no physics to record")
    from kofn.sim.recording import Play

    config, play = WorldConfig(robots=3), Play.uniform(5, 3)
    alone, shared = (
        record_replicas(config, play, 6, seed=9, workers=workers, burn_in=1, replica_steps=3)
        for workers in (1, 2)
    )
    assert len(alone) == 2
    for a, b in zip(alone, shared, strict=True):
        assert np.array_equal(a.zones, b.zones)
        assert np.array_equal(a.actions, b.actions)
    assert not np.array_equal(alone[0].zones, alone[1].zones)
