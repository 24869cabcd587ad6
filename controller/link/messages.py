# SPDX-License-Identifier: MIT
"""Messages of wire protocol 1 as msgspec structs, and the one way to decode them.

UTF-8 JSON; unknown fields are ignored within a major version; integers stay below 2^53; a payload
is at most 64 000 bytes. Only durations cross the wire, never wall-clock times.

| symbol | meaning |
|---|---|
| v | major version of the protocol, 1 |
| ep, t | epoch (one start of a controller) and step within it; order on the wire is (ep, t) |
| z | zone = local state index s_l of a robot |
| g | target = global state s_g |
| u | global action a_g that led to g |
| q | nonce of a poll round, 16 hex digits |
| b, c | random id of one boot of a process; number of its connection |
| up | milliseconds since the controller's epoch began, on its monotonic clock |
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from kofn.controller.core.errors import InputError

MAX_PAYLOAD_BYTES = 64_000
MAX_POLICY_BYTES = 3_000_000
"""A policy file, in as many parts as it takes."""

Index = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Milliseconds = Annotated[int, Meta(ge=0, lt=2**53)]
Version = Annotated[int, Meta(ge=1, lt=1000)]
# \Z, for $ would let a line feed at the end through.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z")]
Hash = Annotated[str, Meta(max_length=96)]
Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Text = Annotated[str, Meta(max_length=200)]
Pace = Literal["lockstep", "realtime"]
Presence = Literal["ONLINE", "OFFLINE", "CONNECTION_BROKEN"]


class Flag(IntEnum):
    """What a row of a reply says of its zone."""

    OK = 0
    STALE = 1
    UNAVAILABLE = 2
    UNKNOWN = 3


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all messages; `v` is the major version."""

    v: Version = 1


class Ctl(Message, frozen=True, kw_only=True):
    """The controller's presence, epoch and pacing; information only, moves nothing."""

    ep: Count
    b: Name
    c: Count
    st: Presence
    pace: Pace
    period: Milliseconds
    hold: Milliseconds
    proto: list[Version] = msgspec.field(default_factory=lambda: [1])
    beat: Milliseconds = 0
    """This message is repeated so often; 0: only at each connection."""


class Step(Message, frozen=True, kw_only=True):
    """One step of the game for everybody: target g(t) and the action u(t-1) that led to it."""

    ep: Count
    t: Count
    up: Milliseconds
    g: Index | list[Index]
    u: Index
    ttl: Milliseconds
    pol: Hash
    k: Index
    m: tuple[Index, Index, Index, Index]
    """Fresh, topped-up, remembered and padded answers of the round from which `u` was chosen."""


class Poll(Message, frozen=True, kw_only=True):
    """Ask one host for the latched zones of some of its robots."""

    ep: Count
    t: Count
    up: Milliseconds
    q: Nonce
    w: Literal[1, 2]
    ttl: Milliseconds
    ids: list[Name]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One robot's answer; `z_prev` and `a_prev` are its last transition, both or neither."""

    id: Name
    z: Index | None
    flag: Flag
    age_ms: Milliseconds
    z_prev: Index | None = None
    a_prev: Index | None = None


class Reply(Message, frozen=True, kw_only=True):
    """A host's answer to one poll message."""

    ep: Count
    t: Count
    q: Nonce
    b: Name
    n: Count
    r: list[Row]


class Done(Message, frozen=True, kw_only=True):
    """A lockstep host has advanced its world through step t; `sim` is its world time in ms."""

    ep: Count
    t: Count
    b: Name
    n: Count
    sim: Milliseconds


class Conn(Message, frozen=True, kw_only=True):
    """A host's presence; `n` robots behind it."""

    b: Name
    c: Count
    st: Presence
    n: Count


class RobotRange(msgspec.Struct, frozen=True, kw_only=True):
    """Robots `<prefix>0` to `<prefix><count-1>`."""

    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,48}\Z")]
    count: Annotated[int, Meta(ge=1, le=1_000_000)]


class Roster(Message, frozen=True, kw_only=True):
    """What a host offers: its robots, spaces, policies held."""

    b: Name
    pace: Pace
    robots: list[Name] | RobotRange
    S: Hash
    G: Hash
    A: Hash
    have: list[Hash]
    proto: list[Version] = msgspec.field(default_factory=lambda: [1])
    sw: Text = ""


class Cmd(Message, frozen=True, kw_only=True):
    """An order to one host."""

    ep: Count
    id: Name
    op: Literal["HOLD", "RESUME", "LEAVE", "REFUSED"]
    ttl: Milliseconds
    why: Text = ""


class Ack(Message, frozen=True, kw_only=True):
    """A host's acknowledgement of a command."""

    b: Name
    id: Name
    ok: bool
    why: Text = ""


class Event(Message, frozen=True, kw_only=True):
    """A rate-limited diagnostic of a host; `n` counts repeats."""

    b: Name
    code: Name
    n: Count
    text: Text = ""


class Halt(Message, frozen=True, kw_only=True):
    """Forbids motion in every epoch up to and including `ep`."""

    ep: Count
    by: Name
    why: Text = ""


class PoseRow(msgspec.Struct, frozen=True, array_like=True):
    """Where a robot was `age_ms` before the message was sent: m, m, rad in the arena's frame.

    With `wait` it must not go ahead, because others are near; it may turn, and waits until a pose
    comes that says otherwise.
    """

    id: Name
    x: Coordinate
    y: Coordinate
    yaw: Coordinate
    age_ms: Milliseconds
    wait: bool = False


class Pose(Message, frozen=True, kw_only=True):
    """Poses of a host's robots from a localiser; a pose moves nothing, its absence stops."""

    b: Name
    r: list[PoseRow]


class LocalPolicy(Message, frozen=True, kw_only=True):
    """The shared local policy as distributed on `pol/<sha256>`; data, never motion.

    `pi_l[s_g][s_l][a_l]` is a distribution over local actions for each target and zone.
    S, G, A are the hashes of the zone, target and action spaces that it was made for.
    """

    S: Hash
    G: Hash
    A: Hash
    pi_l: list[list[list[float]]]


class Parts(Message, frozen=True, kw_only=True):
    """A policy file that is too long for one message: the SHA-256 of its parts, in order.

    Each part is a message of its own on `pol/<its sha256>`; a step names the hash of this one.
    """

    size: Annotated[int, Meta(ge=1, le=MAX_POLICY_BYTES)]
    parts: Annotated[list[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]], Meta(max_length=64)]


MessageT = TypeVar("MessageT", bound=Message)

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Message], msgspec.json.Decoder[Message]] = {}


def encode(message: Message) -> bytes:
    """JSON bytes of a message; raises `InputError` above 64 000 bytes."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InputError(
            f"{type(message).__name__} of {len(payload)} bytes exceeds the limit of "
            f"{MAX_PAYLOAD_BYTES} bytes"
        )
    return payload


def decode(kind: type[MessageT], payload: bytes, *, limit: int = MAX_PAYLOAD_BYTES) -> MessageT:
    """Decode and validate a payload of at most `limit` bytes as message `kind`.

    Raises
    ------
    InputError
        The payload is too large, is not the JSON of such a message, has a value out of range or
        another major version. The sentence names the field.
    """
    if len(payload) > limit:
        raise InputError(f"payload of {len(payload)} bytes exceeds {limit} bytes")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        message = decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not a {kind.__name__}: {error}") from error
    if message.v != 1:
        raise InputError(f"{kind.__name__} of protocol version {message.v}, this side speaks 1")
    return message  # type: ignore[return-value]  # the decoder was made for this kind


def robot_ids(robots: Sequence[str] | RobotRange) -> list[str]:
    """Names of the robots that a roster offers."""
    if isinstance(robots, RobotRange):
        return [f"{robots.prefix}{i}" for i in range(robots.count)]
    return list(robots)
