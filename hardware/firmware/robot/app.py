# SPDX-License-Identifier: MIT
"""One robot: the tasks and what they share.

| task | period | does |
|---|---|---|
| safety | 10 ms | timers, stop input, battery, feeds the second dead-man and the watchdog |
| drive | `tick_ms` | odometry -> pose -> zone -> option -> `safety.limit` -> motors |
| link | - | the broker: reads messages, hands them to `on_message` |
| console | - | the operator's line |

Motors are driven in one place, `_tick`, with what `safety.limit` returns. Start: settings, motors
off, self-check, DISARMED, network, broker. End: motors first.
"""

import asyncio
import gc
import json
import math
import os
from binascii import hexlify

from robot import VERSION, net, wire
from robot.battery import Battery
from robot.blackbox import BlackBox
from robot.clock import Clock
from robot.console import Console
from robot.encoders import Encoders
from robot.guard import Guard
from robot.host import HOLD, REPEAT, TAKE, Host
from robot.inputs import Inputs
from robot.link import Link
from robot.motors import Motors
from robot.ring import Option, Ring, ZoneFilter
from robot.safety import ARMED, BOOT, ESTOP, Safety
from robot.settings import load
from robot.shelf import Shelf
from robot.store import Store

WHOLE_SHARE = 0.9


class App:
    """Wires the parts together; see the module."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.clock = Clock(cfg.get("speed", 1))
        self.ending = False
        self.motors = Motors(cfg["pins"], cfg["calibration"])
        battery = cfg["battery_v"]
        limits = cfg["limits"]
        self.ring = Ring(cfg["arena"])
        self.safety = Safety(
            (limits["v"], limits["w"], limits["accel"]), self.motors.off, cfg["deadman_ms"],
            cfg["link_ms"], cfg["pose_max_age_ms"], cfg["arm_minutes"] * 60000,
            (battery.get("warn", 0.0), battery.get("critical", 0.0)), self.ring.inside,
        )
        self.guard = Guard(self.motors.off, cfg["deadman_ms"], cfg["watchdog_ms"])
        self.encoders = Encoders(cfg["pins"], cfg["calibration"])
        self.battery, self.inputs = Battery(cfg["pins"]), Inputs(cfg["pins"])
        self.store = Store(cfg.get("store", "epochs.json"))
        self.box = BlackBox(cfg.get("log"), cfg.get("log_bytes", 0))
        self.option, self.filter = Option(self.ring, cfg["option"]), ZoneFilter(self.ring)
        self.shelf = Shelf(self.ring.zones, self.ring.zones, 3)
        self.host = Host(
            cfg["host"], hexlify(os.urandom(8)).decode(), cfg["robot"], self.shelf,
            self.ring.zones, cfg["hold_ms"], cfg.get("seed", 0), self.store.ep, self.store.halt_ep,
        )
        self.link = Link(self, cfg)
        zone = cfg.get("start_zone", 0)
        angle = self.ring.centre(zone)
        self.x, self.y = self.ring.middle * math.cos(angle), self.ring.middle * math.sin(angle)
        self.yaw = angle + math.pi / 2
        self.odometry_only = cfg.get("localisation", "odometry") == "odometry"
        self._since_fix = 0.0
        self._waits = False  # the localiser said so: no way ahead, turns only
        self._busy = False
        self._started = self._controller = 0
        self._logged = -1000000
        self._low = False

    # What the operator asks for ------------------------------------------------------------------

    def arm(self):
        """Arm after all conditions; None or why not."""
        now = self.clock.now()
        if not self._tested():
            return "selftest.py has not passed on this board"
        epoch_ok = self.host.highest_ep > self.host.halt_ep or self.host.halt_ep < 0
        why = self.safety.arm(now, not self.inputs.stop(), epoch_ok)
        self.box.note(now, "arm refused: " + why if why else "armed")
        return why

    def _tested(self):
        path = self.cfg.get("selftest", "selftest.json")
        if not path:
            return True
        try:
            with open(path) as file:
                return json.load(file)["ok"]
        except Exception:  # missing or torn
            return False

    def release(self):
        """Leave ESTOP after a halt: a higher epoch and an open input are needed."""
        now = self.clock.now()
        if self.safety.state != ESTOP:
            return "state is " + self.safety.state
        if self.inputs.stop():
            return "the stop input is closed"
        if self.host.highest_ep <= self.host.halt_ep:
            return "no controller of an epoch above %d was seen" % self.host.halt_ep
        self.safety.event("release", now, "operator")
        self.box.note(now, "released")
        return None

    def status(self):
        """One line for the console."""
        safety = self.safety
        return "state=%s (%s) hold=%s zone=%d pose=%.2f,%.2f,%.2f link=%s connections=%d %s memory=%d" % (
            safety.state, safety.reason, safety.holding, self.filter.zone, self.x, self.y, self.yaw,
            "up" if self.link.up else "down", self.link.connections, self.link.error,
            gc.mem_alloc() if hasattr(gc, "mem_alloc") else 0,
        )

    # Messages ------------------------------------------------------------------------------------

    def roster(self):
        """What this host offers."""
        S, G, A = wire.spaces(self.ring.zones, self.ring.zones, 3)
        return wire.encode(
            b=self.host.boot, pace="realtime", robots=[self.cfg["robot"]], S=S, G=G, A=A,
            have=self.shelf.have(), proto=[1], sw="kofn-firmware " + VERSION,
        )

    def on_heard(self):
        """The broker gave a sign of life."""
        self.safety.heard_at = self.clock.now()

    def on_link_lost(self, error):
        """The connection ended: stop before anything else is tried."""
        now = self.clock.now()
        self._cut()
        self.safety.hold("link", now)
        self.host.stop("link lost")
        self.box.note(now, "link lost: " + error)

    async def on_message(self, topic, payload, retained):
        """One message below the fleet's root; whatever it holds, nothing is raised."""
        kind = topic.split("/")[0]
        try:
            if retained and kind in ("step", "poll", "cmd"):
                self.host.count(kind + "_retained")
            elif not payload:
                self.host.count("empty")
            elif kind == "step":
                await self._on_step(wire.step(payload))
            elif kind == "poll":
                for reply in self.host.answer(wire.poll(payload), self.clock.now()):
                    await self.link.publish("rep", wire.encode(**reply))
            elif kind == "ctl":
                now = self.clock.now()
                if self.host.see_ctl(wire.ctl(payload)):
                    self._cut()
                    self.safety.hold("controller lost", now)
                if not retained:
                    self._controller = now
                self._keep()
            elif kind == "halt":
                await self._on_halt(wire.halt(payload))
            elif kind == "cmd":
                await self._on_cmd(wire.cmd(payload))
            elif kind == "pol":
                if self.shelf.add(topic[4:], payload):
                    await self.link.publish("roster", self.roster(), 1, True)
            elif kind == "pose":
                pose = wire.pose(payload, self.cfg["robot"])
                if pose is not None:
                    self._fix(pose)
        except wire.Bad as error:
            self.host.count(kind + "_malformed")
            await self._event(kind + "_malformed", str(error))

    async def _event(self, code, text):
        await self.link.publish("evt", wire.encode(b=self.host.boot, code=code, n=1, text=text[:200]))

    async def _on_step(self, step):
        now = self.clock.now()
        verdict, code, text = self.host.judge(step, now, now)
        self._keep()
        if verdict == TAKE:
            self._controller = now
            if self._busy and not self._acted_out(now):
                self.host.cut()
            zone = self.filter.zone if self.safety.available(now) else -1
            action, replies = self.host.take(step, zone, now, now)
            self.option.start(action, self.x, self.y)
            self._busy, self._started = action >= 0, now
            if action >= 0:
                self.safety.start(now)
            else:
                self.safety.hold("unavailable", now, normal=True)
            for reply in replies:
                await self.link.publish("rep", wire.encode(**reply))
            self.box.write({
                "row": "step", "ep": step.ep, "t": step.t, "g": step.g, "u": step.u,
                "time_s": now / 1000, "z": [zone], "a": [action],
            })
        elif verdict == HOLD:
            self._cut()
            self.safety.hold(code, now, normal=True)
            await self._event(code, text)
        elif verdict != REPEAT and code == "step_old_epoch":
            await self._event(code, text)

    async def _on_halt(self, halt):
        now = self.clock.now()
        if self.host.see_halt(halt):
            self._cut()
            self.safety.event("halt", now, "halt of epoch %d by %s" % (halt.ep, halt.by))
            self.box.note(now, self.safety.reason)
        self._keep()
        in_force = self.host.highest_ep
        if in_force > self.host.halt_ep:  # who gave it did not know of this controller
            text = "epoch %d is in force, the halt is of epoch %d" % (in_force, halt.ep)
            await self._event("halt_low", text)
        else:
            await self._event("halted", "halt of epoch %d by %s" % (halt.ep, halt.by))

    async def _on_cmd(self, cmd):
        now = self.clock.now()
        ok, why, stops = self.host.see_command(cmd)
        if stops:
            self._cut()
            self.safety.hold("command " + cmd.op, now, normal=True)
            self.box.note(now, "command " + cmd.op)
        await self.link.publish("ack", wire.encode(b=self.host.boot, id=cmd.id, ok=ok, why=why), 1)
        if stops and self.host.left:
            await self.link.leave()

    def _keep(self):
        try:
            self.store.keep(self.host.highest_ep, self.host.halt_ep)
        except OSError:
            self.safety.event("error", self.clock.now(), "epochs cannot be stored")

    def _fix(self, pose):
        now = self.clock.now()
        self._waits = pose.wait
        if pose.age > self.cfg["pose_max_age_ms"]:
            return
        self.x, self.y, self.yaw = pose.x, pose.y, pose.yaw
        self.safety.pose_at = now - pose.age
        self._since_fix = 0.0
        self.filter.see(self.x, self.y)

    # Motion --------------------------------------------------------------------------------------

    def _acted_out(self, now):
        return now - self._started >= WHOLE_SHARE * self.cfg.get("option_ms", 6000)

    def _cut(self):
        if self._busy and not self._acted_out(self.clock.now()):
            self.host.cut()
        self._busy = False

    def _tick(self):
        now = self.clock.now()
        forward, turn = self.encoders.read()
        self.x += forward * math.cos(self.yaw + turn / 2)
        self.y += forward * math.sin(self.yaw + turn / 2)
        self.yaw += turn
        self._since_fix += abs(forward)
        if self.odometry_only or self._since_fix < 1.0:  # a camera's fix carries for a metre
            if self.odometry_only or self.safety.pose_at is not None:
                self.safety.pose_at = now
                self.filter.see(self.x, self.y)
        if now - self._logged >= 100:
            self._logged = now
            self.box.write({
                "row": "poses", "time_s": now / 1000,
                "p": [[round(self.x, 3), round(self.y, 3), round(self.yaw, 3)]],
            }, False)
        if self.safety.holding is not None:
            self.motors.off()
            return
        v, w = self.option.command(self.x, self.y, self.yaw) if self._busy else (0.0, 0.0)
        if self._waits:
            v = 0.0
        self.motors.drive(*self.safety.limit(v, w, now))

    async def _drive(self):
        while not self.ending:
            try:
                self._tick()
            except Exception as error:
                self.safety.event("error", self.clock.now(), "%s: %s" % (type(error).__name__, error))
            await self.clock.sleep(self.cfg["tick_ms"])

    async def _watch(self):
        turn, before = 0, None
        while not self.ending:
            now = self.clock.now()
            if self.inputs.stop() and self.safety.state != ESTOP:
                self.safety.event("input", now, "stop input")
            if self.inputs.bumper():
                self.safety.hold("bumper", now)
            if self.inputs.armed(now):
                self.arm()
            if self.guard.fired:
                self.guard.fired = 0
                self.safety.hold("blocked", now)
            beat = self.host.beat
            if self._busy and beat and now - self._controller > self.cfg["link_ms"]:
                self.safety.hold("controller silent", now)
            self.safety.watch(now, self.x, self.y)
            why, replies = self.host.expire(now)
            if why is not None:
                whole = why == "ttl_over" and self._acted_out(now)
                self._cut()
                self.safety.hold(why, now, normal=whole)
            for reply in replies:
                await self.link.publish("rep", wire.encode(**reply))
            turn += 1
            if turn % 50 == 0:
                self.safety.see_battery(self.battery.read(), now)
            after = (self.safety.state, self.safety.holding)
            if after != before:
                if self.safety.state != ARMED or self.safety.holding:
                    self._cut()
                    # What stopped the robot by itself also takes it out of the sample.
                    if self.safety.holding not in ("ttl_over", "waits for a step"):
                        self.host.stop(self.safety.holding)
                before = after
                self.box.note(now, "%s %s" % after)
            self.guard.beat()
            await self.clock.sleep(10)

    def self_check(self):
        """BOOT -> DISARMED, or FAULT with the reason."""
        now = self.clock.now()
        if self.store.damaged:
            self.safety.event("failed", now, "epochs.json is damaged: clear after a look")
            return
        self.safety.see_battery(self.battery.read(), now)
        if self.safety.state == BOOT:
            self.safety.event("ok", now, "self-check passed")

    async def main(self):
        """Work until `ending`."""
        cfg = self.cfg
        self.motors.off()
        self.self_check()
        self.box.write({
            "row": "header", "host": cfg["host"], "robots": [cfg["robot"]],
            "arena": {
                "zones": float(self.ring.zones), "inner_m": self.ring.inner,
                "outer_m": self.ring.outer, "robot_radius_m": self.ring.radius,
            },
            "option_s": cfg.get("option_ms", 6000) / 1000, "seed": cfg.get("seed", 0),
            "backend": "firmware", "versions": {"kofn-firmware": VERSION},
        })
        if self.host.halt_ep >= 0 and self.host.halt_ep >= self.host.highest_ep:
            self.safety.event("halt", self.clock.now(), "halted before the restart")
        if cfg.get("wifi"):
            net.up(cfg["wifi"])
        self.guard.start()
        tasks = [
            asyncio.create_task(task)
            for task in (self._watch(), self._drive(), self.link.run(),
                         Console(self, cfg["token_sha256"]).run())
        ]
        try:
            await tasks[0]
            await tasks[1]
        finally:
            self.motors.off()
            self.safety.event("end", self.clock.now(), "end of the program")
            self.guard.stop()
            await self.link.farewell()
            for task in tasks:
                task.cancel()
            self.motors.off()
            self.box.close()


def run(path="kofn.json"):
    """Entry point of `main.py`."""
    asyncio.run(App(load(path)).main())
