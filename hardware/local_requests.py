# SPDX-License-Identifier: MIT
"""`LocalRequests`: the answers of one host to the operator on its own machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kofn.hardware.black_box import BlackBox
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.local_socket import NEEDS_TOKEN, Answer, Ask
from kofn.hardware.operator_token import token_objection
from kofn.hardware.preflight_result import preflight_objection
from kofn.hardware.safety_task import Safety
from kofn.hardware.selftest_result import selftest_objection


class LocalRequests:
    """Callable with an `Ask`; see `local_socket` for who may ask what.

    Parameters
    ----------
    safety
        The robots.
    folder
        The state folder: token, self-test, preflight.
    simulated
        Nothing here can hurt, so neither token nor self-test nor preflight is asked for.
    record
        Where requests are written down.
    limits
        Those that the robots obey; the preflight must have been about them. None: not compared.
    policies
        Returns the local policies that the robots may act by now.
    creep_home
        Lets a robot outside its fence go back; False where it may not move.
    """

    def __init__(
        self,
        safety: Safety,
        folder: Path,
        *,
        simulated: bool = False,
        record: BlackBox | None = None,
        limits: RobotLimits | None = None,
        policies: Callable[[], Sequence[str]] = tuple,
        creep_home: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._safety, self._folder, self._simulated = safety, folder, simulated
        self._record, self._creep_home = record, creep_home
        self._limits, self._policies = limits, policies

    def __call__(self, ask: Ask) -> Answer:
        """Answer one request."""
        overruled = self._unproven() if ask.op == "arm" and ask.force else []
        why = self._do(ask)
        if self._record is not None and ask.op != "status":
            asked: dict[str, Any] = {"op": ask.op, "robot": ask.robot, "why": why}
            asked |= {"forced": ask.force, "overruled": overruled}
            self._record.write("request", urgent=True, **asked)
        return Answer(ok=not why, why=why, robots=self._status())

    def _do(self, ask: Ask) -> list[str]:
        safety = self._safety
        if ask.robot is not None and ask.robot not in safety.robots:
            known = ", ".join(safety.robots[:20])
            return [f"this host has no robot {ask.robot!r}; it has {known}"]
        chosen = (
            range(len(safety.robots)) if ask.robot is None else [safety.robots.index(ask.robot)]
        )
        if ask.op == "estop":
            for robot in chosen:
                safety.estop(robot, f"emergency stop on the robot's machine {ask.why}".strip())
            return []
        if ask.op == "disarm":
            for robot in chosen:
                safety.disarm(robot)
            return []
        if ask.op == "status":
            return []
        if len(chosen) != 1:
            return [f"{ask.op} is for one robot at a time: name it"]
        if ask.op in NEEDS_TOKEN and not self._simulated:
            objection = token_objection(self._folder, ask.token)
            if objection is not None:
                return [objection]
        robot = chosen[0]
        if ask.op == "arm":
            unproven = [] if ask.force else self._unproven()
            return unproven or safety.arm(robot, for_s=ask.for_s)
        if ask.op == "clear":
            return safety.clear(robot)
        if ask.op == "release":
            return safety.release(robot)
        if self._creep_home(robot):
            return []
        return ["it may not creep home: it is not armed, or not outside its fence"]

    def _unproven(self) -> list[str]:
        """Say what speaks against moving this robot at all."""
        if self._simulated:
            return []
        preflight = preflight_objection(self._folder, self._limits, self._policies())
        found = selftest_objection(self._folder), preflight
        return [objection for objection in found if objection is not None]

    def _status(self) -> list[dict[str, Any]]:
        safety = self._safety
        return [
            {
                "robot": name,
                "mode": safety.mode(i).name,
                "hold": bool(safety.state.hold[i]),
                "why": safety.why(i),
                "epoch": int(safety.state.epoch[i]),
                "halt_ep": int(safety.state.halt_ep[i]),
                "against_arming": safety.objections(i),
            }
            for i, name in enumerate(safety.robots)
        ]
