# SPDX-License-Identifier: MIT
"""`kofn.json`: everything that makes this board this robot. Checked once, at start.

Written by `kofn hw provision`; the example beside this folder names every key.
"""

import json


class SettingsError(Exception):
    """A key that is missing or out of range, in one sentence."""


def load(path):
    """Read and check the settings."""
    try:
        with open(path) as file:
            cfg = json.load(file)
    except OSError:
        raise SettingsError("%s is missing: provision this board first" % path)
    except ValueError:
        raise SettingsError("%s is not JSON: provision this board again" % path)
    return check(cfg)


def check(cfg):
    """Return the settings with defaults filled in, or raise `SettingsError`."""
    for key in ("fleet", "host", "robot", "broker", "token_sha256", "limits", "pins"):
        if key not in cfg:
            raise SettingsError("kofn.json has no %s" % key)
    if len(cfg["token_sha256"]) != 64:
        raise SettingsError("kofn.json token_sha256 is not a SHA-256 in hex")
    for key, low, high, default in (
        ("deadman_ms", 100, 2000, 500),
        ("link_ms", 500, 10000, 2000),
        ("pose_max_age_ms", 100, 10000, 1000),
        ("tick_ms", 20, 100, 50),
        ("hold_ms", 500, 600000, 18000),
        ("arm_minutes", 1, 1440, 60),
        ("watchdog_ms", 0, 8300, 8000),
    ):
        value = cfg.setdefault(key, default)
        if type(value) is not int or not low <= value <= high:
            raise SettingsError("kofn.json %s = %s must lie in %d..%d" % (key, value, low, high))
    if cfg["tick_ms"] * 2 > cfg["deadman_ms"]:
        raise SettingsError("kofn.json tick_ms must be at most half of deadman_ms")
    limits = cfg["limits"]
    for key, high in (("v", 3), ("w", 20), ("accel", 20)):
        value = limits.get(key)
        if type(value) not in (int, float) or not 0 <= value <= high:
            raise SettingsError("kofn.json limits.%s = %s must lie in 0..%d" % (key, value, high))
    broker = cfg["broker"]
    if "host" not in broker or not 1 <= broker.get("port", 0) <= 65535:
        raise SettingsError("kofn.json broker needs a host, and a port in 1..65535")
    for key in ("arena", "option", "calibration", "battery_v"):
        cfg.setdefault(key, {})
    return cfg
