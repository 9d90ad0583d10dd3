"""Physical constants and the few conversions, each written once."""

from __future__ import annotations

KELVIN = 273.15
"""0 degC in kelvin (exact)."""

STEFAN_BOLTZMANN_W_M2_K4 = 5.670374419e-8
"""CODATA 2018."""

J_PER_WH = 3600.0
