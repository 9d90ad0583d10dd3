"""Make `telemetry.bin`: 6144 seconds of 16 housekeeping channels, int16, as a satellite's bus gives them.

Voltages, currents and temperatures over an orbit with eclipse, switching heaters, counters and quantised
noise, from a fixed seed. The file is part of the bundle; this program shows where it comes from.
"""

from pathlib import Path

import numpy as np

SECONDS = 6144
ORBIT_S = 5565.0
ECLIPSE_S = 2140.0


def main() -> None:
    """Write the telemetry beside this file."""
    rng = np.random.default_rng(19970417)
    t = np.arange(SECONDS)
    phase = (t + 1200) % ORBIT_S
    sunlit = phase > ECLIPSE_S
    array_w = sunlit * 95 * np.sin(np.pi * np.clip((phase - ECLIPSE_S) / (ORBIT_S - ECLIPSE_S), 0, 1)) ** 0.4
    load_w = 38 + 22 * ((t // 420) % 3 == 1) + rng.normal(0, 0.4, SECONDS)
    charge = 0.8 + np.cumsum(np.clip(array_w - load_w, -60, 45)) / (3600 * 160)
    bus_v = 26.4 + 6.0 * (np.clip(charge, 0, 1) - 0.8) - 0.012 * (load_w - array_w)
    channels = [bus_v * 1000, (array_w - load_w) / bus_v * 1000, array_w / bus_v * 1000, load_w / bus_v * 1000]
    for tau_s, swing_c, base_c in ((300, 40, 5), (1500, 18, 12), (4000, 9, 18), (900, 25, 30), (200, 60, -10)):
        node_c = np.empty(SECONDS)
        node_c[0] = base_c
        for i in range(1, SECONDS):
            node_c[i] = node_c[i - 1] + (base_c + swing_c * (sunlit[i] - 0.5) - node_c[i - 1]) / tau_s
        channels.append((node_c + rng.normal(0, 0.03, SECONDS)) * 100)
    for axis in range(3):
        rate = 0.02 * np.sin(2 * np.pi * t / ORBIT_S + axis) + rng.normal(0, 0.0015, SECONDS)
        channels.append(rate * 100_000)
    heater = (channels[5] / 100 < 14).astype(float)
    channels += [heater, charge * 10_000, t % 65_536, rng.poisson(0.004, SECONDS).cumsum()]
    frames = np.rint(np.stack(channels, axis=1)).astype(np.int64).astype(np.uint16).astype("<u2")
    frames.tofile(Path(__file__).with_name("telemetry.bin"))


if __name__ == "__main__":
    main()
