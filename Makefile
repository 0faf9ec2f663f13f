# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: install demo test check coverage bench faults mutants scale federated kernels vllm gallery docs lint clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The demonstration needs less than the tests do; each has a stamp of its own.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo]"
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ .venv/.demo

install: .venv/.dev ## everything, for work on limbeck itself

demo: .venv/.demo ## distil a digit classifier on real data, offline, and say whether the teacher helped
	$(BIN)/limbeck run recipes/digits.yaml --out runs/digits

lint: .venv/.dev ## style, types and the one-way imports
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a process: tests run side by side, and torch processes with two threads ruin each other.
test: lint ## lint, types, import contracts and the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

coverage: .venv/.dev ## the tests again, and which lines no test runs (half as long again)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered

check: lint ## lint, then the quick tests only
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/laws tests/oracles tests/contracts

# A file after a space pytest takes for the tests that are to run.
faults: .venv/.dev ## kills, full disks, bit flips in numbers, and a table of what was tried in docs/reliability.md
	HYPOTHESIS_PROFILE=searching OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "faults or proof" --durations=0 \
		--proofs=benchmarks/results/proofs.json
	$(BIN)/python -m benchmarks.proofs

mutants: .venv/.dev ## each protection is switched off, and a test must notice
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants

.venv/.ray: .venv/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	@touch $@

scale: .venv/.ray ## accelerate launch with DDP and FSDP, labelling over Ray: two processes each (a few minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m scale tests/journeys/test_scale.py

# Flower holds other versions of rich, typer, packaging and protobuf, so it has an environment of its own.
.venv-flower/.made: pyproject.toml constraints-federated.txt
	test -x .venv-flower/bin/python || $(PYTHON) -m venv .venv-flower
	.venv-flower/bin/pip install --quiet --disable-pip-version-check -c constraints-federated.txt -e ".[federated]" pytest hypothesis
	@touch $@

federated: .venv-flower/.made ## a server and clients of Flower, each a process of its own (a few minutes)
	OMP_NUM_THREADS=1 .venv-flower/bin/pytest -m federated tests/journeys/test_flower.py

# Torch for a processor comes without Triton; both lie in a folder of their own, so that no other test sees them.
.venv/.kernels: .venv/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .venv/kernels liger-kernel==0.8.5 triton==3.9.0
	@touch $@

kernels: .venv/.kernels ## Liger's kernels against float64, by Triton's interpreter: no GPU is needed (a minute)
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 PYTHONPATH=.venv/kernels $(BIN)/pytest -m kernels tests/oracles/test_liger.py

# vLLM holds other versions of transformers and more, so it has an environment of its own. Its build for a processor needs no GPU.
.venv-vllm/.made: pyproject.toml requirements-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.txt
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

vllm: .venv-vllm/.made ## vLLM itself as a writer and as a server (some ten minutes)
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -m vllm tests/contracts/test_writer_contract.py \
		tests/journeys/test_vllm.py tests/journeys/test_vllm_server.py

.venv/.peers: .venv/.dev # in a folder of their own, so that no test sees them
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .venv/peers trl==1.16.0
	@touch $@

bench: .venv/.peers ## ratios against floors and peers, written to benchmarks/results
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks
	PYTHONPATH=.venv/peers $(BIN)/python -m benchmarks.tokens

gallery: .venv/.dev ## the bundled recipes in full and every method, written to docs/gallery.md (hours; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.methods
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.capacity
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.texts
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.gallery

docs: .venv/.dev ## run what the documents say
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/journeys/test_documents.py

clean: ## remove the environment and caches, never runs
	rm -rf .venv .venv-flower .venv-vllm .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build src/*.egg-info
