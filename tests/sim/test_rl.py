# SPDX-License-Identifier: MIT
"""The environments keep the libraries' contracts and pay what `rollout` and the exact value say."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs kofn[rl]")
pytest.importorskip("pettingzoo", reason="needs kofn[rl]")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from pettingzoo.test import parallel_api_test, parallel_seed_test  # noqa: E402

from kofn.controller.core import Game, InitialLaw, Policy, evaluate_exactly, load_game, rollout  # noqa: E402
from kofn.controller.core.errors import InputError, RunError  # noqa: E402
from kofn.controller.core.grid import all_counts, grid_points  # noqa: E402
from kofn.sim.finite import FiniteWorld  # noqa: E402
from kofn.sim.motion import MotionKernel  # noqa: E402
from kofn.sim.recording import WorldConfig  # noqa: E402
from kofn.sim.rl import DISPATCHER_ID, DispatcherEnv, SwarmEnv  # noqa: E402

if TYPE_CHECKING:
    from kofn.sim.world import IntArray

SLOW_BULLET = pytest.param("bullet", marks=(pytest.mark.bullet, pytest.mark.slow))


def _need(world: object) -> None:
    if world == "bullet":
        pytest.importorskip("pybullet", reason="needs kofn[sim]")


def _game(local_sees: str = "current", **settings: Any) -> Game:
    """Two targets, three states, all tables different from each other."""
    rng = np.random.default_rng(4)
    P_g, P_l = rng.dirichlet(np.ones(2), (2, 2)), rng.dirichlet(np.ones(3), (2, 3, 2))
    r_g, r_l = rng.random((2, 2)), rng.random((2, 3, 2))
    return Game(P_g, r_g, P_l, r_l, 0.9, local_sees=local_sees, horizon=8, **settings)  # type: ignore[arg-type]


def _policy(game: Game, k: int, **settings: Any) -> Policy:
    """A table and a local policy without any pattern."""
    rng = np.random.default_rng(5)
    action = rng.integers(0, 2, (2, grid_points(k, 3)))
    return Policy(game, k, action, rng.dirichlet(np.ones(2), (2, 3)), **settings)


def _returns(episode: Callable[[int], float], episodes: int) -> tuple[float, float]:
    values = np.array([episode(seed) for seed in range(episodes)])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(episodes))


def _dispatcher_returns(env: DispatcherEnv, policy: Policy, episodes: int) -> tuple[float, float]:
    table = {
        (s_g, *counts): policy.decide(s_g, counts)
        for s_g in range(2)
        for counts in all_counts(env.k, 3).tolist()
    }

    def episode(seed: int) -> float:
        seen, _ = env.reset(seed=seed)
        total, weight, over = 0.0, 1.0, False
        while not over:
            seen, reward, _, over, _ = env.step(table[tuple(seen.tolist())])
            total, weight = total + weight * reward, weight * env.game.gamma
        return total

    return _returns(episode, episodes)


def _swarm_returns(env: SwarmEnv, policy: Policy, episodes: int) -> tuple[float, float]:
    rng = np.random.default_rng(6)

    def episode(seed: int) -> float:
        seen, _ = env.reset(seed=seed)
        total, weight = 0.0, 1.0
        while env.agents:
            actions = {
                name: np.int64(rng.random() < policy.pi_l[row[1], row[0], 1])
                for name, row in seen.items()
            }
            seen, rewards, *_ = env.step(actions)
            assert len(set(rewards.values())) == 1
            total, weight = total + weight * rewards["robot_0"], weight * env.game.gamma
        return total

    return _returns(episode, episodes)


@pytest.mark.parametrize(
    "world", [None, "finite", "kinematic", pytest.param("bullet", marks=pytest.mark.bullet)]
)
def test_the_dispatcher_passes_gymnasium_own_checks(world: str | None) -> None:
    _need(world)
    env = gymnasium.make(DISPATCHER_ID, game="arena", n=6, k=2, world=world, horizon=5)
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("world", ["finite", "kinematic", SLOW_BULLET])
def test_the_swarm_passes_pettingzoo_own_checks(world: str, capsys: Any) -> None:
    _need(world)

    def make() -> SwarmEnv:
        return SwarmEnv("arena", n=4, k=2, world=world, horizon=6)

    env = make()
    parallel_api_test(env, num_cycles=20)
    env.close()
    parallel_seed_test(make, num_cycles=20)


def test_worlds_of_another_size_and_other_worlds_are_taken_by_their_factory() -> None:
    grid = WorldConfig(backend="kinematic", robots=5)
    env = SwarmEnv("arena", n=5, k=2, world=grid.build, horizon=3)
    _, infos = env.reset(seed=1)
    assert all(info == {"up": True} for info in infos.values())
    env.close()
    with pytest.raises(
        InputError, match="a world of 5 robots, 5 zones and 3 actions for a game of 6"
    ):
        SwarmEnv("arena", n=6, k=2, world=grid.build)


@pytest.mark.parametrize("local_sees", ["current", "next"])
@pytest.mark.parametrize("world", [None, "finite"])
def test_a_dispatcher_earns_the_exact_value(local_sees: str, world: str | None) -> None:
    game = _game(local_sees)
    policy = _policy(game, 2)
    env = DispatcherEnv(game, n=5, k=2, local=policy, world=world)
    mean, error = _dispatcher_returns(env, policy, 200)
    assert abs(mean - evaluate_exactly(game, policy, n=5, k=2)) < 4 * error
    assert error < 0.08


def test_a_swarm_earns_what_rollouts_do_with_and_without_memory() -> None:
    game = _game(initial=InitialLaw(s_g=[0.8, 0.2], alpha=0.3))
    for memory, policy in (("none", _policy(game, 2)), ("auto", _policy(game, 2, memory=9.0))):
        env = SwarmEnv(game, n=5, k=2, dispatcher=policy, memory=memory)
        mean, error = _swarm_returns(env, policy, 200)
        played = rollout(game, policy, n=5, k=2, rollouts=10000, memory=memory)
        assert abs(mean - played.mean) < 4 * np.hypot(error, played.stderr)


def test_robots_choose_before_they_see_the_next_target() -> None:
    game = _game("next")
    policy = _policy(game, 2)
    env = SwarmEnv(game, n=5, k=2, dispatcher=policy)
    mean, error = _swarm_returns(env, policy, 200)
    played = rollout(game, policy, n=5, k=2, rollouts=10000, act_first=True)
    assert abs(mean - played.mean) < 4 * np.hypot(error, played.stderr)


class _Fallen(FiniteWorld):
    """A finite world whose robot 0 does not work."""

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self.condition.up[0] = False
        self.condition.why[0] = "fell over"


def test_a_fallen_robot_is_neither_polled_nor_paid() -> None:
    game = _game()

    def world() -> FiniteWorld:
        return _Fallen(4, MotionKernel.of_game(game))

    env = DispatcherEnv(game, n=4, k=4, world=world)
    seen, info = env.reset(seed=3)
    assert seen[1:].sum() == info["counts"].sum() == 3
    swarm = SwarmEnv(game, n=4, k=4, world=world)
    observations, infos = swarm.reset(seed=3)
    assert [info["up"] for info in infos.values()] == [False, True, True, True]
    where = {name: int(row[0]) for name, row in observations.items()}
    s_g = int(observations["robot_1"][1])
    actions = {name: np.int64(i % 2) for i, name in enumerate(swarm.agents)}
    after, rewards, *_ = swarm.step(actions)
    a_g = int(np.argmax(game.P_g[s_g, :, s_g]))
    local = [game.r_l[s_g, where[f"robot_{i}"], i % 2] for i in (1, 2, 3)]
    assert rewards["robot_0"] == pytest.approx(game.r_g[s_g, a_g] + np.mean(local))
    assert after["robot_0"][0] == where["robot_0"]


def test_hundreds_of_millions_of_agents_cost_no_more_than_ten() -> None:
    env = DispatcherEnv("ring-current", n=999_999_999, k=20)
    seen, info = env.reset(seed=1)
    for action in range(5):
        seen, _, _, _, info = env.step(action)
        assert seen[1:].sum() == 20
        assert info["counts"].sum() == 999_999_999


@pytest.mark.parametrize("world", [None, "kinematic"])
def test_pictures_show_the_robots_or_their_shares(world: str | None) -> None:
    pytest.importorskip("PIL", reason="needs kofn[rl]")
    env = DispatcherEnv("arena", n=8, k=3, world=world, render_mode="rgb_array", horizon=4)
    env.reset(seed=1)
    first = env.render()
    env.step(0)
    second = env.render()
    assert first is not None
    assert second is not None
    assert first.shape == ((360, 640, 3) if world is None else (720, 1280, 3))
    assert np.any(first != second)
    green = (second == (0, 0x84, 0x5C)).all(axis=-1)
    assert green.sum() > 50  # the target
    env.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"game": "chess"}, "unknown game 'chess'"),
        ({"n": 0}, "fleet size 0 is not a whole number from 1 to 999999999"),
        ({"n": 4, "k": 5}, "poll size 5 exceeds fleet size 4"),
        ({"k": 2.5}, "poll size 2.5 is not a whole number"),
        ({"horizon": 0}, "horizon 0 is not a whole number from 1"),
        ({"world": "mars"}, "unknown world 'mars'; known are bullet, kinematic, finite"),
        ({"render_mode": "human"}, "render_mode is 'human', not None or one of rgb_array"),
    ],
)
def test_bad_arguments_get_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    for make in (DispatcherEnv, SwarmEnv):
        with pytest.raises(InputError, match=sentence):
            make(**settings)


def test_bad_policies_and_actions_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fleet size 1000000000 is not a whole number from 1"):
        DispatcherEnv(n=10**9)
    with pytest.raises(InputError, match="100001 robots as agents, the limit is 100000"):
        SwarmEnv(n=100_001)
    with pytest.raises(InputError, match="pi_l has shape"):
        DispatcherEnv("arena", local=np.full((5, 5, 2), 0.5))
    with pytest.raises(InputError, match="cannot read policy"):
        SwarmEnv("arena", dispatcher=tmp_path / "none.npz")
    with pytest.raises(InputError, match="was made for game"):
        SwarmEnv("arena", dispatcher=Policy.uniform(load_game("ring-paper"), 2))
    env = DispatcherEnv("arena", n=4, k=2)
    with pytest.raises(RunError, match="reset it first"):
        env.step(0)
    env.reset(seed=1)
    for action in (5, -1, 0.5, "x"):
        with pytest.raises(InputError, match="is not a whole number from 0 to 4"):
            env.step(action)  # type: ignore[arg-type]
    env.step(np.array(4))  # type: ignore[arg-type]
    swarm = SwarmEnv("arena", n=2, k=1)
    with pytest.raises(RunError, match="reset the environment first"):
        swarm.step({})
    swarm.reset(seed=1)
    one: dict[str, Any] = {"robot_0": 0}
    with pytest.raises(InputError, match="no action for agent robot_1"):
        swarm.step(one)
    with pytest.raises(InputError, match="'robot_2', which is no agent"):
        swarm.step(one | {"robot_1": 0, "robot_2": 0})
    with pytest.raises(InputError, match="action of robot_1 3 is not a whole number from 0 to 2"):
        swarm.step(one | {"robot_1": 3})


def test_state_is_what_a_central_critic_needs() -> None:
    env = SwarmEnv("arena", n=7, k=2)
    seen, _ = env.reset(seed=2)
    state: IntArray = env.state()
    assert env.state_space.contains(state)
    zones = [int(row[0]) for row in seen.values()]
    assert state[1:].tolist() == np.bincount(zones, minlength=5).tolist()
    assert {int(row[1]) for row in seen.values()} == {int(state[0])}


def test_without_the_libraries_one_sentence_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "try:\n    import kofn.sim.rl\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "kofn.sim.rl needs Gymnasium and PettingZoo: pip install 'kofn[rl]'\n"


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_example_of_the_docs_learns(whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reinforcement-learning.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    if not whole:  # fewer episodes: it has learned something, not all that the page says
        block = block.replace("range(300)", "range(100)").replace("in range(100)]", "in range(20)]")
    exec(compile(block, "reinforcement-learning.md", "exec"), {})  # noqa: S102
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    mean = {words[0]: float(words[1]) for words in lines}
    assert mean["random"] + (30 if whole else 10) < mean["Q-learning"] < mean["kofn"]
