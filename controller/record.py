# SPDX-License-Identifier: MIT
"""The run folder: what a run leaves behind, readable at any moment and after any end.

    runs/<UTC time>-<name>/
        config.toml     effective settings, one table per part
        policy.npz      the policy that was applied
        run.mcap        messages sent and heard, and every decision (opens in Foxglove)
        summary.json    figures; absent while the run is going on or when it was killed
        hosts/*.jsonl   what hosts logged for themselves;  logs/*.log  stderr of processes

`run.mcap` has one channel per kind of message (`/step`, `/reply`, ..) with a JSON schema; a step
that is repeated, and messages that are refused before they are decoded, are not in it. Records
are not chunked and are flushed twice a step, so the file of a killed controller is whole up to its
last step but for one torn record, which the reader ignores. A run that continues another one
(`resume`) has a folder of its own, whose first record is the checkpoint that it started from.
"""

import json
import struct
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import tomli_w
from mcap.exceptions import McapError
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from mcap.writer import IndexType, Writer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.epoch import write_atomically
from kofn.controller.link import messages
from kofn.controller.results import Checkpoint, Decision, Summary

Recorded = messages.Message | Decision | Checkpoint

KINDS: dict[str, type[messages.Message] | type[Decision] | type[Checkpoint]] = {
    "ctl": messages.Ctl,
    "step": messages.Step,
    "poll": messages.Poll,
    "reply": messages.Reply,
    "done": messages.Done,
    "conn": messages.Conn,
    "roster": messages.Roster,
    "cmd": messages.Cmd,
    "ack": messages.Ack,
    "event": messages.Event,
    "halt": messages.Halt,
    "decision": Decision,
    "checkpoint": Checkpoint,
}
"""Channel (without its slash) -> type of its records."""

WAITING = 1000
"""Records that wait for the next flush at most."""

_MAGIC = b"\x89MCAP0\r\n"


class Entry(NamedTuple):
    """One record of `run.mcap`: `host` is the host that a message came from or went to, or ""."""

    kind: str
    host: str
    message: Recorded
    time_ns: int


class _Addressed(msgspec.Struct, frozen=True):
    """The part of a record that is not in the message itself."""

    host: str


class Recorder:
    """Writes `run.mcap`.

    Parameters
    ----------
    path
        A file that does not exist yet.
    wall_ns
        Wall clock in nanoseconds, a stamp only.
    """

    def __init__(self, path: Path, wall_ns: Callable[[], int] = time.time_ns) -> None:
        try:
            self._file = path.open("xb")
        except FileExistsError:
            raise InputError(f"{path.parent} already holds a run") from None
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        self._path = path
        self._wall_ns = wall_ns
        self._encoder = msgspec.json.Encoder()
        self._writer = Writer(self._file, use_chunking=False, index_types=IndexType.NONE)
        self._writer.start(profile="", library="kofn")
        self._waiting: list[tuple[int, Recorded, str, int]] = []
        self._channels: dict[str, int] = {}
        for kind, record in KINDS.items():
            schema = json.dumps(_schema(record)).encode()
            schema_id = self._writer.register_schema(f"kofn.{kind}", "jsonschema", schema)
            self._channels[kind] = self._writer.register_channel(f"/{kind}", "json", schema_id)

    def write(self, kind: str, message: Recorded, host: str = "") -> None:
        """Append one record; it is safe from a killed process after the next `flush`.

        Encoding and writing wait until then, so that no answer waits for them.
        """
        self._waiting.append((self._channels[kind], message, host, self._wall_ns()))
        if len(self._waiting) >= WAITING:
            self._write_out()

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._write_out()
        try:
            self._file.flush()
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error

    def _write_out(self) -> None:
        """Encode and write what waits."""
        waiting, self._waiting = self._waiting, []
        encode = self._encoder.encode
        try:
            for channel, message, host, now_ns in waiting:
                data = b'{"host":' + encode(host) + b"," + encode(message)[1:]
                self._writer.add_message(channel, now_ns, data, now_ns)
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Write the end of the file; idempotent."""
        if self._file.closed:
            return
        try:
            self._write_out()
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.close()
        except (OSError, RunError) as error:
            with suppress(OSError):
                self._file.close()  # what could not be written stays unwritten
            if isinstance(error, RunError):
                raise
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path
        An existing folder; `RunFolder.create` makes a new one.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InputError(f"run folder {path} does not exist")
        self.path = path

    @classmethod
    def create(cls, root: Path, name: str, *, now: datetime | None = None) -> Self:
        """Make `<root>/<UTC time>-<name>/`, with a number appended where that exists already."""
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        for attempt in range(1000):
            path = root / (f"{stamp}-{name}" + (f"-{attempt + 1}" if attempt else ""))
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(f"cannot make run folder {path}: {error.strerror}") from error
            return cls(path)
        raise RunError(f"cannot find a free name for run {name} in {root}")

    @property
    def record(self) -> Path:
        """Path of `run.mcap`."""
        return self.path / "run.mcap"

    @property
    def policy(self) -> Path:
        """Path of `policy.npz`."""
        return self.path / "policy.npz"

    @property
    def hosts(self) -> Path:
        """Folder of the hosts' own logs."""
        return self.path / "hosts"

    @property
    def logs(self) -> Path:
        """Folder of the processes' stderr."""
        return self.path / "logs"

    def read_config(self) -> dict[str, Any]:
        """Return the tables of `config.toml`; empty when there is none."""
        path = self.path / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a configuration: {error}") from error

    def write_config(self, **tables: Mapping[str, object]) -> None:
        """Set tables of `config.toml` and keep the others; settings that are None are left out."""
        merged = self.read_config() | {name: _without_none(t) for name, t in tables.items()}
        self._write("config.toml", tomli_w.dumps(merged))

    def write_policy(self, policy: Policy) -> None:
        """Leave a copy of the policy."""
        policy.save(self.policy)

    def recorder(self) -> Recorder:
        """Open the record of a new run."""
        return Recorder(self.record)

    def write_summary(self, summary: Summary, **more: object) -> None:
        """Write `summary.json` atomically, with further keys at the end."""
        figures = msgspec.to_builtins(summary) | more
        self._write("summary.json", json.dumps(figures, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """Return the keys of `summary.json`, or None when the run has not ended by itself."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        try:
            figures = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not a summary: {error}") from error
        if not isinstance(figures, dict):
            raise InputError(f"{path} is not a summary: it holds no keys")
        return figures

    def update_summary(self, **figures: object) -> None:
        """Add or replace keys of `summary.json`."""
        merged = (self.read_summary() or {}) | figures
        self._write("summary.json", json.dumps(merged, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            write_atomically(self.path / name, text.encode())
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from error


class RunReader:
    """Reads the record of a run that may still be going on.

    Parameters
    ----------
    folder
        The run folder.

    Raises
    ------
    InputError
        It is not a run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run.mcap"
        if not self._path.is_file():
            raise InputError(
                f"{folder} is not a run folder, or was stopped before its first record: no run.mcap"
            )
        self._decoders = {kind: msgspec.json.Decoder(record) for kind, record in KINDS.items()}
        self._address = msgspec.json.Decoder(_Addressed)
        self._channels: dict[int, str] = {}
        self._read_bytes = 0

    def entries(self) -> Iterator[Entry]:
        """Yield the records that no call before has, in the order in which they were written.

        The file may be torn anywhere: of a killed controller, or of one that is still running. What
        is torn now is read by a later call, once it is whole.

        Raises
        ------
        InputError
            The record holds something else than our records.
        """
        with self._path.open("rb") as file:
            if self._read_bytes == 0:
                magic = file.read(len(_MAGIC))
                if magic != _MAGIC[: len(magic)]:
                    raise InputError(f"{self._path} is not an MCAP file")
                if len(magic) < len(_MAGIC):
                    return
                self._read_bytes = len(_MAGIC)
            file.seek(self._read_bytes)
            for record in _whole_records(StreamReader(file, skip_magic=True).records):
                self._read_bytes = file.tell()
                if isinstance(record, Channel):
                    self._channels[record.id] = record.topic.removeprefix("/")
                elif isinstance(record, Message):
                    kind = self._channels.get(record.channel_id, "")
                    if kind in self._decoders:  # a later version may record more
                        yield self._entry(kind, record)

    def _entry(self, kind: str, record: Message) -> Entry:
        try:
            host = self._address.decode(record.data).host
            message = self._decoders[kind].decode(record.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"{self._path} has a damaged /{kind} record: {error}") from error
        return Entry(kind, host, message, record.log_time)


def read_run(folder: Path) -> Iterator[Entry]:
    """Yield the records of a run, in the order in which they were written (`RunReader`)."""
    yield from RunReader(folder).entries()


def read_decisions(folder: Path) -> list[Decision]:
    """Return the decisions of a run, in order."""
    entries = read_run(folder)
    return [entry.message for entry in entries if isinstance(entry.message, Decision)]


def _whole_records(records: Iterator[Any]) -> Iterator[Any]:
    """Yield records up to the end, or up to the torn one."""
    try:
        yield from records
    except (McapError, struct.error, EOFError, ValueError):  # bad text or lengths are ValueErrors
        return


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    """Drop settings that are None: TOML has no word for them."""
    return {name: value for name, value in table.items() if value is not None}


def _schema(record: type) -> dict[str, Any]:
    """JSON schema of a record with `host` added and references resolved in place.

    Viewers want a plain object at the top and follow no references.
    """
    (schema,), definitions = msgspec.json.schema_components([record])

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
        return {key: resolve(value) for key, value in node.items()}

    plain: dict[str, Any] = resolve(schema)
    plain["properties"] = {"host": {"type": "string"}} | plain["properties"]
    return plain
