"""The only door to the C kernels in `flightsw._kernels`.

It owns the C structs and buffers, checks every buffer before C sees it, and turns a negative status into
`KernelError` with its meaning. The rig's plant, `physics` and `decide` call it; nothing else imports the
compiled module. It holds no physics of its own.

C keeps no memory and knows no time: an object here owns what its kernel works on, and the same calls give
the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, cast

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


class PlantInput(Protocol):
    """`struct fsw_plant_input`: what is held over the steps of a call; heat by thermal node, power by compute node."""

    array_flux_w_m2: float
    heat_w: FloatArray
    compute_w: FloatArray
    tx_on: int


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
    `output` is overwritten by each advance; copy what must last. `held` are the inputs of the last `advance`, which a
    loop that is closed every step may edit in place before each `step`.
    """

    __slots__ = ("held", "model", "output", "state")

    held: PlantInput
    model: PlantModel
    state: PlantState
    output: PlantOutput

    def __init__(self) -> None:
        self.model = cast(PlantModel, ffi.new("struct fsw_plant_model *"))
        self.state = cast(PlantState, ffi.new("struct fsw_plant_state *"))
        self.output = cast(PlantOutput, ffi.new("struct fsw_plant_output *"))
        self.held = cast(PlantInput, ffi.new("struct fsw_plant_input *"))

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
        model = self.model
        held: Any = self.held  # cffi copies a sequence into the array
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

    def step(self, dt_s: float) -> None:
        """Advance `state` by one step of `dt_s` under `held`; raises as `advance` does."""
        status = lib.fsw_plant_advance(self.model, self.state, self.held, dt_s, 1, self.output)
        if status:
            raise KernelError("fsw_plant_advance", status, _PLANT_ERRORS[status])


# --- flight model, many lanes at once (c_kernels/include/rollout.h) ----------------------------------------

ROLLOUT_LINKS: Final[int] = lib.FSW_ROLLOUT_LINKS
ROLLOUT_COMPUTE: Final[int] = lib.FSW_ROLLOUT_COMPUTE
AUTO_PATH: Final = -1
SCALAR_PATH: Final = 0
BASE_PATH: Final = 1
AVX2_PATH: Final = 2
AVX512_PATH: Final = 3

_ROLLOUT_ERRORS: Final = {
    lib.FSW_ROLLOUT_E_NULL: "a required pointer is NULL",
    lib.FSW_ROLLOUT_E_COUNT: "n_nodes must be 1..16, n_links 0..32, n_compute 0..8",
    lib.FSW_ROLLOUT_E_TOPOLOGY: "a node index is out of range, or a link joins a node to itself",
    lib.FSW_ROLLOUT_E_SIZE: "lanes, steps and slots must be 1 or more and slot_steps sum to the steps",
    lib.FSW_ROLLOUT_E_STEP: "dt_s must be 1e-3..3600 s",
    lib.FSW_ROLLOUT_E_PARAM: "a lane parameter is not finite or out of the range stated in rollout.h",
    lib.FSW_ROLLOUT_E_ENVIRONMENT: "flux must be 0..1e5 W/m2, heat -1e5..1e5 W, tx 0..1e4 W",
    lib.FSW_ROLLOUT_E_POLICY: "compute_w must be 0..1e4 W",
    lib.FSW_ROLLOUT_E_UNSTABLE: "dt_s is too long for Euler: dt (sum(G) + 4 sigma A T^3) / C > 1 at 400 K",
    lib.FSW_ROLLOUT_E_SCRATCH: "scratch is too small",
    lib.FSW_ROLLOUT_E_PRECISION: "precision must be 32 or 64",
    lib.FSW_ROLLOUT_E_PATH: "this machine does not have that path",
    lib.FSW_ROLLOUT_E_DIVERGED: "a lane left 1..1000 K; the results must not be used",
}

# Lane parameters by name; in upper case with FSW_ROLLOUT_ before it, each is the name of its row in C.
_NODE_ROWS: Final = ("temperature_k", "capacity_j_k", "radiating_m2", "limit_k")
_SCALAR_ROWS: Final = (
    "battery_j", "battery_capacity_j", "battery_floor_j", "battery_cutoff_j", "ocv_empty_v", "ocv_full_v",
    "resistance_ohm", "charge_limit_w", "taper_start_frac", "charge_eff_frac", "array_area_m2",
    "array_eff_frac", "array_ref_k", "array_coeff_per_k", "array_absorpt_frac", "bus_w", "tx_heat_frac",
    "heater_w", "heater_on_k", "heater_off_k", "flux_scale_frac", "heat_scale_frac", "throttle_full_k",
    "throttle_zero_k", "throttle_zero_frac", "throttle_full_frac", "throttle_min_frac", "heater_start_on",
)  # fmt: skip
# Values that switch a feature off, so that a caller names only what it uses.
_NEUTRAL: Final = {
    "limit_k": 1000.0, "activity_frac": 1.0, "charge_eff_frac": 1.0, "heater_on_k": 1.0, "heater_off_k": 1.0,
    "flux_scale_frac": 1.0, "heat_scale_frac": 1.0, "throttle_full_k": 999.0, "throttle_zero_k": 1000.0,
    "throttle_full_frac": 1e-4, "taper_start_frac": 1.0, "array_ref_k": 301.15,
}  # fmt: skip

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


class Topology(NamedTuple):
    """What all lanes of a rollout share: who touches whom. Indices are thermal nodes."""

    n_nodes: int
    links: Sequence[tuple[int, int]]
    compute_node: Sequence[int]
    array_node: int
    battery_node: int
    bus_node: int
    heater_node: int
    throttle: bool = False


class Rollout:
    """Batched runs of the flight model over one topology; arrays are made once and used for many runs.

    Fill the input arrays in place (they are bound to C for good), call `run`, read the result arrays. Sizes
    given here are the largest; `run` may use fewer lanes and slots.

    Inputs: `params[name]` has shape (rows, lanes), or (rows, 1) when `name` is not in `per_lane` and all lanes
    share it; rows are nodes for temperature_k, capacity_j_k, radiating_m2, limit_k, links for link_w_k, compute
    nodes for activity_frac, else 1. Meanings and ranges stand in `rollout.h`; what is not set is neutral or
    zero, and zero capacities are refused. `slot_steps` (slots), `array_flux_w_m2` and `tx_w` (steps), `heat_w`
    (steps, nodes), `compute_w` (slots, compute nodes, lanes or 1).

    Results, last axis the lanes: `max_temperature_k` and `max_temperature_step` (nodes), `min_battery_j`,
    `min_battery_step`, `end_temperature_k` (nodes), `end_battery_j`, `compute_j` (compute nodes), `unmet_s`,
    `first_crossing_step` (-1: no limit crossed), `trace` (slots, nodes + 1: temperatures in K, then charge in
    J at slot ends). `max_temperature_step` and `trace` are None unless asked for.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        n_lanes: int,
        n_steps: int,
        n_slots: int,
        dt_s: float,
        per_lane: Collection[str] = (),
        policy_per_lane: bool = True,
        precision: int = 32,
        max_steps: bool = False,
        trace: bool = False,
    ) -> None:
        rows = dict.fromkeys(_NODE_ROWS, topology.n_nodes)
        rows["link_w_k"] = len(topology.links)
        rows["activity_frac"] = len(topology.compute_node)
        rows |= dict.fromkeys(_SCALAR_ROWS, 1)
        scratch_len = lib.fsw_rollout_scratch_len(topology.n_nodes, n_steps)
        if scratch_len < 0:
            raise KernelError("fsw_rollout_scratch_len", scratch_len, _ROLLOUT_ERRORS[scratch_len])
        if rows["link_w_k"] > ROLLOUT_LINKS or rows["activity_frac"] > ROLLOUT_COMPUTE:
            code = lib.FSW_ROLLOUT_E_COUNT
            raise KernelError("Rollout", code, _ROLLOUT_ERRORS[code])
        if n_lanes < 1 or n_slots < 1:
            code = lib.FSW_ROLLOUT_E_SIZE
            raise KernelError("Rollout", code, _ROLLOUT_ERRORS[code])
        unknown = set(per_lane) - rows.keys()
        if unknown:
            raise KernelError("Rollout", lib.FSW_ROLLOUT_E_PARAM, f"no such lane parameter: {sorted(unknown)}")

        n_nodes, n_compute = topology.n_nodes, len(topology.compute_node)
        self.topology: Final = topology
        self.precision: Final = precision
        self.params: Final[Mapping[str, F64]] = MappingProxyType(
            {
                name: np.full((n, n_lanes if name in per_lane else 1), _NEUTRAL.get(name, 0.0))
                for name, n in rows.items()
            }
        )
        self.slot_steps: Final[I32] = np.zeros(n_slots, np.int32)
        self.array_flux_w_m2: Final[F64] = np.zeros(n_steps)
        self.heat_w: Final[F64] = np.zeros((n_steps, n_nodes))
        self.tx_w: Final[F64] = np.zeros(n_steps)
        self.compute_w: Final[F64] = np.zeros((n_slots, n_compute, n_lanes if policy_per_lane else 1))
        self.max_temperature_k: Final[F64] = np.zeros((n_nodes, n_lanes))
        self.max_temperature_step: Final[I32 | None] = (
            np.zeros((n_nodes, n_lanes), np.int32) if max_steps else None
        )
        self.min_battery_j: Final[F64] = np.zeros(n_lanes)
        self.min_battery_step: Final[I32] = np.zeros(n_lanes, np.int32)
        self.end_temperature_k: Final[F64] = np.zeros((n_nodes, n_lanes))
        self.end_battery_j: Final[F64] = np.zeros(n_lanes)
        self.compute_j: Final[F64] = np.zeros((n_compute, n_lanes))
        self.unmet_s: Final[F64] = np.zeros(n_lanes)
        self.first_crossing_step: Final[I32] = np.zeros(n_lanes, np.int32)
        self.trace: Final[F64 | None] = np.zeros((n_slots, n_nodes + 1, n_lanes)) if trace else None

        self._keep: list[Any] = []
        self._scratch = ffi.new("char[]", scratch_len)
        self._scratch_len = scratch_len
        self._topology = self._lay_topology(topology)
        self._inputs = self._lay_inputs(dt_s)
        self._results = self._lay_results(n_lanes)

    def run(self, n_lanes: int | None = None, n_slots: int | None = None, *, path: int = AUTO_PATH) -> None:
        """Roll the first `n_lanes` lanes over the first `n_slots` slots (all when None).

        The steps run are the sum of those slots' `slot_steps`. `path` is for tests: every path gives the same
        bits. Raise `KernelError` on a refused value, with the results untouched; after "a lane left 1..1000 K"
        they must not be read.
        """
        inputs = self._inputs
        lanes = len(self.end_battery_j) if n_lanes is None else n_lanes
        slots = len(self.slot_steps) if n_slots is None else n_slots
        steps = int(self.slot_steps[:slots].sum())
        if not (lanes <= len(self.end_battery_j) and slots <= len(self.slot_steps) and steps <= len(self.tx_w)):
            raise KernelError(
                "fsw_rollout_run",
                lib.FSW_ROLLOUT_E_SIZE,
                f"{lanes} lanes, {slots} slots, {steps} steps; room is for {len(self.end_battery_j)} lanes, "
                f"{len(self.slot_steps)} slots, {len(self.tx_w)} steps",
            )
        inputs.n_lanes, inputs.n_slots, inputs.n_steps = lanes, slots, steps
        given = (self._topology, inputs, self._results, self.precision, self._scratch, self._scratch_len)
        status = lib.fsw_rollout_run(*given) if path == AUTO_PATH else lib.fsw_rollout_run_on(path, *given)
        if status:
            raise KernelError("fsw_rollout_run", status, _ROLLOUT_ERRORS[status])

    def _bind(self, array: npt.NDArray[Any], name: str, *, writable: bool = False) -> Any:
        ctype = "int32_t" if array.dtype == np.int32 else "double"
        buffer = wrap_buffer(array, ctype, array.size, name, writable=writable)
        self._keep.append(buffer)
        return buffer

    def _lay_topology(self, topology: Topology) -> Any:
        c = ffi.new("struct fsw_rollout_topology *")
        c.n_nodes = topology.n_nodes
        c.n_links = len(topology.links)
        c.n_compute = len(topology.compute_node)
        for i, (a, b) in enumerate(topology.links):
            c.link_a[i], c.link_b[i] = a, b
        for i, node in enumerate(topology.compute_node):
            c.compute_node[i] = node
        c.array_node, c.battery_node = topology.array_node, topology.battery_node
        c.bus_node, c.heater_node = topology.bus_node, topology.heater_node
        c.throttle = topology.throttle
        return c

    def _lay_inputs(self, dt_s: float) -> Any:
        c = ffi.new("struct fsw_rollout_inputs *")
        c.dt_s = dt_s
        for name in ("slot_steps", "array_flux_w_m2", "heat_w", "tx_w", "compute_w"):
            setattr(c, name, self._bind(getattr(self, name), name))
        _, n_compute, n_policies = self.compute_w.shape
        c.compute_w_slot_stride = n_compute * n_policies
        c.compute_w_node_stride = n_policies
        c.compute_w_lane_stride = 0 if n_policies == 1 else 1
        for name, values in self.params.items():
            first = getattr(lib, f"FSW_ROLLOUT_{name.upper()}")
            buffer = self._bind(values, name)
            n_rows, n_columns = values.shape
            for row in range(n_rows):
                c.param[first + row] = buffer + row * n_columns
                c.param_stride[first + row] = 0 if n_columns == 1 else 1
        return c

    def _lay_results(self, n_lanes: int) -> Any:
        c = ffi.new("struct fsw_rollout_results *")
        c.lane_pitch = n_lanes
        for name in (
            "max_temperature_k", "max_temperature_step", "min_battery_j", "min_battery_step",
            "end_temperature_k", "end_battery_j", "compute_j", "unmet_s", "first_crossing_step", "trace",
        ):  # fmt: skip
            array = getattr(self, name)
            if array is not None:
                setattr(c, name, self._bind(array, name, writable=True))
        return c


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


# --- TM frames on the line (c_kernels/include/tm_frame.h, reed_solomon.h) ------------------------------------


_FRAME_ERRORS: Final = {
    lib.FSW_FRAME_E_NULL: "a pointer is NULL",
    lib.FSW_FRAME_E_CODEC: "frame_octets must be 3..2048 and, coded, 223 times the interleave, which must be 0..8",
    lib.FSW_FRAME_E_LENGTH: "an input has not the length that the codec asks for",
}
_RS_ERRORS: Final = {
    lib.FSW_RS_E_NULL: "a pointer is NULL",
    lib.FSW_RS_E_INTERLEAVE: "interleave must be 1..8",
}


class FrameCodec:
    """TM frames of one length to and from the line: error control, Reed-Solomon code, randomiser, marker.

    `interleave` 0 leaves the code out. `line_octets` is what a frame takes on the line, marker included, and
    `block_octets` the same without it.
    """

    __slots__ = ("_block", "_codec", "_corrected", "_frame", "_line", "_out", "block_octets", "corrected_octets",
                 "line_octets")

    def __init__(self, frame_octets: int, interleave: int = 0) -> None:
        self._codec = ffi.new("struct fsw_frame_codec *")
        status = lib.fsw_frame_init(self._codec, frame_octets, interleave)
        if status:
            raise KernelError("fsw_frame_init", status, _FRAME_ERRORS[status])
        self.block_octets: Final[int] = self._codec.block_octets
        self.line_octets: Final[int] = lib.FSW_FRAME_MARKER_OCTETS + self.block_octets
        self.corrected_octets = 0  # wrong octets of good frames so far
        self._block = ffi.new("uint8_t[]", self.block_octets)
        self._out = ffi.new("uint8_t[]", self.line_octets)
        self._frame = ffi.buffer(self._block, frame_octets)
        self._line = ffi.buffer(self._out, self.line_octets)
        self._corrected = ffi.new("int32_t *")

    def encode(self, body: bytes) -> bytes:
        """Return marker and block of a frame; `body` lacks the error control field alone."""
        status = lib.fsw_frame_encode(self._codec, body, len(body), self._out, self.line_octets)
        if status:
            raise KernelError("fsw_frame_encode", status, _FRAME_ERRORS[status])
        return self._line[:]  # type: ignore[no-any-return]

    def decode(self, block: bytes) -> bytes | None:
        """Return the frame in a block found behind a marker; None where it cannot be what was sent."""
        status = lib.fsw_frame_decode(self._codec, block, len(block), self._block, self.block_octets, self._corrected)
        if status == 0:
            self.corrected_octets += self._corrected[0]
            return self._frame[:]  # type: ignore[no-any-return]
        if status in _FRAME_ERRORS:
            raise KernelError("fsw_frame_decode", status, _FRAME_ERRORS[status])
        return None


class ReedSolomon:
    """The code of `FrameCodec` alone: blocks of interleave I hold 223 I octets of information, 32 I of parity."""

    __slots__ = ("_block", "_corrected", "_tables", "_view", "interleave")

    def __init__(self, interleave: int = 1) -> None:
        if not 1 <= interleave <= lib.FSW_RS_INTERLEAVE_MAX:
            raise KernelError("ReedSolomon", lib.FSW_RS_E_INTERLEAVE, _RS_ERRORS[lib.FSW_RS_E_INTERLEAVE])
        self.interleave: Final = interleave
        self._tables = ffi.new("struct fsw_rs_tables *")
        lib.fsw_rs_init(self._tables)
        self._block = ffi.new("uint8_t[]", lib.FSW_RS_CODE_OCTETS * interleave)
        self._view = ffi.buffer(self._block)
        self._corrected = ffi.new("int32_t *")

    def encode(self, data: bytes) -> bytes:
        """Return the block that carries `data`."""
        octets = lib.FSW_RS_DATA_OCTETS * self.interleave
        if len(data) != octets:
            raise KernelError("fsw_rs_encode", lib.FSW_FRAME_E_LENGTH, f"{len(data)} octets, must be {octets}")
        self._view[0:octets] = data
        lib.fsw_rs_encode(self._tables, self.interleave, self._block)
        return self._view[:]  # type: ignore[no-any-return]

    def decode(self, block: bytes) -> tuple[bytes, int] | None:
        """Return the information of a block and how many octets were wrong; None where they are too many."""
        if len(block) != len(self._view):
            raise KernelError("fsw_rs_decode", lib.FSW_FRAME_E_LENGTH,
                              f"{len(block)} octets, must be {len(self._view)}")
        self._view[:] = block
        if lib.fsw_rs_decode(self._tables, self.interleave, self._block, self._corrected):
            return None
        return self._view[0:lib.FSW_RS_DATA_OCTETS * self.interleave], self._corrected[0]
