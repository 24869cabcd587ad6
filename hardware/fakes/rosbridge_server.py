# SPDX-License-Identifier: MIT
"""`FakeRosbridge`: a rosbridge server with one base; no ROS."""

import asyncio
import contextlib
import json
import math
from typing import Any

from kofn.controller.core.errors import RunError
from kofn.hardware.drivers import speeds
from kofn.hardware.fakes.wheels import Wheels

ODOMETRY_S = 0.02


class FakeRosbridge:
    """One base with `/cmd_vel` and `/odom`; odometry 50 times a second.

    Parameters
    ----------
    port
        Of 127.0.0.1; 0 takes a free one, which is in `port` once it is plugged in.
    deadman_s
        The base stops so long after the last `/cmd_vel`; None drives on, as many bases do.
    """

    TRACK_M = 1.0

    def __init__(self, port: int = 0, *, deadman_s: float | None = None) -> None:
        self.port, self.wheels = port, Wheels()
        self.advertised: list[str] = []
        self.subscribed: list[str] = []
        self.answers = True
        self._deadman_s, self._commanded_s = deadman_s, -math.inf
        self._pose = (0.0, 0.0, 0.0)
        self._ways = (0.0, 0.0)
        self._server: Any = None

    async def plug(self) -> None:
        """Listen; `RunError` when the port is taken, or websockets is not installed."""
        try:
            from websockets.asyncio.server import serve
        except ImportError as error:
            raise RunError("rosbridge needs websockets: pip install kofn[hardware]") from error
        try:
            self._server = await serve(self._talk, "127.0.0.1", self.port)
        except OSError as error:
            raise RunError(
                f"cannot listen on 127.0.0.1:{self.port}: {error.strerror or error}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Close every connection and stop listening; idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _talk(self, peer: Any) -> None:
        from websockets import ConnectionClosed

        telling = asyncio.create_task(self._tell(peer))
        with contextlib.suppress(ConnectionClosed):
            async for text in peer:
                message = json.loads(text)
                if message["op"] == "advertise":
                    self.advertised.append(message["topic"])
                elif message["op"] == "subscribe":
                    self.subscribed.append(message["topic"])
                elif message["op"] == "publish" and message["topic"] in self.advertised:
                    twist = message["msg"].get("twist", message["msg"])
                    v, w = twist["linear"]["x"], twist["angular"]["z"]
                    self.wheels.set(v - w * self.TRACK_M / 2, v + w * self.TRACK_M / 2)
                    self._commanded_s = asyncio.get_running_loop().time()
        telling.cancel()
        if self._deadman_s is not None:
            self.wheels.set(0.0, 0.0)
        self.advertised.clear()
        self.subscribed.clear()

    async def _tell(self, peer: Any) -> None:
        loop, deadman_s = asyncio.get_running_loop(), self._deadman_s
        while True:
            if deadman_s is not None and loop.time() - self._commanded_s >= deadman_s:
                self.wheels.set(0.0, 0.0)
            pose = self._roll()
            if self.answers and "/odom" in self.subscribed:
                await peer.send(
                    json.dumps({"op": "publish", "topic": "/odom", "msg": {"pose": pose}})
                )
            await asyncio.sleep(ODOMETRY_S)

    def _roll(self) -> dict[str, Any]:
        """Bring the pose up to date; return it as a message."""
        cos, sin = math.cos, math.sin
        ways = self.wheels.ways()
        steps = ways[0] - self._ways[0], ways[1] - self._ways[1]
        self._ways = ways
        dx, dy, turn = speeds.way_of(*steps, self.TRACK_M)
        x, y, yaw = self._pose
        x, y = x + dx * cos(yaw) - dy * sin(yaw), y + dx * sin(yaw) + dy * cos(yaw)
        self._pose = x, y, yaw + turn
        q = {"x": 0.0, "y": 0.0, "z": sin(self._pose[2] / 2), "w": cos(self._pose[2] / 2)}
        return {"pose": {"position": {"x": x, "y": y, "z": 0.0}, "orientation": q}}
