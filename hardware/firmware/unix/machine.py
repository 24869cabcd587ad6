# SPDX-License-Identifier: MIT
"""A stand-in for the board on the bench: pins, PWM, ADC, timer and watchdog of the unix port.

It shadows the port's own `machine` on MICROPYPATH. Two wheels integrate what the PWM pins say, and
their encoders call the interrupt handlers as a real disc would, edge by edge; nothing else is
simulated (no slip, no collision). `KOFN_BENCH` names a JSON file with pins and geometry; where it
has a `trace`, each change of the motors' state (turning or not) is a line there:
`<milliseconds> <0 or 1>`; a read that begins to hang is `<milliseconds> blocked`. On 64-bit Linux
they are those of the system's monotonic clock.
"""

import json
import math
import os
import time

SIMULATED = True


def _configured():
    path = os.getenv("KOFN_BENCH")
    if not path:
        return {}
    with open(path) as file:
        return json.load(file)


_cfg = _configured()
_pins = _cfg.get("pins", {})
_levels = {}
_duty = {}
_handlers = {}
_adc = {}
_trace = open(_cfg["trace"], "a") if _cfg.get("trace") else None
_turning = None


class Pin:
    """Input pins read `_levels`; pull-ups read 1, a normally closed stop input 0."""

    IN, OUT, PULL_UP, IRQ_RISING, IRQ_FALLING = 0, 1, 2, 1, 2

    def __init__(self, number, mode=-1, pull=None):
        self.number = number
        if number not in _levels:
            closed = number == _pins.get("estop") and _pins.get("estop_nc", True)
            _levels[number] = 0 if closed else int(pull == Pin.PULL_UP)

    def value(self):
        _read_inputs()
        return _levels[self.number]

    def irq(self, handler=None, trigger=3):
        _handlers[self.number] = (handler, self)


class PWM:
    """Remembers its duty; the wheels integrate it."""

    def __init__(self, pin, freq=0, duty_u16=0):
        self._number = pin.number
        _duty[self._number] = duty_u16

    def duty_u16(self, duty):
        if _duty[self._number] == duty:
            return
        _wheels.advance()
        _duty[self._number] = duty
        _note_motion()


class ADC:
    """Constant voltage: `adc` of the bench file by pin, else 40000."""

    def __init__(self, pin):
        self._number = pin.number

    def read_u16(self):
        _read_inputs()
        return _adc.get(str(self._number), 40000)


class WDT:
    """The bench has no reset line; the second dead-man is what its tests look at."""

    def __init__(self, timeout):
        self.timeout = timeout

    def feed(self):
        pass


class Timer:
    """Calls back every `period` ms from a thread, as an interrupt would."""

    def __init__(self, number=-1):
        self._on = False

    def init(self, period, callback):
        import _thread

        self._on = True
        _thread.start_new_thread(self._run, (period, callback))

    def deinit(self):
        self._on = False

    def _run(self, period, callback):
        while self._on:
            time.sleep_ms(period)
            if self._on:
                callback(self)


def disable_irq():
    _read_inputs()
    if _blocked:  # an encoder read that never ends, when the bench asks for it
        if _trace is not None:
            _trace.write("%d blocked\n" % time.ticks_ms())
            _trace.flush()
        while _blocked:  # an interrupt needs no interpreter; the thread in its place does
            time.sleep_ms(1)
            _read_inputs()
    _wheels.advance()
    return 0


def enable_irq(state):
    pass


class _Wheels:
    def __init__(self, cfg):
        cal = cfg.get("calibration", {})
        self._full = cal.get("full_speed_mps", 0.6)
        self._deadband = cal.get("deadband", 0.0)
        self._edge = 2 * math.pi * cal.get("wheel_radius_m", 0.035) / cal.get("ticks_per_rev", 720)
        self._speed = cfg.get("speed", 1)
        self._at = time.ticks_us()
        self._way = [0.0, 0.0]
        self._edges = [0, 0]

    def advance(self):
        now = time.ticks_us()
        dt = time.ticks_diff(now, self._at) / 1e6 * self._speed
        self._at = now
        if dt <= 0:
            return
        for side, name in enumerate(("left", "right")):
            speed = self._rim(name)
            if speed == 0:
                continue
            self._way[side] += speed * dt
            due = int(math.floor(self._way[side] / self._edge))
            self._turn(side, name, due - self._edges[side])

    def _rim(self, name):
        forward = _duty.get(_pins.get(name + "_1"), 0)
        back = _duty.get(_pins.get(name + "_2"), 0)
        ratio = (forward - back) / 65535
        if abs(ratio) <= self._deadband:
            return 0.0
        size = (abs(ratio) - self._deadband) / (1 - self._deadband)
        return self._full * (size if ratio > 0 else -size)

    def _turn(self, side, name, edges):
        a, b = _pins.get("enc_%s_a" % name), _pins.get("enc_%s_b" % name)
        handler = _handlers.get(a)
        if handler is None:
            return
        step = 1 if edges > 0 else -1
        for _ in range(abs(edges)):
            self._edges[side] += step
            level = 1 - _levels[a]
            _levels[a] = level
            _levels[b] = 1 - level if step > 0 else level
            handler[0](handler[1])


_inputs_at = 0
_blocked = False


def _read_inputs():
    """Levels that the bench sets from outside: a JSON file of pin -> level, looked at every 5 ms."""
    global _inputs_at, _blocked
    path = _cfg.get("inputs")
    if not path or time.ticks_diff(time.ticks_ms(), _inputs_at) < 5:
        return
    _inputs_at = time.ticks_ms()
    try:
        with open(path) as file:
            data = json.load(file)
    except (OSError, ValueError):
        return
    for number, level in data.get("pins", {}).items():
        _levels[int(number)] = level
    _adc.update(data.get("adc", {}))
    _blocked = data.get("block", False)


def _note_motion():
    global _turning
    if _trace is None:
        return
    turning = 1 if any(_duty.values()) else 0
    if turning != _turning:
        _turning = turning
        _trace.write("%d %d\n" % (time.ticks_ms(), turning))
        _trace.flush()


_wheels = _Wheels(_cfg)
