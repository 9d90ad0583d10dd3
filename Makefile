# Everything a newcomer needs: `make run` and `make test`. Both set up their own environment in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
C_SOURCES := $(wildcard c_kernels/include/*.h c_kernels/src/*.c c_kernels/src/*.h c_kernels/guardian/*.c) c_kernels/build.py

.PHONY: help run test check bench bench-admission job-kills forge flood files metering hostile policy-day realtime emulated-image emulated campaign selftest channels governor-search fuzz ground-kills archive-year console-load compression docs build aarch64 clean

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: $(READY) ## fly one mission day in virtual time and write a report
	@$(BIN)/hil run hil/scenarios/day_iss.toml

test: $(READY) ## run all tests (linters and types included)
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest

check: $(READY) ## ruff, mypy --strict, C warnings as errors
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m c_kernels.build --check

bench: $(READY) ## rollouts per second beside NumPy's, cost of a tick, link and ground figures
	@$(BIN)/python -m pytest tests/bench --benchmark-only -p no:cacheprovider

bench-admission: $(READY) ## what an answer costs beside up to 4,000 jobs, drawn to docs/images/admission_scaling.png
	@$(BIN)/python tests/bench/admission_scaling.py docs/images/admission_scaling.png

job-kills: $(READY) ## kill supervisor, jobs and guardian 1,000 times at random; nothing lost, nothing doubled
	@$(BIN)/python tests/flightsw/job_kills.py 1000

files: $(READY) ## send 1 MiB both ways over the emulated line: rates, bit errors, outages, reboots
	@$(BIN)/python tests/flightsw/file_campaign.py

forge: $(READY) ## attack the sealed uplink with 1,000,000 frames; none is accepted, no state moves
	@$(BIN)/python tests/flightsw/forge_frames.py 1000000

flood: $(READY) ## flood the flight program's uplink at line rate for a minute and time good commands meanwhile
	@$(BIN)/python tests/flightsw/flood_line.py

hostile: $(READY) ## fly beside the hostile jobs for three minutes in real time; no tick may be a period late
	@$(BIN)/python -m pytest -m long -s tests/flightsw/test_hostile_ticks.py

policy-day: $(READY) ## hold jobs and downlinks to data rules along a full day's ground track
	@$(BIN)/python -m pytest -m long tests/flightsw/test_custody.py

metering: $(READY) ## hold a mission day's bill against the true satellite: 3 % in all, 10 % for each job
	@$(BIN)/python tests/hil/metering_day.py

realtime: $(READY) ## both loops at 10 Hz behind serial lines for half an hour: overruns, lateness, drift
	@$(BIN)/hil serial realtime_iss --rate 10 --real-time --quiet

emulated-image: $(READY) ## build what hil run --bench emulated boots (root, on Debian: debootstrap, cpio)
	@sh boards/qemu_x86/build.sh build/emulated

emulated: $(READY) ## fly in an emulated machine, same command log as here; attack the sandbox on its kernel's cgroups
	@HIL_EMULATED=1 $(BIN)/python -m pytest -rs tests/hil/test_emulated.py tests/hil/test_emulated_sandbox.py

replays: $(READY) ## decide a recorded run again a hundred times; every bit must be the same
	@$(BIN)/hil run short_iss
	@$(BIN)/hil replay out/latest --times 100

campaign: $(READY) ## 1,000 orbits with two random faults in each two; goes on where it was stopped
	@$(BIN)/hil campaign campaign_iss --runs 500 --random-faults 2

selftest: $(READY) ## plant defects in the flight software, one by one; the fault scenarios must fail each of them
	@$(BIN)/hil selftest

channels: $(READY) ## lose every telemetry channel in turn, in every way, at its worst moment; no limit may be crossed
	@$(BIN)/hil channels

governor-search: $(READY) ## look among 100,000 states for one from which the governor's shed comes too late
	@$(BIN)/hil governor-search

archive-year: $(READY) ## a year of 1 Hz housekeeping (60 parameters) into out/year.sqlite, asked for days of it; 3 GB
	@$(BIN)/python tests/bench/archive_year.py out/year.sqlite

fuzz: $(READY) ## 100,000,000 executions: parsers and codecs in C under sanitizers, those in Python with mutated octets; goes on where it was stopped
	@$(BIN)/python -m c_kernels.fuzz 90000000 --log build/fuzz.log
	@$(BIN)/python tests/flightsw/parser_fuzz.py 10000000

compression: $(READY) ## what compressing housekeeping is worth, on the archive of the latest run
	@$(BIN)/python tests/bench/compression_day.py out/latest/ground.sqlite

docs: $(READY) ## write docs/dictionary.md out of the dictionary
	@$(BIN)/ground dictionary --markdown docs/dictionary.md

console-load: $(READY) ## 2,000 packets/s for ten minutes into archive and console, none lost, keys timed meanwhile
	@$(BIN)/python tests/bench/console_load.py

ground-kills: $(READY) ## kill the ground 200 times at random moments; no packet that was shown may be lost
	@$(BIN)/python -m pytest -m long -s tests/ground/test_session.py

build: $(READY) ## compile the C kernels and the guardian

aarch64: $(READY) ## compare the kernels' bits with an aarch64 build (Debian: gcc-aarch64-linux-gnu, qemu-user-static)
	@$(BIN)/python -m c_kernels.crossbuild

clean: ## remove the environment, builds and runs
	rm -rf $(VENV) build out *.egg-info flightsw/*.so flightsw/_bin

$(READY): pyproject.toml setup.py boards/bootstrap.sh $(C_SOURCES)
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh boards/bootstrap.sh
	@touch $@
