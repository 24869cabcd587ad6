# SPDX-License-Identifier: MIT
"""The page for Prometheus, and the echo self-test."""

import logging
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_broker import plain_broker
from prometheus_client.parser import text_string_to_metric_families

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.echo import Echo
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.memory import Faults
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.metrics import Metrics
from kofn.controller.metrics_server import MetricsServer
from kofn.controller.results import Decision


def parsed(page: str) -> dict[str, float]:
    """All samples as Prometheus' own parser reads them, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}[{labels}]"] = sample.value
    return found


def test_page_agrees_with_the_summary(make_fleet: Any) -> None:
    faults = Faults(seed=2, drop={"rep": 0.3}, duplicate={"rep": 0.3})
    fleet = make_fleet(4, 3, faults=faults)
    metrics = Metrics()
    loop = fleet.loop(steps=20, k=4)
    loop._metrics = metrics
    summary = loop.run()
    page = parsed(metrics.text())
    assert page["kofn_steps_total[]"] == 20
    assert page["kofn_missing_total[]"] == summary.missing > 0
    assert page["kofn_refused_total[reason=duplicate]"] > 0
    assert page["kofn_polled_total[wave=1]"] + page["kofn_polled_total[wave=2]"] == (
        summary.polls_sent
    )
    entries = {kind: page[f"kofn_entries_total[kind={kind}]"] for kind in ("fresh", "topped_up")}
    assert sum(entries.values()) == summary.replies_used
    assert page["kofn_entries_total[kind=remembered]"] == summary.remembered
    assert page["kofn_round_seconds_count[]"] == 20
    assert page["kofn_frame_robots[]"] == 7
    assert page["kofn_hosts[state=in_frame]"] == 2
    assert page["kofn_reconnects_total[]"] == 0
    assert page["kofn_messages_total[fate=received]"] > 40
    wanted = {
        *("kofn_skipped_ticks_total[]", "kofn_queue_depth[queue=inbox]", "kofn_epoch[]"),
        *("kofn_hold_seconds_total[]", "kofn_host_events_total[code=hold_timer]"),
        *("kofn_round_seconds[quantile=0.5]", "kofn_round_seconds[quantile=0.99]"),
        *("kofn_refused_total[reason=late]", "kofn_refused_total[reason=conflict]"),
    }
    assert wanted <= set(page)


def test_page_can_be_read_before_the_first_step() -> None:
    page = parsed(Metrics().text())
    assert page["kofn_steps_total[]"] == 0
    assert page["kofn_round_seconds_count[]"] == 0


def test_host_cannot_make_up_labels(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def invent(decision: Decision) -> None:
        body = f'{{"v":1,"b":"x","code":"c{decision.t}","n":2,"text":""}}'.encode()
        fleet.transports["h0"].publish("kofn1/test/evt/h0", body)

    metrics = Metrics()
    loop = fleet.loop(steps=6, progress=invent)
    loop._metrics = metrics
    loop.run()
    page = parsed(metrics.text())
    codes = [name for name in page if name.startswith("kofn_host_events_total")]
    assert not [name for name in codes if re.search(r"code=c\d", name)]
    assert page["kofn_host_events_total[code=other]"] == 10


def test_server_answers_on_loopback_only_and_nothing_but_the_page() -> None:
    with MetricsServer(0, lambda: "kofn_up 1\n") as server:
        url = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:  # noqa: S310
            assert answer.read() == b"kofn_up 1\n"
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/etc/passwd", timeout=5)  # noqa: S310
        assert server._server.server_address[0] == "127.0.0.1"
        with pytest.raises(InputError, match=rf"metrics port {server.port} on 127\.0\.0\.1: "):
            MetricsServer(server.port, str)


def test_silent_client_does_not_keep_others_waiting() -> None:
    with (
        MetricsServer(0, lambda: "kofn_up 1\n") as server,
        socket.create_connection(("127.0.0.1", server.port)),
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer,
    ):
        assert answer.status == 200


class Forgetful:
    """A record of nothing."""

    def write(self, kind: str, message: Any, host: str = "") -> None: ...

    def flush(self) -> None: ...


@pytest.fixture
def broker_url(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A mosquitto without passwords, with or without Nagle's algorithm."""
    with plain_broker(tmp_path, nodelay=request.param != "nagle") as broker:
        yield broker.url


def echo_of(url: str) -> float:
    clock = MonotonicClock()
    config = ControllerConfig(fleet="f", k=1, steps=1, robots=1)
    link = FleetLink(
        config,
        1,
        np.full((2, 2, 2), 0.5),
        transport=MqttTransport(url, clock),
        clock=clock,
        record=Forgetful(),
    )
    link.open(5.0)
    try:
        echo_ms = link.measure_echo()
    finally:
        link.close()
    assert echo_ms is not None
    return echo_ms


@pytest.mark.parametrize(
    ("rounds", "nagle"),
    [
        ([1.0] * 60, False),
        ([45.0] * 6, True),
        ([1.0] * 16 + [45.0] * 6, True),
        ([1.0, 1.0, 45.0] * 20, True),
        ([1.0] * 30 + [45.0] + [1.0] * 30, False),
        ([300.0] * 60, False),
    ],
)
def test_echo_stops_when_it_is_clear(rounds: list[float], nagle: bool) -> None:
    echo = Echo()
    for took_ms in rounds:
        if echo.decided:
            break
        echo.add(took_ms)
    assert echo.decided
    assert echo.nagle == nagle
    assert ("set_tcp_nodelay" in str(echo)) == nagle


@pytest.mark.broker
@pytest.mark.parametrize("broker_url", ["nagle"], indirect=True)
def test_echo_names_a_broker_that_holds_back_small_packets(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert 35 <= echo_of(broker_url) <= 60
    assert "set_tcp_nodelay true" in caplog.text


@pytest.mark.broker
@pytest.mark.parametrize("broker_url", ["nodelay"], indirect=True)
def test_echo_of_our_own_kind_of_broker_is_quick(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert echo_of(broker_url) < 35
    assert "set_tcp_nodelay" not in caplog.text
