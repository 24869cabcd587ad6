# SPDX-License-Identifier: MIT
"""`kofn.json`, the settings of a board, and the folder that is copied onto one.

A board keeps everything that makes it this robot in one file, checked again by the firmware when it
starts (`firmware/robot/settings.py`). Certificates go along in DER: the board's TLS reads no PEM.
Nothing here needs a board.
"""

import base64
import hashlib
import os
import re
import shutil
import ssl
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kofn.controller.core.errors import InputError
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.link.topics import check_host, check_name
from kofn.hardware.option import OptionSettings
from kofn.hardware.ring import RingLayout

FIRMWARE = Path(__file__).parent / "firmware"
"""The MicroPython files, as they are copied onto a board."""

Volts = Annotated[float, Meta(ge=0, le=60)]


class BoardLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Greatest speed (m/s), turn rate (rad/s) and acceleration (m/s^2) of a board's robot."""

    v: Annotated[float, Meta(ge=0, le=3)] = 0.6
    w: Annotated[float, Meta(ge=0, le=20)] = 3.0
    accel: Annotated[float, Meta(ge=0, le=20)] = 2.0


class BoardPins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GPIO numbers; None is not wired. Motors are two PWM pins a side, encoders A and B a side.

    `estop_nc`: the stop input closes to ground until it is pressed, so a broken wire stops too.
    """

    left_1: int = 2
    left_2: int = 3
    right_1: int = 4
    right_2: int = 5
    enc_left_a: int = 6
    enc_left_b: int = 7
    enc_right_a: int = 8
    enc_right_b: int = 9
    estop: int | None = 10
    estop_nc: bool = True
    bumper: int | None = None
    arm_button: int | None = 11
    battery: int | None = None
    battery_divider: float = 2.0
    pwm_hz: int = 20_000


class BoardCalibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Geometry (m) and motor constants of one robot."""

    wheel_radius_m: Annotated[float, Meta(gt=0, le=0.5)] = 0.035
    track_m: Annotated[float, Meta(gt=0, le=2)] = 0.16
    full_speed_mps: Annotated[float, Meta(gt=0, le=5)] = 0.7
    ticks_per_rev: Annotated[int, Meta(ge=4, le=100_000)] = 720
    deadband: Annotated[float, Meta(ge=0, lt=0.9)] = 0.0
    left_scale: Annotated[float, Meta(gt=0, le=2)] = 1.0
    right_scale: Annotated[float, Meta(gt=0, le=2)] = 1.0
    flip_left: bool = False
    flip_right: bool = False


class BoardBroker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is; `ca`, `cert`, `key` are files on the board (DER)."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    user: str = ""
    password: str = ""
    server_name: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""


class BoardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file; times are whole milliseconds of fleet time, names as on the wire.

    `localisation`: "odometry" trusts the wheels from `start_zone` on, "camera" moves only while
    fixes of a localiser are fresh. `speed` above 1 is for the bench. `token_sha256` is the hash of
    what the operator types to arm; `selftest` names the result that arming asks for ("" asks for
    none, on the bench).
    """

    fleet: str
    host: str
    robot: str
    broker: BoardBroker
    token_sha256: str
    limits: BoardLimits = BoardLimits()
    pins: BoardPins = BoardPins()
    calibration: BoardCalibration = BoardCalibration()
    arena: dict[str, Any] = {}
    option: dict[str, Any] = {}
    battery_v: dict[str, Volts] = {}
    localisation: str = "odometry"
    start_zone: Annotated[int, Meta(ge=0, le=10_000)] = 0
    seed: Annotated[int, Meta(ge=0)] = 0
    deadman_ms: Annotated[int, Meta(ge=100, le=2000)] = 500
    link_ms: Annotated[int, Meta(ge=500, le=10_000)] = 2000
    pose_max_age_ms: Annotated[int, Meta(ge=100, le=10_000)] = 1000
    tick_ms: Annotated[int, Meta(ge=20, le=100)] = 50
    hold_ms: Annotated[int, Meta(ge=500, le=600_000)] = 18_000
    option_ms: Annotated[int, Meta(ge=500, le=600_000)] = 6000
    arm_minutes: Annotated[int, Meta(ge=1, le=1440)] = 60
    watchdog_ms: Annotated[int, Meta(ge=0, le=8300)] = 8000
    speed: Annotated[float, Meta(gt=0, le=20)] = 1.0
    store: str = "epochs.json"
    selftest: str = "selftest.json"
    log: str = ""
    log_bytes: Annotated[int, Meta(ge=0)] = 0
    wifi: dict[str, str] = {}
    inputs: str = ""
    trace: str = ""

    def __post_init__(self) -> None:
        check_name("fleet", self.fleet)
        check_host(self.host)
        check_name("robot", self.robot)
        if not re.fullmatch(r"[0-9a-f]{64}", self.token_sha256):
            raise InputError("token_sha256 must be a SHA-256 in lower-case hex")
        if self.localisation not in ("odometry", "camera"):
            raise InputError(
                f"localisation {self.localisation!r} is neither 'odometry' nor 'camera'"
            )
        if 2 * self.tick_ms > self.deadman_ms:
            raise InputError(
                f"tick_ms = {self.tick_ms} must be at most half of deadman_ms = {self.deadman_ms}"
            )
        layout = msgspec.convert(self.arena, RingLayout)
        msgspec.convert(self.option, OptionSettings)
        if self.start_zone >= layout.zones:
            raise InputError(f"start_zone {self.start_zone} is not below {layout.zones} zones")


def token_hash(token: str) -> str:
    """Return what a board keeps of its operator's token; at least 8 characters."""
    if len(token) < 8:
        raise InputError(f"an operator token of {len(token)} characters is too short: at least 8")
    return hashlib.sha256(token.encode()).hexdigest()


def to_der(pem: bytes, what: str) -> bytes:
    """DER of the first PEM block of a file; `InputError` when there is none."""
    block = re.search(rb"-----BEGIN ([A-Z ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----", pem)
    if block is None:
        raise InputError(f"{what} holds no PEM block")
    if b"ENCRYPTED" in block[1]:
        raise InputError(f"{what} is encrypted, and a board has nobody to type a password")
    if block[1] == b"CERTIFICATE":
        return ssl.PEM_cert_to_DER_cert(block[0].decode())
    return base64.b64decode(block[2])


def write_settings(path: Path, settings: BoardSettings) -> None:
    """Write `kofn.json`, readable by this user only (it may hold a password)."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(settings), indent=1))


def write_board_folder(
    out: Path,
    settings: BoardSettings,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> list[Path]:
    """Write all that is copied onto a board: firmware, `kofn.json`, certificates in DER.

    Parameters
    ----------
    out
        A folder that is new or empty.
    settings
        Of this robot; file names of certificates are filled in.
    ca, cert, key
        PEM files of the authority and of this host.

    Raises
    ------
    InputError
        The folder holds something, or a file is missing or not PEM.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder")
    blobs: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for name, file in (("ca", ca), ("cert", cert), ("key", key)):
        if file is None:
            continue
        try:
            blobs[f"{name}.der"] = to_der(file.read_bytes(), str(file))
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from error
        names[name] = f"{name}.der"
    if bool(cert) != bool(key):
        raise InputError("a certificate needs its key, and a key its certificate")
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)  # noqa: PTH101  keys lie in it
    shutil.copytree(FIRMWARE / "robot", out / "robot", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "selftest.py"):
        shutil.copy(FIRMWARE / name, out / name)
    for name, blob in blobs.items():
        write_atomic(out / name, blob)
    broker = msgspec.structs.replace(settings.broker, **names)
    write_settings(out / "kofn.json", msgspec.structs.replace(settings, broker=broker))
    return sorted(path for path in out.rglob("*") if path.is_file())
