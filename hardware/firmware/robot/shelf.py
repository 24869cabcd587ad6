# SPDX-License-Identifier: MIT
"""Local policies that arrived, and how the robot draws its action from one.

    a ~ pi_l(. | z, g)  by inverse CDF,  x = first 24 bits of SHA-256(seed, host, t) / 2^24

so x is a function of (seed, host, t) alone, and exact in a float of 24 bits.
"""

import json

from robot.wire import Bad, digest, sha256, spaces

KEPT = 4


def uniform(seed, host, t):
    """Uniform in [0, 1) of step t."""
    head = sha256(("kofn1:robot:%d:%s:%d" % (seed, host, t)).encode()).digest()
    return (head[0] << 16 | head[1] << 8 | head[2]) / 16777216


class Shelf:
    """Keeps the newest policies by hash; arrival switches nothing, a step names what it wants."""

    def __init__(self, n_targets, n_zones, n_actions):
        self._shape = (n_targets, n_zones, n_actions)
        self._cdf = {}
        self._order = []

    def add(self, name, payload):
        """Keep a policy that hashes to `name`; return whether the list held changed."""
        if digest(payload) != name:
            raise Bad("policy does not hash to its topic")
        try:
            data = json.loads(payload)
            table = data["pi_l"]
            shape = (len(table), len(table[0]), len(table[0][0]))
            held = tuple(spaces(shape[1], shape[0], shape[2]))
            if (data["S"], data["G"], data["A"]) != held:
                raise Bad("policy has a shape that its space hashes deny")
            cdf = [[self._row(row, shape[2]) for row in rows] for rows in table]
            if min(len(rows) for rows in cdf) != max(len(rows) for rows in cdf):
                raise Bad("policy has rows of different lengths")
        except Bad:
            raise
        except Exception as error:  # whatever a foreign payload makes Python raise
            raise Bad("not a policy: %s" % error)
        new = name not in self._cdf
        if not new:
            self._order.remove(name)
        self._cdf[name] = (shape, cdf)
        self._order.append(name)
        while len(self._order) > KEPT:
            del self._cdf[self._order.pop(0)]
        return new

    @staticmethod
    def _row(row, size):
        if len(row) != size:
            raise Bad("policy has rows of different lengths")
        total, out = 0.0, []
        for p in row:
            if not 0 <= p <= 1:
                raise Bad("policy has an entry that is no probability")
            total += p
            out.append(total)
        if abs(total - 1) > 1e-5:
            raise Bad("policy has a row that does not sum to 1")
        return out

    def have(self):
        """Hashes held, as steps name them."""
        return ["sha256:" + name for name in self._order]

    def objection(self, pol):
        """Why a step may not use policy `pol`; None when it may."""
        entry = self._cdf.get(pol[7:]) if pol[:7] == "sha256:" else None
        if entry is None:
            return "policy %s is not held" % pol[:19]
        if entry[0] != self._shape:
            return "policy %s is for other spaces" % pol[:19]
        return None

    def draw(self, pol, g, z, x):
        """Local action."""
        row = self._cdf[pol[7:]][1][g][z]
        action = 0
        while action < len(row) - 1 and row[action] <= x:
            action += 1
        return action
