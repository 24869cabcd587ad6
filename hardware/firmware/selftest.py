# SPDX-License-Identifier: MIT
"""Self-test of a board, wheels off the ground: `import selftest; selftest.run()` at the console.

Each motor turns both ways at a fifth of the limits and its encoder must count that way; the stop
input must be open, then pressed; the second dead-man must stop the motors while the program is
blocked. The result is written to `selftest.json`, which arming asks for.
"""

import json
import sys
import time

from robot.encoders import Encoders
from robot.guard import Guard
from robot.inputs import Inputs
from robot.motors import Motors
from robot.settings import load

SHARE = 0.2


def wheel_rows(motors, encoders, cal, speed):
    """(name, ok, detail) of each wheel in each direction."""
    rows = []
    half = cal.get("track_m", 0.16) / 2
    for side, name in enumerate(("left", "right")):
        for sign in (1, -1):
            v = sign * speed / 2
            before = encoders.counts()
            motors.drive(v, (v / half) * (1 if side else -1))
            time.sleep_ms(400)
            motors.off()
            time.sleep_ms(150)
            after = encoders.counts()
            mine, other = after[side] - before[side], after[1 - side] - before[1 - side]
            ok = mine * sign > 0 and abs(other) <= abs(mine) // 4
            detail = "%d edges, other wheel %d" % (mine, other)
            rows.append(("%s wheel %s" % (name, "forward" if sign > 0 else "backward"), ok, detail))
    return rows


def deadman_row(motors, speed):
    """Block the program with motors on: the timer must stop them."""
    guard = Guard(motors.off, 200, 0)
    guard.start()
    guard.beat()
    motors.drive(speed, 0.0)
    start = time.ticks_ms()
    while not guard.fired and time.ticks_diff(time.ticks_ms(), start) < 1000:
        pass
    took = time.ticks_diff(time.ticks_ms(), start)
    motors.off()
    guard.stop()
    return ("second dead-man", bool(guard.fired) and took <= 250, "%d ms of 200" % took)


def run(path="kofn.json", out="selftest.json", confirm=None, press=None):
    """Run all; print a table, write the result, return whether all passed."""
    cfg = load(path)
    say = input("Wheels off the ground? Type: wheels up > ") if confirm is None else confirm
    if say.strip() != "wheels up":
        print("nothing was done")
        return False
    cal = cfg["calibration"]
    motors, inputs = Motors(cfg["pins"], cal), Inputs(cfg["pins"])
    encoders = Encoders(cfg["pins"], cal)
    speed = SHARE * cfg["limits"]["v"]
    rows = []
    try:
        if inputs.stop():
            rows.append(("stop input open", False, "pressed, or its wire is broken"))
        else:
            rows.append(("stop input open", True, ""))
            rows += wheel_rows(motors, encoders, cal, speed)
            rows.append(deadman_row(motors, speed))
            if press is not None:
                press()
            else:
                input("Press and hold the stop button, then Enter > ")
            rows.append(("stop input pressed", inputs.stop(), ""))
    finally:
        motors.off()
    for name, ok, detail in rows:
        print("%-22s %-6s %s" % (name, "ok" if ok else "FAILED", detail))
    passed = all(row[1] for row in rows)
    with open(out, "w") as file:
        json.dump({"ok": passed, "rows": [list(row) for row in rows]}, file)
    return passed


if __name__ == "__main__":
    sys.exit(0 if run(*sys.argv[1:3]) else 1)
