# SPDX-License-Identifier: MIT
"""`docs/protocol.md`, made from the message types themselves.

    python -m kofn.controller.link.specification > docs/protocol.md

Fields, types and limits are those of `messages`; each example is encoded by the code that encodes
the real thing. A test compares the page with what this module makes.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import msgspec.inspect as mi
import numpy as np

from kofn.controller.link import messages as m
from kofn.controller.link.policies import pack_policy, spaces_of
from kofn.controller.link.topics import Topics

FLEET, HOST, BOOT = "yard", "sim-0", "b7c1d2e3f4a50617"
_TABLE = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.25, 0.75]]])
_DIGEST, _FILE = pack_policy(_TABLE)
_SPACES = spaces_of(2, 2, 2)
_NONCE = "9f2c44d01b7ae653"


class Entry(NamedTuple):
    """One kind of message: where it goes, how, and an example."""

    level: str
    way: str
    qos: int
    retained: str
    example: m.Message


ENTRIES = (
    Entry("ctl", "controller -> all", 1, "yes, and as last will", m.Ctl(
        ep=3, b="c0ffee0123456789", c=1, st="ONLINE", pace="realtime", period=6000, hold=18000,
    )),
    Entry(f"conn/{HOST}", "host -> controller", 1, "yes, and as last will", m.Conn(
        b=BOOT, c=2, st="ONLINE", n=3,
    )),
    Entry(f"roster/{HOST}", "host -> controller", 1, "yes", m.Roster(
        b=BOOT, pace="realtime", robots=m.RobotRange(prefix="sim-0.r", count=3), S=_SPACES.S,
        G=_SPACES.G, A=_SPACES.A, have=[f"sha256:{_DIGEST}"], sw="kofn 0.1.0",
    )),
    Entry(f"pol/{_DIGEST}", "controller -> all", 1, "yes", m.LocalPolicy(
        S=_SPACES.S, G=_SPACES.G, A=_SPACES.A, pi_l=_TABLE.tolist(),
    )),
    Entry("pol/<sha256 of this message>", "controller -> all", 1, "yes", m.Parts(
        size=71_204, parts=["0" * 64, "1" * 64],
    )),
    Entry("step", "controller -> all", 0, "no", m.Step(
        ep=3, t=7, up=42_018, g=1, u=0, ttl=12_000, pol=f"sha256:{_DIGEST}", k=2, m=(1, 1, 0, 0),
    )),
    Entry(f"poll/{HOST}", "controller -> host", 0, "no", m.Poll(
        ep=3, t=7, up=42_018, q=_NONCE, w=1, ttl=3000, ids=["sim-0.r2", "sim-0.r0"],
    )),
    Entry(f"rep/{HOST}", "host -> controller", 0, "no", m.Reply(
        ep=3, t=7, q=_NONCE, b=BOOT, n=3,
        r=[
            m.Row("sim-0.r2", 1, m.Flag.OK, 0, 0, 1),
            m.Row("sim-0.r0", None, m.Flag.UNAVAILABLE, 0),
        ],
    )),
    Entry(f"done/{HOST}", "host -> controller, lockstep only", 0, "no", m.Done(
        ep=3, t=7, b=BOOT, n=3, sim=48_000,
    )),
    Entry(f"cmd/{HOST}", "controller -> host", 1, "no", m.Cmd(
        ep=3, id="5d0f6a7788c1e2b3", op="HOLD", ttl=10_000, why="battery change",
    )),
    Entry(f"ack/{HOST}", "host -> controller", 1, "no", m.Ack(
        b=BOOT, id="5d0f6a7788c1e2b3", ok=True,
    )),
    Entry(f"evt/{HOST}", "host -> controller", 0, "no", m.Event(
        b=BOOT, code="hold_timer", n=1, text="no valid step for the hold time",
    )),
    Entry(f"pose/{HOST}", "localiser -> host", 0, "no", m.Pose(
        b="c4a1b2c3d4e5f607", r=[m.PoseRow("sim-0.r2", 1.25, -0.4, 1.571, 40)],
    )),
    Entry("halt", "controller or operator -> all", 1, "yes", m.Halt(
        ep=3, by="operator", why="smoke in hall 2",
    )),
)  # fmt: skip
"""All messages, in the order of a run."""

_HEAD = """\
# Wire protocol 1

<!-- Made by: python -m kofn.controller.link.specification > docs/protocol.md -->

Between a controller and its hosts lies an MQTT broker (3.1.1 or 5). A host is one process with
one connection that speaks for one or many robots. This page is made from the message types of the
code; the examples belong to fleet `{fleet}`, host `{host}`, and to one step of one run.

Payloads are UTF-8 JSON of at most {limit} bytes. Unknown fields are ignored within a major
version, so fields may be added; a payload with another `v`, a missing field or a value out of
range is refused, counted, and named once a minute in the log. Only durations cross the wire,
never times of day.

| symbol | meaning |
|---|---|
| `ep`, `t` | epoch (one start of a controller) and step in it; the order is (ep, t) |
| `b`, `c` | random id of one boot of a process; number of its connection, of any attempt |
| `z`, `g` | zone (local state), target (global state) |
| `u`, `a` | global action, local action |
| `q` | nonce of one poll round |
| `up` | milliseconds since the epoch began, on the controller's monotonic clock |

## Rules

- A host obeys the highest `ep` it has seen, and no step that is not newer than its last.
- On taking step t a robot ends its action, reads and latches its zone z(t), draws a(t) from the
  local policy `pol` at (z(t), g(t)), and acts. Polls for t are answered from the latch.
- An answer counts once, if (ep, t, q) is the open round, the robot was asked, and it is the
  host's own.
- Nothing retained moves a robot: retained copies of step, poll, reply, done, command,
  acknowledgement and event are dropped. A retained halt stops it.
- Without a valid step for `hold` ms a robot holds, until a newer step comes.
- Where `beat` is above 0 the controller repeats `ctl` every `beat` ms; a host whose robots can hurt
  holds when it falls silent.
- A halt forbids motion in every epoch up to its own. It is repeated until every host has answered
  with the event `halted`; hosts that have not are named.
- A command is executed once and acknowledged each time it comes. HOLD lasts until RESUME or the
  next epoch; RESUME moves nothing, the next step does; LEAVE stops the robots and ends the host;
  REFUSED is a HOLD that says why a host cannot take part (spaces, protocol version, robots of
  another host).
- Presence that is not ONLINE counts only with the (b, c) of the last ONLINE: a will may overtake
  a birth.
- A broadcast step carries no signature: who may publish `step` moves the fleet. The broker's
  rights ([security.md](security.md)) are what protects it.
"""


def markdown() -> str:
    """Return the page."""
    lines = [_HEAD.format(fleet=FLEET, host=HOST, limit=f"{m.MAX_PAYLOAD_BYTES:,}")]
    lines += ["## Topics", ""]
    root = Topics(FLEET).root
    lines += [f"All below `{root}`; names are 1 to 64 of `A-Z a-z 0-9 _ . : -`.", ""]
    lines += ["| topic | message | way | QoS | retained |", "|---|---|---|---|---|"]
    for entry in ENTRIES:
        name = type(entry.example).__name__
        level = entry.level.replace(HOST, "<host>").replace(_DIGEST, "<sha256>")
        lines.append(
            f"| `{level}` | [{name}](#{name.lower()}) | {entry.way} | {entry.qos} | "
            f"{entry.retained} |"
        )
    lines.append("")
    for entry in ENTRIES:
        lines += _section(entry)
    lines += ["## Rows of a reply", "", _first_paragraph(m.Row), ""]
    lines += _fields(m.Row)
    flags = ", ".join(f"{flag.value} {flag.name.lower()}" for flag in m.Flag)
    lines += ["", f"A row is an array in this order; flags are {flags}.", ""]
    return "\n".join(lines)


def _section(entry: Entry) -> Iterator[str]:
    kind = type(entry.example)
    yield f"## {kind.__name__}"
    yield ""
    yield _first_paragraph(kind)
    yield ""
    yield from _fields(kind)
    yield ""
    yield f"On `{Topics(FLEET).root}{entry.level}`:"
    yield ""
    yield "```json"
    yield (
        _FILE.decode()
        if isinstance(entry.example, m.LocalPolicy)
        else m.encode(entry.example).decode()
    )
    yield "```"
    yield ""


def _fields(kind: type[msgspec.Struct]) -> Iterator[str]:
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)  # noqa: S101
    yield "| field | type | if absent |"
    yield "|---|---|---|"
    for field in info.fields:
        absent = "refused" if field.required else "default"
        if field.default is not msgspec.NODEFAULT:
            absent = f"`{msgspec.json.encode(field.default).decode()}`"
        elif field.default_factory is not msgspec.NODEFAULT:
            absent = f"`{msgspec.json.encode(field.default_factory()).decode()}`"
        yield f"| `{field.encode_name}` | {_words(field.type)} | {absent} |"


def _words(kind: mi.Type) -> str:
    """A type in words."""
    match kind:
        case mi.Metadata():
            return _words(kind.type)
        case mi.IntType():
            least = "" if kind.ge is None else f" from {kind.ge}"
            most = "" if kind.lt is None else f", below {_power(kind.lt)}"
            most = most if kind.le is None else f" to {kind.le}"
            return f"integer{least}{most}"
        case mi.FloatType():
            if kind.ge is None or kind.le is None:
                return "number"
            return f"number from {kind.ge:g} to {kind.le:g}"
        case mi.StrType():
            if kind.pattern is not None:
                return f"text `{kind.pattern.removesuffix(chr(92) + 'Z')}$`".replace("|", "\\|")
            return "text" if kind.max_length is None else f"text of at most {kind.max_length}"
        case mi.BoolType():
            return "true or false"
        case mi.NoneType():
            return "null"
        case mi.LiteralType():
            return ", ".join(f"`{value}`" for value in sorted(kind.values, key=str))
        case mi.EnumType():
            return "flag"
        case mi.TupleType():
            return "array of " + ", ".join(_words(item) for item in kind.item_types)
        case mi.ListType():
            most = "" if kind.max_length is None else f" of at most {kind.max_length}"
            return f"array{most} of ({_words(kind.item_type)})"
        case mi.UnionType():
            return " or ".join(_words(one) for one in kind.types)
        case mi.StructType():
            if kind.cls is m.Row:
                return "[row](#rows-of-a-reply)"
            inner = ", ".join(f"`{f.encode_name}`: {_words(f.type)}" for f in kind.fields)
            return f"[{inner}]" if kind.array_like else f"object {{{inner}}}"
        case _:
            raise TypeError(f"no words for {kind}")


def _power(bound: float) -> str:
    exponent = int(bound).bit_length() - 1
    return f"2^{exponent}" if bound == 2**exponent and exponent > 8 else f"{int(bound)}"


def _first_paragraph(kind: type) -> str:
    paragraphs = (kind.__doc__ or "").strip().split("\n\n")
    return " ".join(" ".join(part.split()) for part in paragraphs)


if __name__ == "__main__":
    sys.stdout.write(markdown())
