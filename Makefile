# ubpf-tools: `make help` lists what there is to make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

PREFIX ?= /usr/local
ARCH ?= x86_64
vmtest := $(if $(filter arm64,$(ARCH)),vmtest-arm64,vmtest)
export PATH := $(PATH):$(HOME)/.cargo/bin

# For recipes: a new machine has no rustc yet when make reads this.
host := $$(rustc --print host-tuple)
max_bytes := 5000000

# CI takes no warning from clang, and no dependency that Cargo.lock does not name.
ifdef CI
export UBPF_TOOLS_WERROR := 1
locked := --locked
endif

# Leaves the binary $(1) in target/$(2), where it has to be static and small.
define leave =
@mkdir -p target
@install -C -m 755 "$(1)" target/$(2)
@if readelf -lW target/$(2) | grep -w INTERP || readelf -dW target/$(2) | grep -w NEEDED; then \
	echo "target/$(2) is not static" >&2; exit 1; \
fi
@bytes=$$(stat -c %s target/$(2)); echo "target/$(2): static, $$bytes bytes"; \
if ((bytes > $(max_bytes))); then echo "that is more than $(max_bytes)" >&2; exit 1; fi
endef

.PHONY: help build build-arm64 demo test vmtest lint bench bless vmlinux install clean

help: ## say what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 13

build: setup-build ## leave the static binary in target/ubpf-tools
	cargo build --release $(locked)
	$(call leave,$(or $(CARGO_TARGET_DIR),target)/$(host)/release/ubpf-tools,ubpf-tools)

build-arm64: setup-arm64 ## the same for arm64, in target/ubpf-tools-arm64, on an x86-64 machine
	scripts/arm64 build
	$(call leave,target/arm64/cargo/aarch64-unknown-linux-gnu/release/ubpf-tools,ubpf-tools-arm64)

demo: build setup-demo ## watch a python3 and a bash that it starts
	scripts/demo

test: setup-build setup-lint setup-test build lint ## run every test that this user may run
	cargo test --release --no-fail-fast $(locked) --bins --test cli
	@# Built as the user; cargo runs what it built through sudo.
	@if ((EUID == 0)); then \
		root=(env); \
	elif sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; then \
		runner=$$(tr a-z- A-Z_ <<<"cargo_target_$(host)_runner"); \
		root=(env "$$runner=sudo -E"); \
	else \
		printf '\n%s\n' '*** NOT RUN, for want of root: the tests load and e2e' >&2; exit 0; \
	fi; \
	set -x; "$${root[@]}" cargo test --release --no-fail-fast $(locked) --test load --test e2e

vmtest: setup-build setup-test setup-$(vmtest) ## run the tests on kernels 5.10 to 7.2 under QEMU; or ARCH=arm64, WAYS=best
	scripts/vmtest -a $(ARCH) $(if $(filter best,$(WAYS)),-w)

# Declared by a macro, or part of another package: cargo fmt does not see them.
unseen := src/tools/*.rs fuzz/fuzz_targets/*.rs

# --release only because that shares what is built already.
lint: setup-build setup-lint ## formatting, clippy
	@not_run=(); run() { echo "$$*"; "$$@"; }; \
	if cargo fmt --version &>/dev/null; then run cargo fmt --check; run rustfmt --check $(unseen); \
	else not_run+=("cargo fmt"); fi; \
	if cargo clippy --version &>/dev/null; then \
		run cargo clippy --release --all-targets $(locked) -- -D warnings; \
	else not_run+=("cargo clippy"); fi; \
	if command -v clang-format >/dev/null; then run clang-format --dry-run -Werror src/bpf/*.[ch]; \
	else not_run+=(clang-format); fi; \
	if (($${#not_run[@]})); then printf '\n*** NOT RUN, not installed: %s\n\n' "$${not_run[*]}" >&2; fi

bench: setup-build setup-test ## measure
	cargo bench $(locked)

bless: setup-build ## take today's output as the expected one
	UBPF_TOOLS_BLESS=1 cargo test --release --test cli

vmlinux: setup-vmlinux setup-$(vmtest) ## make the kernel types anew; or ARCH=arm64
	scripts/vmtest -a $(ARCH) -b 6.12 -- cat /sys/kernel/btf/vmlinux >target/vmlinux.btf
	vmlinux/generate target/vmlinux.btf $(ARCH:x86_64=x86)

install: ## the binary and a link for each tool, below $(DESTDIR)$(PREFIX)/bin
	@test -x target/ubpf-tools || { echo "nothing to install: make build comes first" >&2; exit 1; }
	install -D -m 755 target/ubpf-tools "$(DESTDIR)$(PREFIX)/bin/ubpf-tools"
	target/ubpf-tools --list | while read -r tool _; do \
		ln -sfn ubpf-tools "$(DESTDIR)$(PREFIX)/bin/$$tool"; \
	done

clean: ## remove what was built
	cargo clean

setup-%:
	@scripts/setup $*
