//! Builds every `src/bpf/*.bpf.c` into a CO-RE object and a skeleton in `OUT_DIR`, and writes `skeletons.rs` there:
//! a module a tool, and the list of all objects for the load test.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;

const SOURCES: &str = "src/bpf";

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rerun-if-changed=vmlinux");
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=UBPF_TOOLS_WERROR");

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: run me through cargo")?);
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let args = clang_args(&out)?;
    let mut modules = String::new();
    let mut objects = String::new();
    for source in bpf_sources()? {
        let name = tool_name(&source)?;
        check_warnings(&clang, &args, &source)?;
        let skeleton = out.join(format!("{name}.skel.rs"));
        SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{name}.bpf.o")))
            .clang(&clang)
            .clang_args(&args)
            .build_and_generate(&skeleton)
            .with_context(|| format!("failed to build {}", source.display()))?;
        // An object that is no tool's own is opened without its skeleton.
        writeln!(
            modules,
            "#[allow(unused_imports)] pub mod {name} {{ include!({skeleton:?}); }}"
        )?;
        writeln!(
            objects,
            "    ({name:?}, include_bytes!({:?})),",
            out.join(format!("{name}.bpf.o"))
        )?;
    }
    fs::write(out.join("skeletons.rs"), modules)?;
    fs::write(out.join("objects.rs"), format!("&[\n{objects}]\n"))?;
    Ok(())
}

/// The BPF sources in a stable order, so that the generated lists are the same everywhere.
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

fn tool_name(source: &Path) -> Result<String> {
    let file = source
        .file_name()
        .and_then(|name| name.to_str())
        .context("a BPF source has an odd name")?;
    Ok(file.trim_end_matches(".bpf.c").to_owned())
}

/// libbpf's own headers come with libbpf-sys, so that they match the libbpf that is linked.
fn clang_args(out: &Path) -> Result<Vec<OsString>> {
    let include = out.join("include");
    fs::create_dir_all(include.join("bpf"))?;
    for (name, text) in libbpf_sys::API_HEADERS.iter() {
        fs::write(include.join("bpf").join(name), text)?;
    }
    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => bail!("no vmlinux.h for {other}: make one with `make vmlinux` on such a machine"),
    };
    let here = env::current_dir().context("failed to find the current folder")?;
    Ok(["-Wall", "-Wextra", "-Wno-unused-parameter", "-std=gnu11"]
        .into_iter()
        .map(OsString::from)
        .chain([
            // BTF names the source of each line: by the same names, wherever this is built.
            format!("-ffile-prefix-map={}=.", here.display()).into(),
            format!("-ffile-prefix-map={}=out", out.display()).into(),
            format!("-D__TARGET_ARCH_{arch}").into(),
            "-isystem".into(),
            include.into(),
            format!("-Ivmlinux/{arch}").into(),
        ])
        .collect())
}

/// libbpf-cargo keeps clang's warnings to itself, so they are asked for once more: shown, and errors in CI.
fn check_warnings(clang: &OsString, args: &[OsString], source: &Path) -> Result<()> {
    let output = Command::new(clang)
        .args(["-target", "bpf", "-O2", "-g", "-fsyntax-only"])
        .args(args)
        .arg(source)
        .output()
        .with_context(|| {
            format!(
                "failed to run {}: install clang, or name it in CLANG",
                clang.display()
            )
        })?;
    let messages = String::from_utf8_lossy(&output.stderr);
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
    let strict = env::var_os("UBPF_TOOLS_WERROR").is_some_and(|value| !value.is_empty() && value != "0");
    if !output.status.success() || (strict && !messages.trim().is_empty()) {
        bail!("clang is not content with {}:\n{messages}", source.display());
    }
    Ok(())
}
