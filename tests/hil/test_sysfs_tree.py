"""Readings served as files: the Linux drivers read back what the plant wrote, to the resolution of the parts."""

import math

import pytest

from flightsw.board.linux import LinuxBoard, load_board_file
from flightsw.board.rig import BOARD_FILE, RigBoard
from flightsw.dictionary.sensors import INDEX, SENSORS, fitted_names
from flightsw.sensing import sense
from flightsw.state import Quality, RawReading
from hil.rig_link import PlantLink
from hil.sysfs_tree import SysfsTree

NODES = 3


def readings(**changed):
    values = {name: 0.5 * (row.low + row.high) * 0.99 for row in SENSORS for name in [row.name]
              if name in fitted_names(NODES)} | changed
    return [RawReading(values[row.name], 0.0) if row.name in values else None for row in SENSORS]


def board(tree_root):
    return LinuxBoard(load_board_file(tree_root / BOARD_FILE).candidates, tree_root, NODES)


def test_every_sensor_comes_back_through_its_driver(tmp_path):
    written = readings(battery_soc_frac=0.8137, node1_w=17.26, die2_c=-12.4)
    SysfsTree(tmp_path, NODES).write(written)
    linux = board(tmp_path)
    assert linux.fitted == frozenset(fitted_names(NODES))
    for row, sent, got in zip(SENSORS, written, linux.read_sensors(5.0), strict=True):
        assert (sent is None) == (got is None), row.name
        if sent is not None and got is not None:
            assert got.value == pytest.approx(sent.value, abs=0.06), row.name  # a rail has 12 mW, a gauge 0.1 K
    assert "hwmon ina3221 rail NODE1" in "\n".join(linux.describe())
    assert "thermal zone node2-thermal" in "\n".join(linux.describe())


def test_silence_and_nan_are_no_numbers_and_what_was_never_there_is_not_fitted(tmp_path):
    tree = SysfsTree(tmp_path, NODES)
    first = readings()
    first[INDEX["bus_c"]] = None
    tree.write(first)
    linux = board(tmp_path)
    tree.write(readings(plate_c=None, die0_c=math.nan))
    judged = sense(linux, 1.0)
    assert judged.qualities[INDEX["plate_c"]] == Quality.MISSING
    assert judged.qualities[INDEX["die0_c"]] == Quality.MISSING
    assert judged.qualities[INDEX["bus_c"]] == Quality.NOT_FITTED
    tree.write(readings(plate_c=31.25))
    assert sense(linux, 2.0).values[INDEX["plate_c"]] == 31.25


class Line:
    """One end of a line that delivers at once to the other's `waiting`."""

    def __init__(self) -> None:
        self.waiting, self.other = b"", self

    def read(self):
        octets, self.waiting = self.waiting, b""
        return octets

    def write(self, octets):
        self.other.waiting += octets
        return len(octets)


def test_a_board_on_the_rig_reads_through_its_drivers_and_hears_time_on_the_line(tmp_path):
    near, far = Line(), Line()
    near.other, far.other = far, near
    tree = SysfsTree(tmp_path, NODES)
    tree.write(readings())
    rig, plant = RigBoard(near, NODES, board(tmp_path)), PlantLink(far, tree=tree)
    rig.serve(0.0)
    plant.poll(0.0)
    plant.send_sensors(1.0, readings(bus_w=41.5))
    assert sense(rig, 1.0).values[INDEX["bus_w"]] == 41.5
    assert rig.linked
    assert rig.describe()[0] == "rig: the plant's readings, through this machine's drivers"
    assert rig.fitted == frozenset(fitted_names(NODES))
