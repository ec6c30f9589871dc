# make demo: from a fresh clone to a degradation table and forgetting curves. make test: the specifications. make docs: the site.
PYTHON ?= python3
JOBS ?= 2
READY := .venv/ready

.PHONY: demo test lint docs reference clean

demo: $(READY)
	.venv/bin/lamm-cl run demo --jobs $(JOBS) --report

test: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadfile
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) tests/test_fidelity.py --linears packed -k "not heads"

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/mypy

# Without a network; to be read from build/site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

# The shipped results, anew: hours.
reference: $(READY)
	JOBS=$(JOBS) results/reference/rebuild

# torch goes first and alone, torchvision without its dependencies: whichever build of torch the index offers (CPU or CUDA)
# is kept, and not replaced for torchvision's sake.
$(READY): pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt torch
	.venv/bin/python -m pip install -c constraints.txt --no-deps torchvision
	.venv/bin/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist
