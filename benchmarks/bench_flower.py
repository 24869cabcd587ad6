# SPDX-License-Identifier: MIT
"""What client selection adds to a round of Flower, beside FedAvg alone on the nodes it trains.

All in one process, so no network hides anything: `alone` is FedAvg on m nodes; the rules choose m
of n. Flower's own engines pause for at least 100 ms whenever messages are sent. Needs flwr:

    .venv-fed/bin/python benchmarks/bench_flower.py
"""

from __future__ import annotations

import importlib.util
import logging
import time
from importlib import import_module
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring import Row, parser, report

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = (("random", None), ("oort", None), ("mean-field", 100))


def make_app() -> Any:
    """Return a ClientApp that sends its model back."""
    flower, app = import_module("kofn.fed.flower"), import_module("flwr.app")
    client = import_module("flwr.clientapp").ClientApp(mods=[flower.remember()])
    flower.attach_status(client)

    def train(message: Any, context: Any) -> Any:
        del context
        metrics = app.MetricRecord({"num-examples": 1, "loss": 1.0})
        content = app.RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
        return app.Message(content, reply_to=message)

    client.train()(train)
    return client


def round_s(strategy: Any, grid: Any, rounds: int) -> float:
    """Return the median duration of a round after the first two, s."""
    app = import_module("flwr.app")
    arrays, times = app.ArrayRecord([np.zeros((64, 32), np.float32)]), []
    for server_round in range(1, rounds + 3):
        began = time.perf_counter()
        messages = strategy.configure_train(server_round, arrays, app.ConfigRecord(), grid)
        strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        times.append(time.perf_counter() - began)
    return median(times[2:])


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__).parse_args()
    if importlib.util.find_spec("flwr") is None:
        print("bench_flower: flwr is not installed here; see its docstring")
        return
    logging.disable(logging.WARNING)
    flower = import_module("kofn.fed.flower")
    fed_avg: Callable[..., Any] = import_module("flwr.serverapp.strategy").FedAvg
    m = 10 if arguments.quick else 100
    app = make_app()
    alone = round_s(fed_avg(fraction_evaluate=0.0), flower.InProcessGrid(app, m), arguments.repeats)
    rows: list[Row] = []
    for n in (100,) if arguments.quick else (1000, 10_000):
        grid = flower.InProcessGrid(app, n)
        for rule, k in RULES:
            polled = None if k is None else min(k, n)
            inner = fed_avg(fraction_evaluate=0.0)
            strategy = flower.SelectedStrategy(inner, rule, m, k=polled)
            spent = round_s(strategy, grid, arguments.repeats)
            strategy.selector.close()
            rows.append(
                {
                    "n": n,
                    "m": m,
                    "rule": rule,
                    "polled": polled or 0,
                    "alone_ms": 1e3 * alone,
                    "with_ms": 1e3 * spent,
                    "ratio": spent / alone,
                }
            )
    report("a round of Flower with client selection", rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
