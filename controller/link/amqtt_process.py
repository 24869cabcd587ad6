# SPDX-License-Identifier: MIT
"""The embedded broker as a process of its own: `python -m kofn.controller.link.amqtt_process FILE`.

FILE is the JSON written by `write_amqtt_file`. The broker listens on 127.0.0.1 only, knows the
listed users only, and ends on SIGTERM. A process of its own, because one event loop shared with the
controller would make every poll round wait for the controller's arithmetic.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kofn.controller.link.credentials import BrokerUser, hash_password, rights_of
from kofn.controller.link.secret_files import write_atomic

CONFIG_NAME = "amqtt.json"
_PLUGINS = "kofn.controller.link.amqtt_access"


def write_amqtt_file(folder: Path, *, fleet: str, users: Sequence[BrokerUser], port: int) -> Path:
    """Write the configuration into `folder` (readable by us only) and return its path."""
    entries = []
    for user in users:
        writes, reads = rights_of(user.role, fleet, user.name)
        password = hash_password(user.password)
        entries.append({"name": user.name, "password": password, "writes": writes, "reads": reads})
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {
            f"{_PLUGINS}.Login": {"users": entries},
            f"{_PLUGINS}.Access": {"users": entries},
        },
    }
    return write_atomic(folder / CONFIG_NAME, json.dumps(config))


async def serve(config: dict[str, Any]) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    from amqtt.broker import Broker
    from amqtt.contexts import Action
    from amqtt.session import Session

    from kofn.controller.link.amqtt_access import Access

    class EmbeddedBroker(Broker):  # type: ignore[misc]  # amqtt is untyped for us
        """amqtt with two of its faults mended; a test watches each."""

        async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
            # Its loop over subscriptions awaits the plugins in between; a client that subscribes
            # in that moment changes the table under the loop, which fails and loses the message.
            access = self.plugins_manager.get_plugin(Access.__name__)
            return bool(access.permits(session, topic, action))

        async def _publish_retained_messages_for_subscription(
            self, subscription: tuple[str, int], session: Session
        ) -> None:
            # A client that connects would get what is retained for every filter of anybody.
            holders = self.subscriptions.get(subscription[0], [])
            if any(holder.client_id == session.client_id for holder, _ in holders):
                await super()._publish_retained_messages_for_subscription(subscription, session)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    broker = EmbeddedBroker(config)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    """Entry point of the process."""
    from amqtt.errors import BrokerError

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("transitions").setLevel(logging.ERROR)
    try:
        asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
