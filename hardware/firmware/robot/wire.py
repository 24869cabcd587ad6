# SPDX-License-Identifier: MIT
"""The messages of wire protocol 1 that one robot reads and writes.

Decoding is strict where it matters (types, ranges) and ignores fields it does not know. `Bad` says
which field is wrong; nothing else is raised, whatever the bytes are.
"""

import json
from collections import namedtuple

try:
    from hashlib import sha256
except ImportError:
    from uhashlib import sha256
from binascii import hexlify

MAX_PAYLOAD = 64000
BIG = 1 << 53
OK, STALE, UNAVAILABLE, UNKNOWN = 0, 1, 2, 3

Ctl = namedtuple("Ctl", ("ep", "b", "c", "period", "hold", "st", "beat"))
Step = namedtuple("Step", ("ep", "t", "up", "g", "u", "ttl", "pol"))
Poll = namedtuple("Poll", ("ep", "t", "q", "ttl", "ids"))
Cmd = namedtuple("Cmd", ("ep", "id", "op", "ttl", "why"))
Halt = namedtuple("Halt", ("ep", "by", "why"))
Pose = namedtuple("Pose", ("x", "y", "yaw", "age", "wait"))


class Bad(Exception):
    """A payload that is no such message."""


def _load(payload):
    if len(payload) > MAX_PAYLOAD:
        raise Bad("payload of %d bytes" % len(payload))
    try:
        data = json.loads(payload)
    except Exception as error:  # MicroPython raises what its parser meets: ValueError and others
        raise Bad("not JSON: %s" % error)
    if type(data) is not dict:
        raise Bad("not an object")
    if type(data.get("v")) is not int or data["v"] != 1:
        raise Bad("protocol version %s" % data.get("v"))
    return data


def _int(data, key, high=BIG):
    value = data.get(key)
    if type(value) is not int or not 0 <= value < high:
        raise Bad("field %s" % key)
    return value


def _str(data, key, most=200):
    value = data.get(key, "")
    if type(value) is not str or len(value) > most:
        raise Bad("field %s" % key)
    return value


def ctl(payload):
    """Decode the controller's presence."""
    d = _load(payload)
    d.setdefault("beat", 0)
    return Ctl(
        _int(d, "ep"), _str(d, "b", 64), _int(d, "c"), _int(d, "period"), _int(d, "hold"),
        _str(d, "st", 20), _int(d, "beat"),
    )


def step(payload):
    """Decode a step; a list of targets counts by its first entry."""
    d = _load(payload)
    g = d.get("g")
    if type(g) is list:
        d["g"] = g[0] if g else -1
    return Step(
        _int(d, "ep"), _int(d, "t"), _int(d, "up"), _int(d, "g", 1 << 31), _int(d, "u", 1 << 31),
        _int(d, "ttl"), _str(d, "pol", 96),
    )


def poll(payload):
    """Decode a poll."""
    d = _load(payload)
    ids, q = d.get("ids"), _str(d, "q", 16)
    if type(ids) is not list or len(ids) > 1000 or len(q) != 16:
        raise Bad("field ids or q")
    for name in ids:
        if type(name) is not str or not 1 <= len(name) <= 64:
            raise Bad("field ids")
    return Poll(_int(d, "ep"), _int(d, "t"), q, _int(d, "ttl"), ids)


def cmd(payload):
    """Decode a command."""
    d = _load(payload)
    op = _str(d, "op", 16)
    if op not in ("HOLD", "RESUME", "LEAVE", "REFUSED") or not _str(d, "id", 64):
        raise Bad("field op or id")
    return Cmd(_int(d, "ep"), d["id"], op, _int(d, "ttl"), _str(d, "why"))


def halt(payload):
    """Decode a halt."""
    d = _load(payload)
    return Halt(_int(d, "ep"), _str(d, "by", 64), _str(d, "why"))


def pose(payload, robot):
    """Decode the poses of a localiser; the newest one of `robot`, None when it is not among them."""
    d = _load(payload)
    rows = d.get("r")
    if type(rows) is not list:
        raise Bad("field r")
    found = None
    for row in rows:
        if type(row) is not list or len(row) < 5:
            raise Bad("field r")
        if row[0] != robot:
            continue
        for value in row[1:5]:
            if type(value) not in (int, float) or value != value or abs(value) > 1e6:
                raise Bad("field r")
        found = Pose(float(row[1]), float(row[2]), float(row[3]), int(row[4]), row[5:6] == [True])
    return found


def digest(data):
    """SHA-256 as lower-case hex."""
    return hexlify(sha256(data).digest()).decode()


def space_hash(kind, size):
    """Hash of a space of `size` elements, as `kofn.controller.link.policies` makes it."""
    return digest(b"kofn1:%s:%d" % (kind, size))[:16]


def spaces(n_zones, n_targets, n_actions):
    """Hashes (S, G, A)."""
    return (
        space_hash(b"zone", n_zones), space_hash(b"target", n_targets),
        space_hash(b"action", n_actions),
    )


def encode(**fields):
    """JSON bytes of a message."""
    fields["v"] = 1
    return json.dumps(fields).encode()
