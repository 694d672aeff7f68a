// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::*;
use crate::find::elf::image::{BASE, CODE_AT, file_with, image_with_functions};
use crate::find::functions;

/// A library with functions of each kind. `__attribute__((noipa))` keeps the compiler from looking through calls.
const SOURCE: &str = r#"
#include <alloca.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART static __attribute__((noipa))
PART int add(int a, int b) { return a + b; }
PART void fail(void) { abort(); }
PART int (*choose(int a))(int, int) { return a ? add : 0; }
PART void *caller(void) { return __builtin_return_address(0); }
PART void leave(void) { pthread_exit(0); }

int closed_leaf(int a) { return a * 3 + 1; }
int closed_calls(int a) { return add(a, 1) + add(a, 2); }
int closed_tail_call(int a) { return add(a, 1); }
int closed_loop(int a) { int sum = 0; for (int i = 0; i < a; i++) sum = add(sum, i); return sum; }
int closed_failure(int a) { if (a < 0) fail(); return add(a, 1); }
int closed_buffer(int a) { char *b = alloca(a); for (int i = 0; i < a; i++) b[i] = add(i, a); return b[a / 2]; }
int closed_switch(int a)
{
    switch (a) {
    case 0: return add(1, a); case 1: return add(5, a) * 7; case 2: return add(9, a) ^ 3;
    case 3: return add(2, a) / 5; case 4: return add(8, a) - 1; case 5: return add(4, a) % 3;
    default: return 0;
    }
}
int closed_system_call(int a) { long r; __asm__ volatile("syscall" : "=a"(r) : "a"(39) : "rcx", "r11"); return r + a; }

int open_pointer(int a) { return choose(a)(a, 2) + 1; }
int open_pointer_tail(int a) { return choose(a)(a, 2); }
int open_library(const char *a) { return strtol(a, 0, 10) + 1; }
int open_nested(const char *a) { return closed_leaf(open_library(a)); }
void *open_return_address(void) { return __builtin_return_address(0); }
int open_exit(int a) { if (a < 0) leave(); return add(a, 1); }
__attribute__((naked)) int open_stack_switch(void *to) { __asm__("mov %rsp,%rax; mov %rdi,%rsp; mov %rax,%rsp; ret"); }
__attribute__((naked)) int open_pop(void) { __asm__("pop %rdx; push %rdx; ret"); }
"#;

/// Compiles `SOURCE` and checks each function whose name begins with `closed_` or `open_`.
fn check_compiled(option: &str) {
    let name = format!("ubpf-tools-closed-{}{option}", std::process::id());
    let source = std::env::temp_dir().join(&name).with_extension("c");
    let library = source.with_extension("so");
    fs::write(&source, SOURCE).unwrap();
    let status = Command::new("gcc")
        .args([
            "-shared",
            "-fPIC",
            "-fvisibility=default",
            "-Wl,-Bsymbolic",
            "-pthread",
            option,
            "-o",
        ])
        .args([&library, &source])
        .status();
    fs::remove_file(&source).unwrap();
    assert!(status.unwrap().success());
    let elf = ElfFile::open(File::open(&library).unwrap(), &library).unwrap();
    let mut closed = ClosedFunctions::new(&elf, functions::sizes(&elf));
    let found = functions::select(&elf, &library, &crate::find::spec::NamePattern::any()).unwrap();
    fs::remove_file(&library).unwrap();
    let mut checked = 0;
    for function in found {
        let expected = (
            function.name.starts_with("closed_"),
            function.name.starts_with("open_"),
        );
        if expected == (false, false) {
            continue;
        }
        let verdict = closed.check(function.addr);
        assert_eq!(
            verdict.is_ok(),
            expected.0,
            "{option} {}: {verdict:?}",
            function.name
        );
        checked += 1;
    }
    assert_eq!(checked, 16);
}

#[test]
fn compiled_functions_are_closed_or_open() {
    for option in ["-O0", "-O1", "-O2", "-O3", "-Os", "-fcf-protection"] {
        check_compiled(option);
    }
}

#[test]
fn functions_of_libc_are_closed_or_open() {
    let path = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    let elf = ElfFile::open(File::open(path).unwrap(), path).unwrap();
    let mut closed = ClosedFunctions::new(&elf, functions::sizes(&elf));
    let mut check = |name: &str| {
        let found = elf.lookup(&[name]).unwrap();
        closed.check(found[0].as_ref().unwrap_or_else(|| panic!("no {name}")).addr)
    };
    for name in ["malloc", "free", "calloc", "realloc", "getpid", "abs", "toupper"] {
        assert_eq!(check(name), Ok(()), "{name}");
    }
    for name in ["read", "write", "open64", "fsync", "nanosleep", "recv", "pause"] {
        assert_eq!(check(name), Err(OpenReason::Unwinds), "{name}");
    }
    for name in [
        "setjmp",
        "_setjmp",
        "vfork",
        "dlsym",
        "dlopen",
        "getcontext",
        "swapcontext",
        "setcontext",
    ] {
        let verdict = check(name);
        assert!(
            matches!(
                verdict,
                Err(OpenReason::ReadsReturnAddress | OpenReason::MovesStack | OpenReason::CallsPointer)
            ),
            "{name}: {verdict:?}"
        );
    }
    for name in [
        "printf",
        "qsort",
        "bsearch",
        "fork",
        "exit",
        "pthread_exit",
        "longjmp",
        "getaddrinfo",
        "tsearch",
    ] {
        assert!(check(name).is_err(), "{name}");
    }
}

/// Functions that each call the next one, with `last` as the last one, and its address.
fn call_chain(count: u64, last: &[u8]) -> (ElfFile, Vec<u64>) {
    let mut code = [0xe8, 1, 0, 0, 0, 0xc3].repeat(count as usize - 1);
    code.extend(last);
    code.resize(count as usize * 6, 0x90);
    let image = file_with(&image_with_functions(&code, count, 6, 6));
    let addrs = (0..count).map(|index| BASE + CODE_AT + index * 6).collect();
    (ElfFile::open(image, Path::new("made-up")).unwrap(), addrs)
}

#[test]
fn chains_of_calls_are_followed_once() {
    const COUNT: u64 = 2000;
    for (last, expected) in [
        (&[0xc3][..], Ok(())),
        (&[0xff, 0xd0, 0xc3], Err(OpenReason::CallsPointer)),
    ] {
        let (elf, addrs) = call_chain(COUNT, last);
        let sizes = addrs.iter().map(|&addr| (addr, 6)).collect();
        let mut closed = ClosedFunctions::new(&elf, sizes);
        for &addr in &addrs {
            assert_eq!(closed.check(addr), expected);
        }
        let visits = MOST_VISITS - closed.visits;
        assert!(visits <= 2 * COUNT as usize, "{visits}");
    }
}

#[test]
fn kept_results_are_those_of_a_new_check() {
    let path = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    let elf = ElfFile::open(File::open(path).unwrap(), path).unwrap();
    let sizes = functions::sizes(&elf);
    let mut fresh = ClosedFunctions::new(&elf, sizes.clone());
    let mut kept = ClosedFunctions::new(&elf, sizes.clone());
    let mut numbers = [0, 0];
    for &addr in sizes.keys() {
        fresh.closed.clear();
        fresh.open.clear();
        fresh.visits = MOST_VISITS;
        let is_closed = kept.check(addr).is_ok();
        assert_eq!(is_closed, fresh.check(addr).is_ok(), "{addr:#x}");
        numbers[usize::from(is_closed)] += 1;
    }
    assert!(numbers.iter().all(|&number| number > 100), "{numbers:?}");
}
