# SPDX-License-Identifier: MIT
"""Choices on the event clock stay what they are: published studies must remain repeatable.

No model is trained here, so that nothing depends on the machine's linear algebra: clients report
losses that fall from round to round. A digest changes only if a rule, its draws, the synthetic
devices or the clock do; then the studies in `docs` have to be played anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from kofn.fed.clock import EventClock
from kofn.fed.data import client_names
from kofn.fed.devices import TraceSettings, synthetic_devices
from kofn.fed.selectors import Outcome, Reference, Status, make_selector
from kofn.fed.status import FIVE, client_bin, epochs_asked, settings_reference
from kofn.fed.streams import stream

N, M, K, ROUNDS, SEED, MODEL_BYTES = 40, 6, 12, 40, 11, 100_000

#: Printed by a failing test; made before time was ever measured.
DIGESTS: dict[tuple[str, str], str] = {
    ("random", ""): "6e30ceda60ce5dbe",
    ("power-of-choice", ""): "2e58fbf0db26df72",
    ("power-of-choice-cached", ""): "59d261acc6ff685b",
    ("oort", ""): "09317cab3f94e443",
    ("fedcs", ""): "01d4986b56dfd3fc",
    ("tifl", ""): "c76f3fd8234a6eee",
    ("fixed-call", "all"): "2d66d3c87128d30f",
    ("fixed-call", "high"): "3b132c1dea24f41b",
    ("fixed-call", "fast"): "754c2ad40a81b9c6",
    ("fixed-call", "both"): "fede0358a56dceb4",
    ("fixed-call", "long"): "ed75f5e392dd2a72",
}


def choices(name: str, **settings: Any) -> list[Any]:
    """Return what was chosen in each round, under what call and until when, and who arrived."""
    names = client_names(N)
    fleet = synthetic_devices(names, TraceSettings(), seed=SEED)
    clock = EventClock(fleet)
    samples = {name: 20 + 7 * i for i, name in enumerate(names)}
    trained = dict.fromkeys(names, -1)
    selector = make_selector(name, k=K, **settings)
    selector.register(names)
    found: list[Any] = []

    def loss(client: str, server_round: int) -> float:
        draw = stream(SEED, "loss", client, max(server_round, 0)).random()
        return float(2 * (0.5 + draw) / (1 + server_round / 10))

    def bin_of(client: str, server_round: int, reference: Reference) -> int:
        last = trained[client]
        return client_bin(
            FIVE,
            server_round=server_round,
            last_trained=last,
            loss=None if last < 0 else loss(client, last),
            duration_s=fleet.devices[client].seconds(
                down=MODEL_BYTES, samples=5 * samples[client], up=MODEL_BYTES
            ),
            reference=reference,
        )

    for server_round in range(1, ROUNDS + 1):
        request = selector.wants(
            server_round, clock.wait_for_somebody(), stream(SEED, "w", server_round)
        )
        polled = clock.poll(
            request,
            samples=samples,
            model_bytes=MODEL_BYTES,
            server_round=server_round,
            timeout_s=60.0,
        )
        statuses = [
            Status(
                name=client,
                bin=bin_of(client, server_round, request.reference or Reference()),
                last_trained=trained[client],
                loss=loss(client, server_round) if request.what == "loss" else None,
                samples=samples[client],
                compute_s=0.005 * samples[client] * fleet.devices[client].ms_per_sample,
                upload_s=8 * MODEL_BYTES / (1000 * fleet.devices[client].up_kbps),
            )
            for client in polled.arrived
        ]
        selector.observe(server_round, statuses)
        selection = selector.select(
            server_round, clock.wait_for_somebody(), M, stream(SEED, "s", server_round)
        )
        epochs = {
            client: epochs_asked(own, bin_of(client, server_round, settings_reference(own)), 5)
            for client in selection.clients
            for own in [selection.per_client_config.get(client, {})]
        }
        passed = clock.train(
            selection.clients,
            samples=samples,
            epochs=epochs,
            model_bytes=MODEL_BYTES,
            server_round=server_round,
            deadline_s=selection.deadline_s,
            keep=selection.keep,
        )
        trained.update(dict.fromkeys(selection.clients, server_round))
        outcomes = [
            Outcome(
                name=client,
                duration_s={**passed.arrived, **passed.waited}[client],
                loss=loss(client, server_round) if client in passed.arrived else None,
                samples=samples[client] if client in passed.arrived else 0,
                arrived=client in passed.arrived,
                loss_rms=loss(client, server_round) if client in passed.arrived else None,
                epochs=epochs[client],
            )
            for client in selection.clients
        ]
        selector.update(server_round, outcomes)
        until = selection.deadline_s
        found.append(
            [
                list(selection.clients),
                selection.call,
                None if until is None else f"{until:.6g}",
                list(passed.arrived),
            ]
        )
    return found


@pytest.mark.parametrize(("name", "call"), DIGESTS)
def test_the_choices_in_simulated_time_are_those_of_the_published_study(
    name: str, call: str
) -> None:
    found = choices(name, **({"call": call} if call else {}))
    # Rounds go on under deadlines, some arrive and some do not.
    assert sum(len(arrived) for *_, arrived in found) > ROUNDS
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert digest == DIGESTS[name, call]
