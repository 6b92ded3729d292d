# quickstart, test and lint set up what they need in .venv; nothing else has to be installed but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test test-slurm lint bench notebooks verify-released clean

quickstart: .venv/stamp-quickstart
	$(BIN)/python -m pipeline run configs/quickstart.yaml

# Two processes, which share the work; what runs in them computes with one thread each.
test: .venv/stamp-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests against a real SLURM, which they start on this machine; installs its packages (Debian, Ubuntu; 60 MB). Twice:
# with accounting, and without, as on some clusters; three processes, each with a SLURM of its own, because most of the
# time is waiting. A plain `make test` installs nothing and leaves them out.
test-slurm: .venv/stamp-test
	tests/slurm/slurm-up --install
	SLURM_TEST_ACCT=db $(BIN)/python -m pytest -n 3 --dist worksteal -m 'slurm and not nightly' tests/slurm
	SLURM_TEST_ACCT=none $(BIN)/python -m pytest -n 3 --dist worksteal -m 'slurm and not nightly' tests/slurm

lint: .venv/stamp-test
	$(BIN)/ruff check pipeline tests analysis
	$(BIN)/ruff format --check pipeline tests analysis
	$(BIN)/mypy

# The short form of the benchmarks, on your machine; the tables and figures that are committed are in
# analysis/benchmarks/results.
bench: .venv/stamp-quickstart
	$(BIN)/python -m analysis.benchmarks.hypergradient --short --again --out logs/benchmarks
	$(BIN)/python -m analysis.benchmarks.evaluation --short --again --out logs/benchmarks

# Draws the notebooks anew, outputs kept, from the experiment that each of them names.
notebooks: .venv/stamp-test
	$(BIN)/jupyter execute --inplace analysis/*.ipynb

# New students on every released set: do the numbers of its card hold? DATA=folder says where the tasks' files are;
# without it only the sets of the data that the quickstart brings are looked at.
RELEASED := $(wildcard analysis/released/$(if $(DATA),*,rotten_tomatoes*).h5)
verify-released: .venv/stamp-quickstart
	@failed=0; for set in $(RELEASED); do echo "== $$set"; \
		$(BIN)/python -m pipeline verify $$set $(if $(DATA),--data $(DATA)) || failed=1; done; exit $$failed

clean:
	rm -rf .venv

.venv/stamp-torch: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; type: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing torch (once; a few minutes on a slow line) …"
	$(PIP) torch==2.13.0
	@touch $@

.venv/stamp-quickstart: .venv/stamp-torch
	@echo "installing the rest …"
	$(PIP) -e '.[quickstart]'
	@touch $@

.venv/stamp-test: .venv/stamp-torch
	@echo "installing the rest …"
	$(PIP) -e '.[quickstart,test]'
	@touch $@ .venv/stamp-quickstart
