"""Customers file (TOML) -> who may submit jobs: name, public key, quota.

Called once at start. It is part of the satellite's configuration and never holds a private key.

    [[customer]]
    name = "Example customer"
    public_key = "<64 hex digits>"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flightsw.declared import load, number, problems_error, text
from flightsw.jobs.manifest import CUSTOMER_EXPECTED, CUSTOMER_PATTERN


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer. `open_jobs` may wait or run at a time and hold `disk_mb` together, files and declared disk.

    A `trusted` one's jobs run also where the machine lacks a layer that holds jobs back.
    """

    name: str = text(CUSTOMER_PATTERN, CUSTOMER_EXPECTED)
    public_key: str = text(r"[0-9a-f]{64}", "64 hex digits, as `flightsw job keygen` prints them")
    open_jobs: int = number("jobs", 0, 256, 16)
    disk_mb: float = number("MB", 0.0, 1e6, 1024.0)
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    customer: tuple[Customer, ...]


def load_customers(path: Path) -> dict[str, Customer]:
    """Read a customers file; ConfigError lists everything that is wrong with it."""
    listed = load(_File, path).customer
    customers = {customer.name: customer for customer in listed}
    if len(customers) < len(listed):
        names = [customer.name for customer in listed]
        raise problems_error(str(path), [f"customer {name!r} is there twice" for name in customers
                                         if names.count(name) > 1])
    return customers
