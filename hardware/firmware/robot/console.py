# SPDX-License-Identifier: MIT
"""The operator's line: commands typed at the board's own serial console (USB), never from the air.

    arm TOKEN · disarm · clear · release TOKEN · creep · status · quit
"""

import asyncio
import sys

from robot.wire import digest


class Console:
    """Reads lines from standard input and answers in one line each."""

    def __init__(self, app, token_sha256):
        self._app, self._token = app, token_sha256

    def obey(self, line):
        """Obey one line; return the answer."""
        words = line.split()
        if not words:
            return ""
        app, word = self._app, words[0]
        now = app.clock.now()
        if word in ("arm", "release"):
            if len(words) != 2 or digest(words[1].encode()) != self._token:
                app.box.note(now, word + " refused: wrong token")
                return "refused: wrong token"
            why = app.arm() if word == "arm" else app.release()
            return word + (" refused: " + why if why else " ok")
        if word == "disarm":
            app.safety.event("disarm", now, "operator")
        elif word == "clear":
            app.safety.event("clear", now, "operator")
        elif word == "creep":
            app.safety.creep()
        elif word == "quit":
            app.ending = True
        elif word != "status":
            return "unknown command: arm TOKEN, disarm, clear, release TOKEN, creep, status, quit"
        return app.status()

    async def run(self):
        """Answer until the input ends."""
        reader = asyncio.StreamReader(sys.stdin)
        while not self._app.ending:
            line = await reader.readline()
            if not line:
                return
            if isinstance(line, bytes):
                line = line.decode()
            answer = self.obey(line)
            if answer:
                print(answer)
