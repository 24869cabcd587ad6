# SPDX-License-Identifier: MIT
"""The task: data, model and devices, by the settings in pyproject.toml.

To use your own data, name a function in `dataset = "module:function"` that returns a
`kofn.fed.data.Dataset`; to use your own model, write a module with the three functions of
`torch_model.py`.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kofn.controller.core.errors import InputError
from kofn.fed import learn
from kofn.fed.data import client_names
from kofn.fed.devices import Fleet, TraceSettings, read_fleet, synthetic_devices
from kofn.fed.simulate import Federation
from kofn.fed.status import FIVE, SEVEN, Bins

if TYPE_CHECKING:
    import numpy as np
    from flwr.app import Context, UserConfig

    from kofn.fed.learn import F32, I64, Parameters


class Model(Protocol):
    """What this app asks of a model; parameters are lists of numpy arrays."""

    def initial(self, seed: int) -> Parameters:
        """Return fresh parameters."""

    def losses(self, parameters: Parameters, x: F32, y: I64) -> tuple[F32, float]:
        """Return the loss of each sample, and the accuracy."""

    def train(
        self,
        parameters: Parameters,
        x: F32,
        y: I64,
        *,
        epochs: int,
        rate: float,
        batch: int,
        proximal_mu: float,
        rng: np.random.Generator,
    ) -> Parameters:
        """Return trained parameters."""


class NumpyModel:
    """A perceptron without any framework."""

    def __init__(self, n_features: int, n_classes: int, hidden: int) -> None:
        self._model = learn.Model(n_features=n_features, n_classes=n_classes, hidden=hidden)

    def initial(self, seed: int) -> Parameters:
        """Return fresh parameters."""
        return self._model.initial(seed)

    def losses(self, parameters: Parameters, x: F32, y: I64) -> tuple[F32, float]:
        """Return the loss of each sample, and the accuracy."""
        return learn.sample_losses(parameters, x, y)

    def train(
        self,
        parameters: Parameters,
        x: F32,
        y: I64,
        *,
        epochs: int,
        rate: float,
        batch: int,
        proximal_mu: float,
        rng: np.random.Generator,
    ) -> Parameters:
        """Return trained parameters."""
        return learn.train(
            parameters,
            x,
            y,
            epochs=epochs,
            rate=rate,
            batch=batch,
            rng=rng,
            proximal_mu=proximal_mu,
        )


@lru_cache(maxsize=2)
def _federation(dataset: str, clients: int, partition: str, seed: int) -> Federation:
    # Once per process: a ray worker plays many clients.
    return Federation.make(dataset, clients, partition, seed=seed)


def federation(run: UserConfig) -> Federation:
    """Return the data of all clients."""
    return _federation(
        str(run["dataset"]), int(run["clients"]), str(run["partition"]), int(run["seed"])
    )


@lru_cache(maxsize=4)
def _model(kind: str, n_features: int, n_classes: int, hidden: int) -> Model:
    if kind == "numpy":
        return NumpyModel(n_features, n_classes, hidden)
    if kind == "torch":
        if importlib.util.find_spec("torch") is None:
            raise InputError("model torch needs PyTorch: pip install torch, or choose model numpy")
        from .torch_model import TorchModel

        return TorchModel(n_features, n_classes, hidden)
    raise InputError(f"there is no model {kind!r}; known are auto, numpy and torch")


def model(run: UserConfig) -> Model:
    """Return the model: `auto` is torch where it is installed, and numpy otherwise."""
    kind = str(run["model"])
    if kind == "auto":
        kind = "torch" if importlib.util.find_spec("torch") else "numpy"
    data = federation(run).data
    return _model(kind, data.n_features, data.n_classes, int(run["hidden"]))


@lru_cache(maxsize=2)
def _fleet(clients: int, seed: int, devices: str, online: str) -> Fleet:
    names = client_names(clients)
    if not devices:
        if online:
            raise InputError(f"online times {online} need a file of devices")
        return synthetic_devices(names, TraceSettings(), seed=seed)
    fleet = read_fleet(Path(devices), Path(online) if online else None, seed=seed)
    missing = [name for name in names if name not in fleet.devices]
    if missing:
        raise InputError(f"{devices} has no line for {missing[0]}")
    return fleet


def fleet(run: UserConfig) -> Fleet:
    """Return the simulated devices; each call gets the same, and nobody may change them."""
    return _fleet(int(run["clients"]), int(run["seed"]), str(run["devices"]), str(run["online"]))


def simulates(run: UserConfig) -> bool:
    """Return whether time is simulated."""
    if run["time"] not in {"simulated", "measured"}:
        raise InputError(f"time is {run['time']!r}, not simulated or measured")
    return run["time"] == "simulated"


def bins(run: UserConfig) -> Bins:
    """Return the declared status bins."""
    found = {FIVE.n_states: FIVE, SEVEN.n_states: SEVEN}.get(int(run["states"]))
    if found is None:
        raise InputError(f"states is {run['states']}, but clients have 5 or 7")
    return found


def seed(context: Context) -> int:
    """Return the seed of the run."""
    return int(context.run_config["seed"])


def client_name(context: Context) -> str:
    """Return a client's stable name: which part of the data is its own."""
    part, clients = context.node_config.get("partition-id"), int(context.run_config["clients"])
    if part is None or not 0 <= int(part) < clients:
        raise InputError(
            f"the node's partition-id is {part}, but must be from 0 to {clients - 1} "
            "(flower-supernode --node-config 'partition-id=0')"
        )
    return client_names(clients)[int(part)]


def samples(context: Context) -> tuple[F32, I64]:
    """Return a client's own samples and classes."""
    whole = federation(context.run_config)
    own = whole.parts[whole.names.index(client_name(context))]
    return whole.data.x[own], whole.data.y[own]


def estimates(context: Context, server_round: int) -> tuple[float, float, float]:
    """Return what a simulated client believes of itself: download, computing, upload, s."""
    run, name = context.run_config, client_name(context)
    devices = fleet(run)
    device = devices.devices[name]
    size = n_bytes(run)
    work = len(samples(context)[1]) * int(run["epochs"])
    factor = devices.noise(name, "self", server_round)
    return (
        factor * device.seconds(down=size, samples=0, up=0),
        factor * work * device.ms_per_sample / 1000,
        factor * 8 * size / (1000 * device.up_kbps),
    )


def n_bytes(run: UserConfig) -> int:
    """Return the size of the model, bytes."""
    return sum(array.nbytes for array in model(run).initial(0))
