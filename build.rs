// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Compiles every `src/bpf/NAME.bpf.c` to a CO-RE object and a skeleton in `OUT_DIR`, and writes three
//! lists there: `skeletons.rs`, one module per object for `src/bpf.rs`; `objects.rs`, the ELF files for
//! `tests/load.rs`; and `tool_tests.rs`, one module per tool for `tests/e2e/main.rs`.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;

const SOURCES: &str = "src/bpf";
/// Has the list of tools.
const TOOLS: &str = "src/tools.rs";
/// The highest level of miniz_oxide.
const DEFLATE_LEVEL: u8 = 10;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rerun-if-changed={TOOLS}");
    println!("cargo:rerun-if-changed=vmlinux");
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=UBPF_TOOLS_WERROR");

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: build with cargo")?);
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let args = clang_args(&out)?;
    let mut modules = String::new();
    let mut objects = String::new();
    for source in bpf_sources()? {
        let name = object_name(&source)?;
        let object = out.join(format!("{name}.bpf.o"));
        let skeleton = out.join(format!("{name}.skel.rs"));
        check_warnings(&clang, &args, &source)?;
        SkeletonBuilder::new()
            .source(&source)
            .obj(&object)
            .clang(&clang)
            .clang_args(&args)
            .reference_obj(true)
            .build_and_generate(&skeleton)
            .with_context(|| format!("failed to build {}", source.display()))?;
        let module = write_module(&name, &object, &skeleton)
            .with_context(|| format!("failed to embed {}", object.display()))?;
        modules.push_str(&module);
        writeln!(objects, "    ({name:?}, include_bytes!({object:?})),")?;
    }
    fs::write(out.join("skeletons.rs"), modules)?;
    fs::write(out.join("objects.rs"), format!("&[\n{objects}]\n"))?;
    fs::write(out.join("tool_tests.rs"), tool_tests()?)?;
    Ok(())
}

/// A module `tools` with the tests of each tool, `tests/e2e/NAME.rs`.
fn tool_tests() -> Result<String> {
    let text = fs::read_to_string(TOOLS).with_context(|| format!("failed to read {TOOLS}"))?;
    let names = text
        .split_once("\ntools! {")
        .and_then(|(_, list)| list.split_once('}'))
        .with_context(|| format!("{TOOLS} has no list `tools! {{ .. }}`"))?
        .0;
    let folder = env::current_dir()?.join("tests/e2e");
    let mut module = format!("#[path = {folder:?}]\nmod tools {{\n");
    for name in names.lines().filter_map(|line| line.split_whitespace().last()) {
        writeln!(module, "    pub mod {name};")?;
    }
    module.push_str("}\n");
    Ok(module)
}

/// The BPF sources, sorted so that the generated lists are reproducible.
fn bpf_sources() -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(SOURCES).with_context(|| format!("failed to read {SOURCES}"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".bpf.c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn object_name(source: &Path) -> Result<String> {
    let name = source
        .file_name()
        .and_then(|file| file.to_str()?.strip_suffix(".bpf.c"));
    let name = name.with_context(|| format!("{} is not named NAME.bpf.c", source.display()))?;
    Ok(name.to_owned())
}

/// Compresses an object, makes its skeleton unpack it, and returns the module that holds both.
fn write_module(name: &str, object: &Path, skeleton: &Path) -> Result<String> {
    let elf = fs::read(object)?;
    let compressed = object.with_extension("o.zlib");
    fs::write(
        &compressed,
        miniz_oxide::deflate::compress_to_vec_zlib(&elf, DEFLATE_LEVEL),
    )?;

    let text = fs::read_to_string(skeleton)?;
    let text =
        replace_data(&text).context("unexpected text from libbpf-cargo, see replace_data in build.rs")?;
    fs::write(skeleton, &text)?;

    let mut module = String::new();
    // Not every object is opened through its skeleton.
    writeln!(module, "#[allow(unused_imports)]")?;
    writeln!(module, "pub mod {name} {{")?;
    writeln!(
        module,
        "    pub static OBJECT: super::EmbeddedObject = super::EmbeddedObject::new(include_bytes!({compressed:?}), {});",
        elf.len()
    )?;
    writeln!(module, "    include!({skeleton:?});")?;
    // An object with the constants of filter.bpf.h and the counters of event.bpf.h.
    if text.contains("pub wanted_comms: ") {
        let prefix = skeleton_prefix(&text).context("failed to find the skeleton's name")?;
        writeln!(
            module,
            "    super::impl_tool_skeleton!({prefix}SkelBuilder, Open{prefix}Skel, {prefix}Skel);"
        )?;
    }
    writeln!(module, "}}")?;
    Ok(module)
}

/// Replaces the copy of the object in a skeleton by the module's `OBJECT`. None if the text is not as
/// expected.
fn replace_data(skeleton: &str) -> Option<String> {
    const USE: &str = "ObjectSkeletonConfigBuilder::new(&DATA)";
    const STATIC: &str = "static DATA: [u8; ";
    const SECTION: &str = "#[unsafe(link_section = \".bpf.objs\")]";

    let (before, after) = only_match(skeleton, STATIC)?;
    let (_, after) = after.split_once(';')?;
    let (before, between) = only_match(before, SECTION)?;
    if !between.trim().is_empty() || after.trim() != "}" {
        return None;
    }
    let (before, middle) = only_match(before, USE)?;
    let user = "ObjectSkeletonConfigBuilder::new(super::OBJECT.elf()?)";
    Some([before, user, middle, after].concat())
}

/// What comes before and after the only occurrence of `pattern`.
fn only_match<'a>(text: &'a str, pattern: &str) -> Option<(&'a str, &'a str)> {
    let parts = text.split_once(pattern)?;
    (!parts.1.contains(pattern)).then_some(parts)
}

/// `Functrace` of `FunctraceSkelBuilder`, `OpenFunctraceSkel` and `FunctraceSkel`.
fn skeleton_prefix(skeleton: &str) -> Option<&str> {
    let (before, _) = skeleton.split_once("SkelBuilder {")?;
    before.rsplit_once("pub struct ").map(|(_, prefix)| prefix)
}

/// Uses libbpf's headers from libbpf-sys, which match the libbpf that is linked.
fn clang_args(out: &Path) -> Result<Vec<OsString>> {
    let include = out.join("include");
    fs::create_dir_all(include.join("bpf"))?;
    for (name, text) in libbpf_sys::API_HEADERS.iter() {
        fs::write(include.join("bpf").join(name), text)?;
    }
    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => bail!("no vmlinux.h for {other}: see `make vmlinux`"),
    };
    let here = env::current_dir().context("failed to get the current folder")?;
    Ok(["-Wall", "-Wextra", "-Wno-unused-parameter", "-std=gnu11"]
        .into_iter()
        .map(OsString::from)
        .chain([
            // BTF contains source paths; keep them the same wherever this is built.
            format!("-ffile-prefix-map={}=.", here.display()).into(),
            format!("-ffile-prefix-map={}=out", out.display()).into(),
            format!("-D__TARGET_ARCH_{arch}").into(),
            "-isystem".into(),
            include.into(),
            format!("-Ivmlinux/{arch}").into(),
        ])
        .collect())
}

/// Shows clang's warnings, which libbpf-cargo drops, and makes them errors in CI.
fn check_warnings(clang: &OsString, args: &[OsString], source: &Path) -> Result<()> {
    let output = Command::new(clang)
        .args(["-target", "bpf", "-O2", "-g", "-fsyntax-only"])
        .args(args)
        .arg(source)
        .output()
        .with_context(|| {
            format!(
                "failed to run {}: install clang or set CLANG to its path",
                clang.display()
            )
        })?;
    let messages = String::from_utf8_lossy(&output.stderr);
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
    let strict = env::var_os("UBPF_TOOLS_WERROR").is_some_and(|value| !value.is_empty() && value != "0");
    if !output.status.success() || (strict && !messages.trim().is_empty()) {
        bail!("clang reported problems in {}:\n{messages}", source.display());
    }
    Ok(())
}
