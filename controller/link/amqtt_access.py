# SPDX-License-Identifier: MIT
"""Login and topic rights for the embedded broker, as plugins in amqtt's sense.

amqtt's own plugins would not do: its topic plugin takes no receive list in its present
configuration style, treats an empty publish table as permission for everything, and nothing there
looks at the topic of a last will. Here a user without an entry, a filter that is not in the list,
a client id that is not the user name, or a will on a foreign topic is refused.
"""

from dataclasses import dataclass, field
from typing import Any

from amqtt.contexts import Action, BaseContext
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from kofn.controller.link.credentials import verify_password


@dataclass
class User:
    """A user's stored password and topic filters."""

    name: str
    password: str
    writes: list[str]
    reads: list[str]


@dataclass
class UserTable:
    """Configuration of both plugins."""

    users: list[dict[str, Any]] = field(default_factory=list)

    def by_name(self) -> dict[str, User]:
        """Users by name."""
        return {entry["name"]: User(**entry) for entry in self.users}


def covers(allowed: str, wanted: str) -> bool:
    """Whether filter `allowed` matches all topics that filter (or topic) `wanted` matches."""
    have, want = allowed.split("/"), wanted.split("/")
    for i, level in enumerate(have):
        if level == "#":
            return True
        if i >= len(want) or want[i] == "#" or level not in ("+", want[i]):
            return False
    return len(have) == len(want)


class Login(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is untyped for us
    """User name and password; client id and will must be the user's own."""

    Config = UserTable

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._users = self.config.by_name()

    async def authenticate(self, *, session: Session) -> bool:
        """Return whether the CONNECT of a session is in order; never None (would be ignored)."""
        user = self._users.get(session.username or "")
        if user is None or not verify_password(session.password or "", user.password):
            return False
        if session.client_id != user.name:
            return False
        will = session.will_topic if session.will_flag else None
        return will is None or any(covers(allowed, will) for allowed in user.writes)


class Access(BaseTopicPlugin):  # type: ignore[misc]
    """Publish, subscribe and receive by the lists of the user."""

    Config = UserTable

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._users = self.config.by_name()

    def permits(self, session: Session | None, topic: str | None, action: Action | None) -> bool:
        """Decide without suspending, see `amqtt_process.EmbeddedBroker`."""
        user = self._users.get(session.username or "") if session else None
        if user is None or not topic:
            return False
        filters = user.writes if action == Action.PUBLISH else user.reads
        return any(covers(allowed, topic) for allowed in filters)

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Return whether a user may do this with a topic."""
        return self.permits(session, topic, action)
