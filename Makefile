# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

PREFIX ?= /usr/local
ARCH ?= x86_64
# What `make install` installs, and the folder of zsh completions.
BINARY ?= target/ubpf-tools
PAGES ?= target/pages
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
vmtest := $(if $(filter arm64,$(ARCH)),vmtest-arm64,vmtest)
export PATH := $(PATH):$(HOME)/.cargo/bin

# In the shell, since a new machine has no rustc yet when make reads this.
host := $$(rustc --print host-tuple)
release = $(or $(CARGO_TARGET_DIR),target)/$(host)/release
max_bytes := 8000000

# In CI, warnings of clang are errors and Cargo.lock must be up to date.
ifdef CI
export UBPF_TOOLS_WERROR := 1
locked := --locked
endif

# Copies the binary $(1) to target/$(2) and checks that it is static and small.
define copy_binary =
@mkdir -p target
@install -C -m 755 "$(1)" target/$(2)
@if readelf -lW target/$(2) | grep -w INTERP || readelf -dW target/$(2) | grep -w NEEDED; then \
	echo "target/$(2) is not static" >&2; exit 1; \
fi
@bytes=$$(stat -c %s target/$(2)); echo "target/$(2): static, $$bytes bytes"; \
if ((bytes > $(max_bytes))); then echo "target/$(2) is larger than $(max_bytes) bytes" >&2; exit 1; fi
endef

.PHONY: help build build-arm64 pages notices demo test harm vmtest lint bench new-tool bless vmlinux install package clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 13

build: setup-build ## build the static binary target/ubpf-tools
	cargo build --release $(locked)
	$(call copy_binary,$(release)/ubpf-tools,ubpf-tools)

build-arm64: setup-arm64 ## build target/ubpf-tools-arm64 on an x86-64 machine
	scripts/arm64 build
	$(call copy_binary,target/arm64/cargo/aarch64-unknown-linux-gnu/release/ubpf-tools,ubpf-tools-arm64)

pages: setup-build ## write man pages and completions to target/pages
	rm -rf target/pages
	cargo build --release $(locked) --features pages
	@# Only for the program: in cargo's environment it would make each commit rebuild the C libraries.
	SOURCE_DATE_EPOCH=$$(scripts/version time) $(release)/ubpf-tools --pages target/pages

notices: setup-build setup-package $(if $(filter arm64,$(ARCH)),setup-arm64) ## write third-party notices to target/ubpf-tools.NOTICES, for the image [ARCH=arm64]
	@mkdir -p target
	scripts/licences notices $(if $(filter arm64,$(ARCH)),aarch64,x86_64)-unknown-linux-gnu >target/ubpf-tools$(if $(filter arm64,$(ARCH)),-arm64).NOTICES

demo: build setup-demo ## trace a python3 and a bash that it starts
	scripts/demo

test: setup-build setup-lint setup-test build lint ## run all tests; without root or sudo, those that need none
	cargo test --release --no-fail-fast $(locked) --features pages --bins
	cargo test --release --no-fail-fast $(locked) --test cli --test install
	@# Built as this user, and run by cargo through sudo: with a HOME in which root may write, and the PATH to rustc.
	@if ((EUID == 0)); then \
		root=(env); \
	elif sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; then \
		runner=$$(tr a-z- A-Z_ <<<"cargo_target_$(host)_runner"); \
		root=(env "$$runner=sudo -E -H env PATH=$$(rustc --print sysroot)/bin:$$PATH:/usr/sbin:/sbin"); \
		trap 'sudo chown -R "$$(id -u):$$(id -g)" "$(or $(CARGO_TARGET_DIR),target)"' EXIT; \
	else \
		printf '\n%s\n' '*** NOT RUN, needs root: the tests load, e2e, harm and new_tool' >&2; exit 0; \
	fi; \
	set -x; status=0; \
	"$${root[@]}" cargo test --release --no-fail-fast $(locked) --test load --test e2e --test harm || status=$$?; \
	cargo test --release $(locked) --test new_tool || status=$$?; \
	exit $$status

harm: setup-build setup-test setup-harm ## check that programs do the same under every tool as without; ten minutes, as root
	cargo test --release $(locked) --test harm -- --full $(FILTER)

vmtest: setup-build setup-test setup-$(vmtest) ## run load, e2e and harm tests on kernels 5.10 to 7.2 in QEMU [ARCH=arm64] [WAYS=best]
	scripts/vmtest -a $(ARCH) $(if $(filter best,$(WAYS)),-w)

# cargo fmt misses modules that a macro declares, and other packages.
unseen := src/tools/*.rs tests/e2e/*.rs tests/cases/*.rs fuzz/fuzz_targets/*.rs

# --release to share the dependencies of make build.
lint: setup-build setup-lint ## check formatting, clippy and licences
	@not_run=(); run() { echo "$$*"; "$$@"; }; \
	if cargo fmt --version &>/dev/null; then run cargo fmt --check; run rustfmt --check $(unseen); \
	else not_run+=("cargo fmt"); fi; \
	if cargo clippy --version &>/dev/null; then \
		run cargo clippy --release --all-targets $(locked) --features pages -- -D warnings; \
	else not_run+=("cargo clippy"); fi; \
	run scripts/licences check; \
	run scripts/check-source; \
	if command -v clang-format >/dev/null; then run clang-format --dry-run -Werror src/bpf/*.[ch]; \
	else not_run+=(clang-format); fi; \
	if (($${#not_run[@]})); then printf '\n*** NOT RUN, not installed: %s\n\n' "$${not_run[*]}" >&2; fi

bench: setup-build setup-test ## run the benchmarks
	cargo bench $(locked)

new-tool: setup-build ## write the files of a new tool [TARGET=libc FUNCTION=getaddrinfo NAME=getaddrinfosnoop]
	@scripts/new-tool "$(TARGET)" "$(FUNCTION)" "$(NAME)"

bless: setup-build ## rewrite the snapshots in tests/cli and the table of tools in README.md
	UBPF_TOOLS_BLESS=1 cargo test --release --test cli

vmlinux: setup-vmlinux setup-$(vmtest) ## regenerate vmlinux/*/vmlinux.h [ARCH=arm64]
	scripts/vmtest -a $(ARCH) -b 6.12 -- cat /sys/kernel/btf/vmlinux >target/vmlinux.btf
	vmlinux/generate target/vmlinux.btf $(ARCH:x86_64=x86)

install: ## install binary, links, man pages and completions below $(DESTDIR)$(PREFIX)
	@test -x $(BINARY) && test -d $(PAGES) || { echo "nothing to install; hint: make build pages" >&2; exit 1; }
	install -D -m 755 $(BINARY) "$(DESTDIR)$(PREFIX)/bin/ubpf-tools"
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/man/man1" $(PAGES)/man1/*
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/bash-completion/completions" $(PAGES)/bash/*
	install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d" $(PAGES)/fish/*
	install -D -m 644 -t "$(DESTDIR)$(ZSHDIR)" $(PAGES)/zsh/*
	@# The names come from the pages, since a binary for another architecture does not run here.
	for page in $(PAGES)/man1/*.1; do \
		tool=$$(basename "$$page" .1); \
		[[ $$tool = ubpf-tools ]] || ln -sfn ubpf-tools "$(DESTDIR)$(PREFIX)/bin/$$tool"; \
	done

package: setup-build setup-package setup-arm64 pages ## write .deb, .rpm, .tar.gz, notices and SBOM to target/package [ARCH=arm64]
	@# Not with the default of ARCH, which is one architecture.
	scripts/package $(if $(filter-out file,$(origin ARCH)),$(ARCH))

clean: ## remove target
	cargo clean

setup-%:
	@scripts/setup $*
