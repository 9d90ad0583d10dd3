"""The only door to the C kernels in `flightsw._kernels`.

It owns the C structs and buffers, checks every buffer before C sees it, and turns a negative status into
`KernelError` with its meaning. The rig's plant, `physics` and `decide` call it; nothing else imports the
compiled module. It holds no physics of its own.

C keeps no memory and knows no time: an object here owns what its kernel works on, and the same calls give
the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from flightsw._kernels import ffi, lib
from flightsw.errors import KernelError


def wrap_buffer(array: npt.NDArray[Any], ctype: str, n_items: int, name: str, *, writable: bool) -> Any:
    """Return cdata for `array` after checking what cffi's `from_buffer` does not.

    The array must be C-contiguous, of exactly the dtype that C type `ctype` ("double", "int32_t", "uint8_t")
    has, hold `n_items` items, and be writable if C writes to it. The cdata keeps the array alive. A call
    costs about 1 us: wrap once, keep the result. Raise `KernelError` naming the buffer otherwise.
    """
    dtype = _DTYPE_OF[ctype]
    if array.dtype != dtype:
        raise KernelError("wrap_buffer", -1, f"{name}: dtype {array.dtype}, must be {dtype}")
    if not array.flags.c_contiguous:
        raise KernelError("wrap_buffer", -2, f"{name}: not contiguous")
    if array.size != n_items:
        raise KernelError("wrap_buffer", -3, f"{name}: {array.size} items, must be {n_items}")
    if writable and not array.flags.writeable:
        raise KernelError("wrap_buffer", -4, f"{name}: read-only, must be writable")
    return ffi.from_buffer(f"{ctype}[]", array, require_writable=writable)


_DTYPE_OF: Final = {
    "double": np.dtype(np.float64),
    "int32_t": np.dtype(np.int32),
    "uint8_t": np.dtype(np.uint8),
}


# --- truth plant (c_kernels/include/plant.h) ---------------------------------------------------------------

PLANT_NODES: Final[int] = lib.FSW_PLANT_NODES
PLANT_LINKS: Final[int] = lib.FSW_PLANT_LINKS
PLANT_COMPUTE: Final[int] = lib.FSW_PLANT_COMPUTE
PLANT_HEATERS: Final[int] = lib.FSW_PLANT_HEATERS

_PLANT_ERRORS: Final = {
    lib.FSW_PLANT_E_NULL: "a required pointer is NULL",
    lib.FSW_PLANT_E_COUNT: "n_nodes must be 1..24, n_links 0..64, n_compute 0..8",
    lib.FSW_PLANT_E_NODE: "heat_capacity_j_k must be 1e-3..1e9 J/K and radiating_m2 0..1e3 m2",
    lib.FSW_PLANT_E_LINK: "a link must join two different nodes in range with link_w_k 0..1e6 W/K",
    lib.FSW_PLANT_E_ARRAY: "an array parameter is out of range",
    lib.FSW_PLANT_E_BATTERY: "a battery parameter is out of range, or its open-circuit voltage not 0.1..1e3 V",
    lib.FSW_PLANT_E_HEATER: "heater_w must be 0..1e4 W and heater_on_k below heater_off_k, both 1..1000 K",
    lib.FSW_PLANT_E_LOAD: "bus_w and tx_w must be 0..1e5 W, tx_heat_frac 0..1, bus_node a node",
    lib.FSW_PLANT_E_COMPUTE: "a compute node's parameter is out of range, or untrip_k above trip_k",
    lib.FSW_PLANT_E_STEP: "dt_s must be 1e-6..3600 s and n_steps 0..10000000",
    lib.FSW_PLANT_E_UNSTABLE: "dt_s is too long for RK4: dt (2 sum(G) + 4 sigma A T^3) / C > 2.7 at 500 K",
    lib.FSW_PLANT_E_STATE: "the state has a temperature outside 1..1000 K, a charge outside 0..capacity, "
    "a flag that is not 0 or 1, or a sum that is not finite",
    lib.FSW_PLANT_E_INPUT: "flux must be 0..1e5 W/m2, heat -1e6..1e6 W, compute power 0..1e5 W",
    lib.FSW_PLANT_E_DIVERGED: "a temperature left 1..1000 K; the state is unchanged",
}


class FloatArray(Protocol):
    """A C array of doubles: indexed and, by slice, assigned from a list of that length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int | slice, value: float | Sequence[float], /) -> None: ...


class IntArray(Protocol):
    """A C array of int32: indexed and, by slice, assigned from a list of that length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int | slice, value: int | Sequence[int], /) -> None: ...


class PlantModel(Protocol):
    """`struct fsw_plant_model`: parameters by name, meanings and ranges in `plant.h`. Edit at any time."""

    n_nodes: int
    n_links: int
    n_compute: int
    heat_capacity_j_k: FloatArray
    radiating_m2: FloatArray
    link_a: IntArray
    link_b: IntArray
    link_w_k: FloatArray
    array_node: int
    array_area_m2: float
    array_efficiency_frac: float
    array_ref_k: float
    array_temp_coeff_per_k: float
    array_health_frac: float
    array_absorptivity_frac: float
    mppt_efficiency_frac: float
    battery_node: int
    battery_capacity_j: float
    battery_ocv_v: FloatArray
    battery_resistance_ohm: float
    charge_limit_w: float
    taper_start_frac: float
    charge_efficiency_frac: float
    cutoff_frac: float
    restart_frac: float
    heater_node: IntArray
    heater_w: FloatArray
    heater_on_k: FloatArray
    heater_off_k: FloatArray
    bus_node: int
    bus_w: float
    tx_w: float
    tx_heat_frac: float
    die_node: IntArray
    module_node: IntArray
    die_heat_frac: FloatArray
    leakage_per_k: FloatArray
    leak_ref_k: FloatArray
    trip_k: FloatArray
    untrip_k: FloatArray
    trip_w: FloatArray


class PlantState(Protocol):
    """`struct fsw_plant_state`: temperatures, charge, latches and running energy sums."""

    temperature_k: FloatArray
    battery_j: float
    heater_on: IntArray
    tripped: IntArray
    brownout: int
    harvested_j: float
    consumed_j: float
    shunted_j: float
    battery_loss_j: float
    unmet_j: float
    node_j: FloatArray


class PlantOutput(Protocol):
    """`struct fsw_plant_output`: powers, volts and amperes of the last step."""

    array_w: float
    array_available_w: float
    battery_w: float
    battery_v: float
    battery_a: float
    bus_total_w: float
    compute_w: FloatArray
    heater_w: float
    tx_w: float


class Plant:
    """One satellite's true power and heat.

    Fill `model` and `state` by field name, then `advance`. `model` stays editable: a fault is an edit.
    `output` is overwritten by each advance; copy what must last.
    """

    __slots__ = ("_input", "model", "output", "state")

    model: PlantModel
    state: PlantState
    output: PlantOutput

    def __init__(self) -> None:
        self.model = cast(PlantModel, ffi.new("struct fsw_plant_model *"))
        self.state = cast(PlantState, ffi.new("struct fsw_plant_state *"))
        self.output = cast(PlantOutput, ffi.new("struct fsw_plant_output *"))
        self._input = ffi.new("struct fsw_plant_input *")

    def check(self, dt_s: float) -> None:
        """Raise `KernelError` with the reason when the model is not fit for steps of `dt_s`."""
        status = lib.fsw_plant_check(self.model, dt_s)
        if status:
            raise KernelError("fsw_plant_check", status, _PLANT_ERRORS[status])

    def advance(
        self,
        flux_w_m2: float,
        heat_w: Sequence[float],
        compute_w: Sequence[float],
        tx_on: bool,
        dt_s: float,
        n_steps: int,
    ) -> None:
        """Advance `state` by `n_steps` of `dt_s` with the inputs held.

        `heat_w` has one value per thermal node (external heat absorbed, W), `compute_w` one per compute
        node (commanded W); lists or tuples are fastest. Raise `KernelError` on a refused value, with state
        and output unchanged.
        """
        model, held = self.model, self._input
        if len(heat_w) != model.n_nodes or len(compute_w) != model.n_compute:
            raise KernelError(
                "fsw_plant_advance",
                lib.FSW_PLANT_E_INPUT,
                f"{len(heat_w)} heats for {model.n_nodes} nodes, "
                f"{len(compute_w)} powers for {model.n_compute} compute nodes",
            )
        held.array_flux_w_m2 = flux_w_m2
        held.heat_w = heat_w
        held.compute_w = compute_w
        held.tx_on = tx_on
        status = lib.fsw_plant_advance(model, self.state, held, dt_s, n_steps, self.output)
        if status:
            raise KernelError("fsw_plant_advance", status, _PLANT_ERRORS[status])


# --- guardian core (c_kernels/include/guardian_core.h) ------------------------------------------------------


class GuardianCore:
    """The guardian's state machine, the very one that the guardian program runs; time is passed in."""

    __slots__ = ("_io", "_length", "_out", "_state", "_status")

    def __init__(
        self,
        floor_mw: Sequence[int],
        ceiling_mw: Sequence[int],
        lease_max_ms: int,
        alone_after_ms: int,
        now_us: int,
    ) -> None:
        """Start at the floor; raise `KernelError` for a value outside the ranges in the header."""
        self._state = ffi.new("struct fsw_guardian_state *")
        self._out = ffi.new("struct fsw_guardian_out *")
        self._io = ffi.new("struct fsw_guardian_io *")
        self._status = ffi.new("uint8_t[]", lib.FSW_GUARDIAN_STATUS_MAX)
        self._length = ffi.new("size_t *")
        config = ffi.new("struct fsw_guardian_config *")
        if not len(floor_mw) == len(ceiling_mw) <= lib.FSW_GUARDIAN_NODES_MAX:
            raise KernelError(
                "fsw_guardian_init",
                lib.FSW_GUARDIAN_E_CONFIG,
                f"{len(floor_mw)} floors, {len(ceiling_mw)} ceilings",
            )
        config.n_nodes = len(floor_mw)
        config.lease_max_ms = lease_max_ms
        config.alone_after_ms = alone_after_ms
        config.floor_mw[0 : len(floor_mw)] = floor_mw
        config.ceiling_mw[0 : len(ceiling_mw)] = ceiling_mw
        code = lib.fsw_guardian_init(self._state, config, now_us)
        if code:
            raise KernelError("fsw_guardian_init", code, "a configuration value is out of range")

    def message(self, now_us: int, message: bytes) -> int:
        """Judge one LEASE or HELLO; return 0 or the negative code of its rejection."""
        code: int = lib.fsw_guardian_message(self._state, now_us, message, len(message))
        if code == lib.FSW_GUARDIAN_E_STATE:
            raise KernelError("fsw_guardian_message", code, "the guardian's state is damaged")
        return code

    def status(self, now_us: int) -> bytes:
        """Advance to `now_us` and return the STATUS message; each cap in force reads back as itself."""
        code = lib.fsw_guardian_tick(self._state, now_us, self._out)
        if code == 0:
            self._io.read_back_mw = self._out.cap_mw
            code = lib.fsw_guardian_status(
                self._state,
                lib.FSW_GUARDIAN_STATUS,
                self._io,
                self._status,
                lib.FSW_GUARDIAN_STATUS_MAX,
                self._length,
            )
        if code:
            raise KernelError("fsw_guardian_tick", code, "the guardian's state is damaged")
        return bytes(ffi.buffer(self._status, self._length[0]))
