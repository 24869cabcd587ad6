# SPDX-License-Identifier: MIT
"""The contract between a federated round and a rule that chooses its clients.

One round, as calls (by the Flower strategy, by the event clock, or by any other loop)::

    selector.register(names)                                  # whenever new clients are seen
    request = selector.wants(server_round, online, rng)       # whom to poll, and for what
    selector.observe(server_round, statuses)                  # the replies that came in time
    chosen = selector.select(server_round, online, m, rng)    # who trains, and how
    selector.update(server_round, outcomes)                   # what the server saw of them

Clients are known by stable names, never by the node ids of a run. A selector knows what these
calls tell it and nothing else: durations are those that the server measured in past rounds, losses
those that clients reported. It does no I/O. The generator comes with each call, so all that a
selector remembers is in `state`, and a caller that seeds the generator by (seed, round) can resume
at any round.

Defined for all selectors: with `m` above the number of clients online all of them are chosen; with
nobody online nobody is; ties are broken by the generator; a client that was polled and did not
reply is treated as known from earlier rounds, or as unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

#: What a poll asks for: nothing, the status bin, the loss of the fresh model, or resources.
PollWhat = Literal["nothing", "status", "loss", "resources"]

#: Settings of one client's training, sent with the model.
ConfigValue = int | float | str

#: The setting that says how many epochs a client trains, in `Selection.per_client_config`.
EPOCHS = "epochs"

#: A local policy instead: epochs by the client's own bin, as "1,1,5,5". The client finds its bin
#: with the reference that `REFERENCE_LOSS` and `REFERENCE_S` carry (see `kofn.fed.status`).
EPOCHS_BY_BIN = "epochs-by-bin"
REFERENCE_LOSS = "reference-loss"
REFERENCE_S = "reference-s"


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client compares itself with to find its bin; the server's own averages.

    Attributes
    ----------
    loss : float, optional
        Mean sample loss over recent participants.
    duration_s : tuple of float
        Ascending limits between the speed bins: time of one full training round, s.
    """

    loss: float | None = None
    duration_s: tuple[float, ...] = ()


class PollRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to poll before clients are chosen, and for what.

    Attributes
    ----------
    clients : tuple of str
        Names, without repetition; a client that is offline costs no message.
    what : {"nothing", "status", "loss", "resources"}
        "loss" sends the model: its download and the pass over the data are part of the cost.
    samples : int, optional
        For "loss": how many samples to estimate it on; all if omitted.
    reference : Reference, optional
        For "status": sent along, see there.
    """

    clients: tuple[str, ...] = ()
    what: PollWhat = "nothing"
    samples: int | None = None
    reference: Reference | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One client's reply to a poll; see `kofn.fed.status` for its form on the wire.

    Attributes
    ----------
    name : str
        Stable name of the client.
    bin : int
        Its value and speed bin, from 0, see `Bins`; 0 where the poll asked for something else.
    last_trained : int
        Server round in which it last trained; -1 for never.
    loss : float, optional
        Mean sample loss of the fresh model, where the poll asked for it.
    samples : int, optional
        Number of training samples it holds.
    compute_s, upload_s : float, optional
        Its own estimate of one training round and of one upload, s, where the poll asked for it.
    """

    name: str
    bin: int = 0
    last_trained: int = -1
    loss: float | None = None
    samples: int | None = None
    compute_s: float | None = None
    upload_s: float | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who trains in this round, and until when.

    Attributes
    ----------
    clients : tuple of str
        Names, without repetition, all online.
    per_client_config : dict of str to dict
        Settings for single clients, such as `EPOCHS`; clients that are not named here keep the
        defaults of the run.
    call : str
        The call in force, for the log; empty where the rule knows no calls.
    deadline_s : float, optional
        The round ends this long after it began, s; None waits for everybody. Where time is
        measured, what messages take comes on top, and a round without a model waits on for one.
    keep : int, optional
        The round ends once so many have arrived, and only they count; None keeps all.
    """

    clients: tuple[str, ...]
    per_client_config: dict[str, dict[str, ConfigValue]] = msgspec.field(default_factory=dict)
    call: str = ""
    deadline_s: float | None = None
    keep: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server saw of one chosen client.

    Attributes
    ----------
    name : str
        Stable name of the client.
    duration_s : float
        From sending the model to its arrival, s; of a client that did not arrive, how long the
        server waited.
    loss : float, optional
        Mean sample loss of the received model on the client's data, before it trained.
    samples : int
        Number of its training samples; 0 where it did not arrive.
    arrived : bool
        Whether its update counted in this round.
    loss_rms : float, optional
        Root mean square of the sample losses (Oort's statistical utility).
    accuracy : float, optional
        Accuracy of the received model on the client's data (TiFL's tier accuracy).
    epochs : int
        Epochs it was asked to train.
    bin : int, optional
        Its status bin after training, reported with the update.
    grace_s : float
        What the deadline was put off by for what messages take, s, part of `duration_s`; 0 in
        simulated time, where what clients say of themselves includes their messages.
    """

    name: str
    duration_s: float
    loss: float | None
    samples: int
    arrived: bool
    loss_rms: float | None = None
    accuracy: float | None = None
    epochs: int = 1
    bin: int | None = None
    grace_s: float = 0.0


@runtime_checkable
class Selector(Protocol):
    """A rule that chooses clients; `check_selector` holds it to the contract above."""

    @property
    def name(self) -> str:
        """Name of the rule, as in logs and study files."""

    def register(self, names: Sequence[str]) -> None:
        """Learn which clients exist; called again with those that join later."""

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Return whom to poll before this round, and for what."""

    def observe(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Take the replies to that poll, in any order; some or all may be missing."""

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose min(m, number online) clients, or say why fewer or more in the rule's page."""

    def update(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Take what the server saw of the chosen clients."""

    def state(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""

    def close(self) -> None:
        """End what runs in the background, if anything does."""
