# SPDX-License-Identifier: MIT
"""`RosbridgeDriver`: any robot with `cmd_vel` and `odom` behind a rosbridge websocket; no ROS here.

| operation (JSON) | when |
|---|---|
| `advertise` cmd_vel, `subscribe` odom (and battery) | at each `open` |
| `publish` geometry_msgs Twist (or TwistStamped) | `drive`, `stop` |
| `publish` zero, `unsubscribe`, `unadvertise` | `close` |
| `status` of level error | read as a fault |

Nothing says that `cmd_vel` has a time-out: when the connection breaks, wheels may go on turning.
Run the agent on the robot, and set the base's own time-out.
"""

import asyncio
import contextlib
import json
import math
from typing import Any

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Capabilities, DriverError, Observation
from kofn.hardware.drivers.speeds import checked_speeds
from kofn.hardware.lock_file import PortLock
from kofn.hardware.safety import Limits, check_limits

OPEN_S = 5.0
SEND_S = 0.2
LARGEST_BYTES = 2**20


class RosbridgeDriver:
    """A ROS robot by its topics.

    Parameters
    ----------
    clock
        Stamps readings.
    url
        `ws://host:port` of the rosbridge server.
    cmd_vel, odom, battery
        Topics; battery None: none.
    ros
        1 or 2: how message types are written.
    stamped
        The base wants TwistStamped (newer ROS 2 bases).
    odom_max_age_s
        Odometry that old is a failure, s.
    v_max_mps, w_max_radps
        Greatest speeds asked for.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        url: str = "ws://127.0.0.1:9090",
        cmd_vel: str = "/cmd_vel",
        odom: str = "/odom",
        battery: str | None = None,
        ros: int = 2,
        stamped: bool = False,
        odom_max_age_s: float = 1.0,
        v_max_mps: float = 0.3,
        w_max_radps: float = 1.5,
    ) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise InputError(f"url {url!r} must begin with ws:// or wss://")
        if ros not in (1, 2):
            raise InputError(f"ros = {ros} must be 1 or 2")
        self._limits = check_limits(Limits(v_max_mps, w_max_radps))
        self._clock, self._url = clock, url
        self._cmd_vel, self._odom, self._battery = cmd_vel, odom, battery
        self._middle = "msg/" if ros == 2 else ""
        self._stamped, self._max_age_s = stamped, odom_max_age_s
        self._lock = PortLock(f"rosbridge-{url}{cmd_vel}")
        self._socket: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Task[None] | None = None
        self._came = asyncio.Event()
        self._pose: tuple[float, float, float] | None = None
        self._read_pose: tuple[float, float, float] | None = None
        self._pose_s = -math.inf
        self._volts: float | None = None
        self._errors: list[str] = []
        self._broken = ""

    def capabilities(self) -> Capabilities:
        """Return a robot with odometry, and a battery where its topic is named."""
        return Capabilities(
            kind="rosbridge",
            v_max=self._limits.v_max,
            w_max=self._limits.w_max,
            has_odometry=True,
            has_battery=self._battery is not None,
            has_estop_input=False,
        )

    async def open(self) -> None:
        """Connect, advertise, subscribe, stop, and wait for odometry."""
        if self._socket is not None:
            raise DriverError(f"{self._url} is open already", "close it first")
        try:
            import websockets
            from websockets.asyncio.client import connect
        except ImportError as error:
            raise RunError("rosbridge needs websockets: pip install kofn[hardware]") from error
        self._lock.take()
        self._forget()
        self._loop = asyncio.get_running_loop()
        try:
            self._socket = await connect(
                self._url, open_timeout=OPEN_S, max_size=LARGEST_BYTES, close_timeout=0.5
            )
            self._listener = asyncio.create_task(self._listen(websockets.ConnectionClosed))
            await self._send({"op": "advertise", "topic": self._cmd_vel, "type": self._type()})
            for topic, kind in self._subscriptions():
                await self._send(
                    {"op": "subscribe", "topic": topic, "type": kind, "queue_length": 1}
                )
            await self._send(self._twist(0.0, 0.0))
            await self._first_odometry()
        except BaseException as error:
            await self._release()
            if isinstance(error, OSError | TimeoutError | websockets.WebSocketException):
                raise DriverError(
                    f"no rosbridge at {self._url}: {_words(error)}",
                    "start it: ros2 launch rosbridge_server rosbridge_websocket_launch.xml",
                ) from error
            raise

    async def read(self) -> Observation:
        """Return the way since the last read by odometry."""
        self._checked()
        pose, stamp_s = self._pose, self._pose_s
        if pose is None or self._clock.now() - stamp_s > self._max_age_s:
            raise DriverError(
                f"no odometry on {self._odom} for {self._max_age_s:g} s", "is the base running?"
            )
        old, self._read_pose = self._read_pose or pose, pose
        dx, dy = pose[0] - old[0], pose[1] - old[1]
        cos, sin = math.cos(old[2]), math.sin(old[2])
        return Observation(
            dx_m=dx * cos + dy * sin,
            dy_m=dy * cos - dx * sin,
            dyaw_rad=math.remainder(pose[2] - old[2], math.tau),
            battery_v=self._volts,
            bumper=False,
            estop_input=False,
            faults=tuple(self._errors),
            stamp_s=stamp_s,
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Publish speeds; what the base makes of them is not told."""
        v, w = checked_speeds(v, w, self._limits)
        self._checked()
        await self._send(self._twist(v, w))
        return Applied(v, w)

    async def stop(self) -> None:
        """Publish zero; never raises, also from another thread than the connection's."""
        loop = self._loop
        if self._socket is None or loop is None:
            return
        with contextlib.suppress(Exception):
            if asyncio.get_running_loop() is loop:
                await self._send(self._twist(0.0, 0.0))
            else:
                asyncio.run_coroutine_threadsafe(self._send(self._twist(0.0, 0.0)), loop).result(
                    SEND_S
                )

    async def close(self) -> None:
        """Stop, take back topics, disconnect."""
        failures: list[Exception] = []
        if self._socket is not None:
            last = [self._twist(0.0, 0.0)]
            last += [{"op": "unsubscribe", "topic": topic} for topic, _ in self._subscriptions()]
            last.append({"op": "unadvertise", "topic": self._cmd_vel})
            try:
                for message in last:
                    await self._send(message)
            except DriverError as error:
                failures.append(error)
        await self._release()
        if failures:
            raise ExceptionGroup(f"closing {self._url}", failures)

    def _forget(self) -> None:
        self._pose = self._read_pose = self._volts = None
        self._pose_s = -math.inf
        self._errors, self._broken = [], ""

    def _subscriptions(self) -> list[tuple[str, str]]:
        topics = [(self._odom, f"nav_msgs/{self._middle}Odometry")]
        if self._battery is not None:
            topics.append((self._battery, f"sensor_msgs/{self._middle}BatteryState"))
        return topics

    def _type(self) -> str:
        return f"geometry_msgs/{self._middle}Twist" + ("Stamped" if self._stamped else "")

    def _twist(self, v: float, w: float) -> dict[str, Any]:
        twist: dict[str, Any] = {
            "linear": {"x": v, "y": 0.0, "z": 0.0},
            "angular": {"x": 0.0, "y": 0.0, "z": w},
        }
        if self._stamped:
            header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": "base_link"}
            twist = {"header": header, "twist": twist}
        return {"op": "publish", "topic": self._cmd_vel, "msg": twist}

    async def _send(self, message: dict[str, Any]) -> None:
        socket = self._checked()
        try:
            async with asyncio.timeout(SEND_S):
                await socket.send(json.dumps(message))
        except Exception as error:
            raise self._gone(error) from error

    async def _listen(self, closed: type[Exception]) -> None:
        try:
            async for text in self._socket:
                self._take(text)
        except (closed, OSError) as error:
            self._broken = _words(error)
        else:
            self._broken = "closed by the server"
        self._came.set()

    def _take(self, text: str | bytes) -> None:
        """Take one message; what cannot be read is passed over."""
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            message = json.loads(text)
            if message.get("op") == "status" and message.get("level") == "error":
                self._errors = [f"rosbridge: {str(message.get('msg'))[:120]}"]
            if message.get("op") != "publish":
                return
            if message["topic"] == self._odom:
                pose = message["msg"]["pose"]["pose"]
                at, q = pose["position"], pose["orientation"]
                yaw = math.atan2(
                    2 * (q["w"] * q["z"] + q["x"] * q["y"]), 1 - 2 * (q["y"] ** 2 + q["z"] ** 2)
                )
                values = float(at["x"]), float(at["y"]), yaw
                if all(math.isfinite(value) for value in values):
                    self._pose, self._pose_s = values, self._clock.now()
                    self._came.set()
            elif message["topic"] == self._battery:
                self._volts = float(message["msg"]["voltage"])

    async def _first_odometry(self) -> None:
        self._came = asyncio.Event()
        try:
            async with asyncio.timeout(OPEN_S):
                while self._pose is None and not self._broken:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise DriverError(
                f"no odometry on {self._odom} within {OPEN_S:g} s", "is the base running?"
            ) from None
        self._checked()

    def _checked(self) -> Any:
        if self._socket is None:
            raise DriverError(f"{self._url} is not open", "open it first")
        if self._broken:
            raise self._gone(self._broken)
        return self._socket

    def _gone(self, error: object) -> DriverError:
        return DriverError(
            f"the connection to {self._url} broke: {_words(error)}", "is rosbridge still running?"
        )

    async def _release(self) -> None:
        socket, self._socket = self._socket, None
        listener, self._listener = self._listener, None
        try:
            if socket is not None:
                with contextlib.suppress(Exception):
                    await socket.close()
            if listener is not None:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)
        finally:
            self._loop = None
            self._lock.free()


def _words(error: object) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120]
