# SPDX-License-Identifier: MIT
"""A new policy on a running fleet, in stages: on a fleet of arithmetic, and once on processes."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kofn_process import Kofn, wait_for
from small_fleet import small_policy

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.messages import Cmd, Conn, Ctl, Event, Flag, Halt, Reply, Roster, Row
from kofn.controller.order_box import Op
from kofn.controller.record import Entry, Recorded, read_decisions, read_run
from kofn.controller.results import Decision
from kofn.hardware.local_socket import FILE, Ask, ask_agent
from kofn.launch.live_rollout import LiveRollout, RolloutSettings
from kofn.launch.parts import write_credentials
from kofn.launch.rollout_run import check_policy

OLD = small_policy()
NEW = Policy(OLD.game, OLD.grid, np.zeros_like(OLD.action), OLD.pi_l, memory=8.0)
ROBOTS = {"a": 1, "b": 2, "c": 3}
Trouble = Callable[["FakeFleet"], list[tuple[str, Recorded]]]


CTL = Ctl(ep=1, b="b", c=1, st="ONLINE", pace="realtime", period=1000, hold=3000, beat=0)


class FakeFleet:
    """Hosts a, b, c with 1, 2 and 3 robots; a step each time that somebody looks for records.

    `trouble` may add records before a decision; `out` are robots that say they are unavailable.
    """

    def __init__(self, trouble: Trouble = lambda _: [], out: Sequence[str] = ()) -> None:
        self.now_s, self.t = 0.0, 0
        self.orders: list[tuple[str, list[str]]] = []
        self.held: set[str] = set()
        self.silent = self.ended = False
        self.deaf: set[str] = set()
        self.answers = 1.0
        self.share = [1.0, 0, 0, 0]
        self.out, self.away = set(out), set[str]()
        self._trouble = trouble
        self.sha256 = OLD.sha256
        self._news: list[tuple[str, Recorded]] = [("", CTL)]
        for host, n in ROBOTS.items():
            ids = [f"{host}{i}" for i in range(n)]
            roster = Roster(b=host, pace="realtime", robots=ids, S="", G="", A="", have=[], sw="")
            self._news += [(host, Conn(b=host, c=1, st="ONLINE", n=n)), (host, roster)]

    def order(self, op: Op, hosts: Sequence[str] = (), *, file: str = "", why: str = "") -> None:
        assert why
        self.orders.append((op, list(hosts) or ([Path(file).stem] if file else [])))
        if self.deaf & set(hosts):
            raise RunError(f"{op}: deaf: no answer")
        if op == "policy" and not self.silent:
            self.sha256 = {"old": OLD, "new": NEW}[Path(file).stem].sha256
        (self.held.update if op == "hold" else self.held.difference_update)(hosts)
        for host in hosts:
            self._news.append((host, Cmd(ep=1, id="1", op=op.upper(), ttl=1)))  # type: ignore[arg-type]

    def entries(self) -> list[Entry]:
        news, self._news = self._news, []
        if not self.silent:
            self.t += 1
            news += self._trouble(self)
            loose = [f"{h}{i}" for h, n in ROBOTS.items() if h not in self.held for i in range(n)]
            rows = [Row(name, None, Flag.UNAVAILABLE, 0) for name in loose if name in self.out]
            if rows:
                news.append(("", Reply(ep=1, t=self.t, q="0" * 16, b="b", n=1, r=rows)))
            there = [name for name in loose if name not in self.out | self.away]
            news.append(("", self._decision(there)))
        return [Entry("", host, message, 0) for host, message in news]

    def _decision(self, there: list[str]) -> Decision:
        lost = round((1 - self.answers) * len(there))
        return Decision(
            ep=1, t=self.t, g=0, u=0, asked=there, counts=[], belief=[], m=(1, 0, 0, 0),
            frame=len(there), missing=lost, fallback=False, latency_ms=1.0, share=self.share,
        )  # fmt: skip

    def policy_sha256(self) -> str:
        return self.sha256

    def over(self) -> bool:
        return self.ended

    def pause(self, duration_s: float) -> None:
        self.now_s += duration_s


def roll(fleet: FakeFleet, **settings: Any) -> dict[str, Any]:
    chosen = RolloutSettings(**{"stages": (1, 3), "steps": 4, **settings})
    return LiveRollout(
        fleet,
        (Path("old.npz"), OLD),
        (Path("new.npz"), NEW),
        chosen,
        clock_s=lambda: fleet.now_s,
        pause=fleet.pause,
    ).run()


def event(host: str, text: str = "a0 FAULT: motor") -> tuple[str, Recorded]:
    return host, Event(b=host, code="robot_stopped", n=1, text=text)


def test_row_12_one_robot_then_some_then_all_follow_the_new_policy() -> None:
    fleet = FakeFleet()
    result = roll(fleet)
    assert result["complete"]
    assert [(row["robots"], row["hosts"], row["steps"]) for row in result["stages"]] == [
        (1, ["a"], 4),
        (3, ["a", "b"], 4),
        (6, ["a", "b", "c"], 4),
    ]
    assert fleet.orders == [
        ("hold", ["b", "c"]),
        ("policy", ["new"]),
        ("resume", ["b"]),
        ("resume", ["c"]),
    ]
    assert not fleet.held


def second_stage(fleet: FakeFleet) -> bool:
    return fleet.sha256 == NEW.sha256 and fleet.held == {"c"}


def lose_half(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
    fleet.answers = 0.4 if second_stage(fleet) else 1.0
    return []


def disarm(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
    if second_stage(fleet):
        fleet.out = {"b1"}
    return []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (lambda fleet: [event("b")] if second_stage(fleet) else [], "FAULT: motor"),
        (disarm, "faults in 1 steps of 3 robots, more than fault_rate 0"),
        (lose_half, r"polled robots that answered 0\.33, least 0\.5"),
    ],
)
@pytest.mark.parametrize(
    ("on_trouble", "ended", "orders", "still"),
    [
        ("hold", "held", [("hold", ["a", "b"])], {"a", "b", "c"}),
        (
            "rollback",
            "rolled back",
            [("hold", ["a", "b"]), ("policy", ["old"]), ("resume", ["a", "b", "c"])],
            set(),
        ),
        ("halt", "halted", [("halt", [])], {"c"}),
    ],
)
def test_row_12_trouble_in_a_stage_ends_the_rollout_as_the_operator_chose(
    trouble: Trouble, said: str, on_trouble: str, ended: str, orders: list[Any], still: set[str]
) -> None:
    fleet = FakeFleet(trouble)
    result = roll(fleet, on_trouble=on_trouble)
    assert (result["complete"], result["ended"], len(result["stages"])) == (False, ended, 2)
    assert re.search(said, result["why"]), result["why"]
    assert fleet.orders[3:] == orders
    assert fleet.held == still
    assert fleet.sha256 == (OLD if on_trouble == "rollback" else NEW).sha256


def test_faults_of_hosts_that_are_held_or_below_the_limit_do_not_end_a_rollout() -> None:
    def noise(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        held = [event("c")] if "c" in fleet.held else []
        return [*held, *([event("a")] if fleet.t == 12 else [])]

    assert roll(FakeFleet(noise), fault_rate=0.3)["complete"]


def test_a_fall_of_the_reward_is_judged_only_when_asked_for() -> None:
    def worse(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        fleet.share = [1.0, 0, 0, 0] if fleet.sha256 == OLD.sha256 else [0, 0, 1.0, 0]
        return []

    assert roll(FakeFleet(worse))["complete"]
    result = roll(FakeFleet(worse), reward_drop=0.05)
    assert "least" in result["why"]
    assert result["stages"][0]["reward"] < result["before"]["reward"] - 0.05
    assert roll(FakeFleet(worse), reward_drop=100.0)["complete"]


def test_a_policy_that_the_hosts_do_not_get_leaves_the_fleet_as_it_was() -> None:
    fleet = FakeFleet()
    halves = fleet.order

    def order(op: Op, hosts: Sequence[str] = (), *, file: str = "", why: str = "") -> None:
        fleet.silent = op == "policy" and "new" in file
        halves(op, hosts, file=file, why=why)

    fleet.order = order  # type: ignore[method-assign]
    result = roll(fleet)
    assert result["ended"] == "rolled back"
    assert "do not hold the policy after 60 s" in result["why"]
    assert fleet.now_s >= 60
    assert (fleet.held, fleet.sha256) == (set(), OLD.sha256)


def test_halts_ends_and_standstill_of_the_run_are_trouble() -> None:
    def halt(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        return [("", Halt(ep=1, by="operator", why="smoke"))] if second_stage(fleet) else []

    fleet = FakeFleet(halt)
    result = roll(fleet)
    assert (result["ended"], result["why"]) == ("over", "halted by operator: smoke")
    assert len(fleet.orders) == 3  # nobody is told anything after a halt

    def stand(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        fleet.silent = second_stage(fleet)
        return []

    result = roll(FakeFleet(stand), stall_s=5.0)
    assert (result["ended"], result["why"]) == ("held", "no step for 5 s")


def test_a_host_that_does_not_hold_stops_the_rollout_before_it_begins() -> None:
    fleet = FakeFleet()
    fleet.deaf = {"c"}
    with pytest.raises(RunError, match="hold: deaf"):
        roll(fleet)
    assert (fleet.held, fleet.sha256) == (set(), OLD.sha256)


def test_robots_that_were_out_before_come_last_and_are_no_faults() -> None:
    fleet = FakeFleet(out=["a0"])
    result = roll(fleet, stages=(1,))
    assert result["complete"]
    assert [row["hosts"] for row in result["stages"]] == [["b"], ["b", "c", "a"]]


def test_a_host_that_was_asked_just_before_it_resumed_is_given_the_time_to_be_asked_again() -> None:
    resumed: dict[str, int] = {}

    def lag(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        """Host b is out of the frame for eleven steps after its resumption, says nothing bad."""
        if second_stage(fleet):
            began = resumed.setdefault("b", fleet.t)
            fleet.away = {"b0", "b1"} if fleet.t < began + 11 else set()
        return []

    fleet = FakeFleet(lag)
    result = roll(fleet)
    assert result["complete"], result["why"]

    def never(fleet: FakeFleet) -> list[tuple[str, Recorded]]:
        fleet.away = {"b0", "b1"} if second_stage(fleet) else set()
        return []

    assert "2 faults in 1 steps of 3 robots" in roll(FakeFleet(never))["why"]


def test_bad_stages_are_refused_before_anybody_is_held() -> None:
    for stages in ((3, 1), (0,), (7,)):
        fleet = FakeFleet()
        with pytest.raises(InputError, match=r"must rise, from at least 1 to at most 6 available"):
            roll(fleet, stages=stages)
        assert fleet.orders == []


def test_a_policy_needs_a_simulated_run_or_the_word_of_the_operator(
    tmp_path: Path, policy_file: Path
) -> None:
    with pytest.raises(InputError, match="--simulated RUN"):
        check_policy(tmp_path, NEW, OLD, None, "{}", None, force=False)
    check_policy(tmp_path, NEW, OLD, None, "{}", None, force=True)
    with pytest.raises(InputError, match=r"pi_l of shape \(5, 5, 3\), the run \(4, 4, 3\)"):
        check_policy(tmp_path, Policy.load(policy_file), OLD, None, "{}", None, force=True)


@pytest.mark.e2e
@pytest.mark.broker
def test_row_12_robots_take_a_policy_in_stages_and_go_back_when_one_stops(
    kofn: Kofn, policy_file: Path, tmp_path: Path
) -> None:
    """Robots a and b behind dry-run drivers; an emergency stop of b ends the second stage."""
    users = [BrokerUser("controller", "c", "controller")]
    users += [BrokerUser(name, name, "host") for name in ("a", "b")]
    for user in users:
        write_credentials(tmp_path / f"{user.name}.json", user.name, user.password)
    old = Policy.load(policy_file)
    new = Policy(old.game, old.grid, np.ones_like(old.action), old.pi_l)
    new.save(tmp_path / "new.npz")
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as started:
        wire = ["--broker", started.url, "--mqtt", started.protocol, "--fleet", "f"]
        wire += ["--period", "1", "--speed", "5"]
        for name in ("a", "b"):
            options = ("--credentials", f"{name}.json", "--host", name, "--state", name)
            kofn.start("robot", *wire, *options)
        kofn.start(
            "controller", *wire, "--credentials", "controller.json", "--policy", str(policy_file),
            "--k", "1", "--robots", "2", "--steps", "100000",
        )  # fmt: skip
        (run,) = wait_for(lambda: list((tmp_path / "runs").glob("*-f")), "the run folder")
        wait_for(lambda: (run / "run.mcap").is_file() and read_decisions(run), "a step")
        going = kofn.start(
            "fleet", "rollout", "new.npz", "--run", str(run), "--steps", "2", "--force",
            "--on-trouble", "rollback", "--json",
        )  # fmt: skip

        def orders() -> list[tuple[str, str]]:
            return [(e.host, e.message.op) for e in read_run(run) if isinstance(e.message, Cmd)]

        wait_for(lambda: orders() == [("b", "HOLD"), ("b", "RESUME")], "the second stage")
        assert Policy.load(run / "policy.npz").sha256 == new.sha256
        ask_agent(tmp_path / "b" / FILE, Ask(op="estop"))
        out, _ = going.communicate(timeout=60)
        result = json.loads(out)
        assert (going.returncode, result["ended"]) == (1, "rolled back")
        assert [row["robots"] for row in result["stages"]] == [1, 2]
        assert "b: robot_stopped: b.r0 ESTOP" in result["why"]
        wait_for(lambda: Policy.load(run / "policy.npz").sha256 == old.sha256, "the old policy")
        (note,) = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
        assert (note["forced"], note["ended"]) == (True, "rolled back")
