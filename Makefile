# ubpf-tools: `make help` lists what there is to make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

PREFIX ?= /usr/local
ARCH ?= x86_64
# What is installed, and where zsh looks for its part.
BINARY ?= target/ubpf-tools
PAGES ?= target/pages
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
vmtest := $(if $(filter arm64,$(ARCH)),vmtest-arm64,vmtest)
export PATH := $(PATH):$(HOME)/.cargo/bin

# For recipes: a new machine has no rustc yet when make reads this.
host := $$(rustc --print host-tuple)
max_bytes := 6000000

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

.PHONY: help build build-arm64 pages demo test vmtest lint bench new-tool bless vmlinux install package clean

help: ## say what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 13

build: setup-build ## leave the static binary in target/ubpf-tools
	cargo build --release $(locked)
	$(call leave,$(or $(CARGO_TARGET_DIR),target)/$(host)/release/ubpf-tools,ubpf-tools)

build-arm64: setup-arm64 ## the same for arm64, in target/ubpf-tools-arm64, on an x86-64 machine
	scripts/arm64 build
	$(call leave,target/arm64/cargo/aarch64-unknown-linux-gnu/release/ubpf-tools,ubpf-tools-arm64)

pages: setup-build ## write man pages and completions into target/pages
	rm -rf target/pages
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct || true)} \
		cargo run --release $(locked) --features pages -- --pages target/pages

demo: build setup-demo ## watch a python3 and a bash that it starts
	scripts/demo

test: setup-build setup-lint setup-test build lint ## run every test that this user may run
	cargo test --release --no-fail-fast $(locked) --features pages --bins
	cargo test --release --no-fail-fast $(locked) --test cli --test install
	@# Built as the user; cargo runs what it built through sudo.
	@if ((EUID == 0)); then \
		root=(env); \
	elif sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; then \
		runner=$$(tr a-z- A-Z_ <<<"cargo_target_$(host)_runner"); \
		root=(env "$$runner=sudo -E"); \
	else \
		printf '\n%s\n' '*** NOT RUN, for want of root: the tests load and e2e' >&2; exit 0; \
	fi; \
	set -x; "$${root[@]}" cargo test --release --no-fail-fast $(locked) --test load --test e2e --test new_tool

vmtest: setup-build setup-test setup-$(vmtest) ## run the tests on kernels 5.10 to 7.2 under QEMU; or ARCH=arm64, WAYS=best
	scripts/vmtest -a $(ARCH) $(if $(filter best,$(WAYS)),-w)

# Declared by a macro, or part of another package: cargo fmt does not see them.
unseen := src/tools/*.rs tests/e2e/*.rs fuzz/fuzz_targets/*.rs

# --release only because that shares what is built already.
lint: setup-build setup-lint ## formatting, clippy
	@not_run=(); run() { echo "$$*"; "$$@"; }; \
	if cargo fmt --version &>/dev/null; then run cargo fmt --check; run rustfmt --check $(unseen); \
	else not_run+=("cargo fmt"); fi; \
	if cargo clippy --version &>/dev/null; then \
		run cargo clippy --release --all-targets $(locked) --features pages -- -D warnings; \
	else not_run+=("cargo clippy"); fi; \
	if command -v clang-format >/dev/null; then run clang-format --dry-run -Werror src/bpf/*.[ch]; \
	else not_run+=(clang-format); fi; \
	if (($${#not_run[@]})); then printf '\n*** NOT RUN, not installed: %s\n\n' "$${not_run[*]}" >&2; fi

bench: setup-build setup-test ## measure
	cargo bench $(locked)

new-tool: setup-build ## write the files of a new tool [TARGET=libc FUNCTION=getaddrinfo NAME=getaddrinfosnoop]
	@scripts/new-tool "$(TARGET)" "$(FUNCTION)" "$(NAME)"

bless: setup-build ## take today's output as the expected one
	UBPF_TOOLS_BLESS=1 cargo test --release --test cli

vmlinux: setup-vmlinux setup-$(vmtest) ## make the kernel types anew; or ARCH=arm64
	scripts/vmtest -a $(ARCH) -b 6.12 -- cat /sys/kernel/btf/vmlinux >target/vmlinux.btf
	vmlinux/generate target/vmlinux.btf $(ARCH:x86_64=x86)

install: ## binary, a link a tool, man pages and completions, below $(DESTDIR)$(PREFIX)
	@test -x $(BINARY) && test -d $(PAGES) || { echo "nothing to install: make build pages comes first" >&2; exit 1; }
	install -D -m 755 $(BINARY) "$(DESTDIR)$(PREFIX)/bin/ubpf-tools"
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/man/man1" $(PAGES)/man1/*
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" $(PAGES)/bash/*
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d" $(PAGES)/fish/*
	install -D -m 644 -t "$(DESTDIR)$(ZSHDIR)" $(PAGES)/zsh/*
	@# By the pages, as a binary for another architecture cannot be asked.
	for page in $(PAGES)/man1/*.1; do \
		tool=$$(basename "$$page" .1); \
		[[ $$tool = ubpf-tools ]] || ln -sfn ubpf-tools "$(DESTDIR)$(PREFIX)/bin/$$tool"; \
	done

package: setup-build setup-package pages ## make .deb, .rpm, .tar.gz and SBOM of both architectures in target/package; or ARCHES=x86_64
	scripts/package $(ARCHES)

clean: ## remove what was built
	cargo clean

setup-%:
	@scripts/setup $*
