# SPDX-License-Identifier: MIT
"""The Foxglove layout names topics and fields that a real run.mcap has; Foxglove is not run."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcap.reader import make_reader

LAYOUT = Path(__file__).parents[2] / "docs" / "foxglove.json"


def panels(layout: Any) -> Iterator[str]:
    """Names of the panels in the tree of a layout."""
    if isinstance(layout, str):
        yield layout
    else:
        yield from panels(layout["first"])
        yield from panels(layout["second"])


def paths(config: dict[str, Any]) -> Iterator[str]:
    for panel in config.values():
        if "topicPath" in panel:
            yield panel["topicPath"]
        for path in panel.get("paths", []):
            yield path["value"]


def kind_at(schema: dict[str, Any], path: str) -> str:
    """Type of what a message path as `/topic.field[0]` leads to, by the JSON schema."""
    for name, index in re.findall(r"\.(\w+)(\[[\d:]+\])?", path):
        schema = schema["properties"][name]
        if index and index != "[:]" and "prefixItems" in schema:
            schema = schema["prefixItems"][int(index[1:-1])]
        elif index:
            schema = schema["items"]
    return str(schema["type"])


def test_each_path_of_the_layout_leads_to_a_number_of_a_real_run(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    fleet.run(steps=3)
    with fleet.folder.record.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    schemas = {
        channel.topic: json.loads(summary.schemas[channel.schema_id].data)
        for channel in summary.channels.values()
    }
    layout = json.loads(LAYOUT.read_text())
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    named = list(paths(layout["configById"]))
    assert len(named) >= 15
    for path in named:
        topic, _, field = path.partition(".")
        kind = kind_at(schemas[topic], path) if field else "object"
        assert kind in ({"integer", "number"} if field else {"object"}), path
