// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::find::elf::image::ElfImage;

/// A directory that is removed at the end of the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> TestDir {
        let path = std::env::temp_dir().join(format!("find-loader-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TestDir(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An executable file.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An ELF file with dependencies, and a made-up loader for it.
    fn elf(&self, name: &str, needed: &[&str], rpath: &str, runpath: &str) -> PathBuf {
        self.write("ld-made.so", ElfImage::default().bytes());
        self.elf_for("ld-made.so", name, needed, rpath, runpath)
    }

    fn elf_for(&self, loader: &str, name: &str, needed: &[&str], rpath: &str, runpath: &str) -> PathBuf {
        let image = ElfImage {
            interpreter: self.path(loader).to_str().unwrap().to_owned(),
            needed: needed.iter().map(|&name| name.to_owned()).collect(),
            rpath: rpath.to_owned(),
            runpath: runpath.to_owned(),
            ..ElfImage::default()
        };
        self.write(name, image.bytes())
    }

    /// The closure of a program, relative to the directory, symbolic links and `..` resolved.
    fn closure(&self, exe: &str, env: &[(&str, &str)]) -> Vec<String> {
        let env: Vec<(OsString, OsString)> = env
            .iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let files = closure(&self.path(exe), &env).unwrap();
        let files: Vec<PathBuf> = files
            .iter()
            .map(|file| file.path.canonicalize().unwrap())
            .collect();
        // The machine may preload libraries into every program.
        let own = files.iter().filter_map(|file| file.strip_prefix(&self.0).ok());
        own.map(|file| file.to_str().unwrap().to_owned()).collect()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn version_of_a_soname() {
    assert_eq!(version_of("libssl.so.1.1", "libssl"), Some(vec![1, 1]));
    assert_eq!(version_of("libssl.so.1.1", "libssl.so.1"), Some(vec![1]));
    assert_eq!(version_of("libssl.so", "libssl"), Some(vec![]));
    assert_eq!(version_of("libssl.so.3", "libssl.so.3"), Some(vec![]));
    for (soname, stem) in [
        ("libcap.so.2", "libc"),
        ("libc-2.31.so", "libc"),
        ("libssl.so.11", "libssl.so.1"),
        ("libssl.sock", "libssl"),
        ("libssl", "libssl"),
        ("libpython3.11.so.1.0", "libpython3"),
    ] {
        assert_eq!(version_of(soname, stem), None, "{soname} {stem}");
    }
}

#[test]
fn newest_version_wins_and_linker_scripts_are_ignored() {
    let dir = TestDir::new("newest");
    for name in ["libx.so.9", "libx.so.10", "libx.so", "libxy.so.11"] {
        dir.write(name, ElfImage::default().bytes());
    }
    dir.write("libx.so.12", "/* a linker script */");
    let found = |stem: &str| newest(stem, libraries_in(&dir.0, stem)).map(|library| library.path);
    assert_eq!(found("libx"), Some(dir.path("libx.so.10")));
    assert_eq!(found("libx.so.9"), Some(dir.path("libx.so.9")));
    assert_eq!(found("libz"), None);
}

#[test]
fn finds_libc_by_each_of_its_names() {
    let libc = find_library("libc").unwrap();
    assert!(
        ObjectFile::with_elf(&libc).unwrap().1.defines("malloc"),
        "{}",
        libc.display()
    );
    assert_eq!(find_library("c"), Some(libc.clone()));
    assert_eq!(
        find_library(libc.file_name().unwrap().to_str().unwrap()),
        Some(libc)
    );
    for name in [
        "",
        "no-such-library",
        "libno-such-library.so.1",
        "/lib/libc.so.6",
        "../libc",
    ] {
        assert_eq!(find_library(name), None, "{name}");
    }
}

#[test]
fn programs_are_found_in_path() {
    let dir = TestDir::new("programs");
    let tool = dir.write("bin/tool", "x");
    fs::write(dir.path("plain"), "x").unwrap();
    fs::create_dir_all(dir.path("first/tool")).unwrap();
    let path = std::env::join_paths(["first", "absent", "bin", ""].map(|name| dir.path(name))).unwrap();
    let find = |name: &str| find_program_in(OsStr::new(name), &path);
    assert_eq!(find("tool"), Some(tool.clone()));
    assert_eq!(find("plain"), None, "not executable");
    assert_eq!(find("absent"), None);
    assert_eq!(find(""), None);
    assert_eq!(find(tool.to_str().unwrap()), Some(tool));
    assert!(find_program("sh").is_some());
}

#[test]
fn dependencies_come_breadth_first_and_once() {
    let dir = TestDir::new("breadth");
    dir.elf(
        "bin/exe",
        &["liba.so", "libb.so", "libmissing.so"],
        "",
        "$ORIGIN/../lib",
    );
    dir.elf("lib/liba.so", &["libc1.so", "libb.so"], "", "${ORIGIN}");
    dir.elf("lib/libb.so", &["liba.so", "libd1.so"], "", "$ORIGIN");
    dir.elf("lib/libc1.so", &["libe1.so"], "", "$ORIGIN");
    dir.elf("lib/libd1.so", &[], "", "");
    dir.elf("lib/libe1.so", &["libalias.so"], "", "$ORIGIN");
    symlink("liba.so", dir.path("lib/libalias.so")).unwrap();
    let expected = [
        "bin/exe",
        "lib/liba.so",
        "lib/libb.so",
        "lib/libc1.so",
        "lib/libd1.so",
        "lib/libe1.so",
        "ld-made.so",
    ];
    assert_eq!(dir.closure("bin/exe", &[]), expected);
    symlink("bin/exe", dir.path("link")).unwrap();
    assert_eq!(
        dir.closure("link", &[])[1..],
        expected[1..],
        "$ORIGIN is the directory of the real file"
    );
}

#[test]
fn rpath_environment_runpath_in_this_order() {
    let dir = TestDir::new("paths");
    for below in ["r", "env", "run"] {
        dir.elf(&format!("{below}/libp.so"), &[], "", "");
    }
    let env = dir.path("env").to_str().unwrap().to_owned();
    let env = [("LD_LIBRARY_PATH", env.as_str())];
    dir.elf("old", &["libp.so"], "$ORIGIN/r", "");
    dir.elf("new", &["libp.so"], "$ORIGIN/r", "$ORIGIN/run");
    assert_eq!(dir.closure("old", &[])[1], "r/libp.so");
    assert_eq!(
        dir.closure("old", &env)[1],
        "r/libp.so",
        "RPATH before the environment"
    );
    assert_eq!(
        dir.closure("new", &[])[1],
        "run/libp.so",
        "RUNPATH disables RPATH"
    );
    assert_eq!(
        dir.closure("new", &env)[1],
        "env/libp.so",
        "environment before RUNPATH"
    );
}

#[test]
fn rpath_is_inherited_and_runpath_is_not() {
    let dir = TestDir::new("inherit");
    dir.elf("lib/libmid.so", &["libend.so"], "", "");
    dir.elf("lib/libend.so", &[], "", "");
    dir.elf("old", &["libmid.so"], "$ORIGIN/lib", "");
    dir.elf("new", &["libmid.so"], "", "$ORIGIN/lib");
    assert_eq!(
        dir.closure("old", &[]),
        ["old", "lib/libmid.so", "lib/libend.so", "ld-made.so"]
    );
    assert_eq!(dir.closure("new", &[]), ["new", "lib/libmid.so", "ld-made.so"]);
    dir.write("ld-musl-made.so", ElfImage::default().bytes());
    dir.elf_for("ld-musl-made.so", "musl", &["libmid.so"], "", "$ORIGIN/lib");
    assert_eq!(
        dir.closure("musl", &[]),
        ["musl", "lib/libmid.so", "lib/libend.so", "ld-musl-made.so"]
    );
}

#[test]
fn preloaded_libraries_come_first() {
    let dir = TestDir::new("preload");
    dir.elf("exe", &["liba.so"], "$ORIGIN/lib", "");
    for name in ["lib/liba.so", "lib/libp.so", "q.so"] {
        dir.elf(name, &[], "", "");
    }
    let preload = format!("{} libp.so:absent.so", dir.path("q.so").display());
    let expected = ["exe", "q.so", "lib/libp.so", "lib/liba.so", "ld-made.so"];
    assert_eq!(dir.closure("exe", &[("LD_PRELOAD", &preload)]), expected);
}

#[test]
fn static_program_ignores_preloads() {
    let dir = TestDir::new("static");
    dir.write("exe", ElfImage::default().bytes());
    dir.elf("q.so", &[], "", "");
    let preload = dir.path("q.so");
    assert_eq!(
        dir.closure("exe", &[("LD_PRELOAD", preload.to_str().unwrap())]),
        ["exe"]
    );
}

#[test]
fn scripts_run_their_interpreter() {
    let dir = TestDir::new("scripts");
    let here = dir.0.display();
    dir.elf("exe", &[], "", "");
    dir.write("one", format!("#! {here}/exe -x\nmore"));
    dir.write("two", format!("#!{here}/one"));
    dir.write("env", "#!/usr/bin/env -S A=1 exe -u\n");
    dir.write("circle", format!("#!{here}/circle\n"));
    dir.write("empty", "#!\n");
    dir.write(
        "text",
        "echo hello to a text file that does not name its interpreter",
    );
    dir.write("binary", "\0\0 neither");
    assert_eq!(dir.closure("one", &[]), ["exe", "ld-made.so"]);
    assert_eq!(dir.closure("two", &[]), ["exe", "ld-made.so"]);
    assert_eq!(
        dir.closure("env", &[("PATH", &here.to_string())]),
        ["exe", "ld-made.so"]
    );
    let error = |name: &str| format!("{:#}", closure(&dir.path(name), &[]).unwrap_err());
    assert!(error("circle").contains("too many scripts"));
    assert!(error("empty").contains("no interpreter"));
    assert!(error("binary").contains("not an ELF file"));
    let shell = |name: &Path| closure(name, &[]).unwrap().first().map(|object| object.id);
    assert_eq!(shell(&dir.path("text")), shell(Path::new("/bin/sh")));
    assert!(error("absent").starts_with(&format!("failed to open {here}/absent: ")));
}

#[test]
fn closure_of_a_real_program() {
    let cat = find_program("cat").unwrap();
    let files = closure(&cat, &[]).unwrap();
    assert_eq!(files[0].path, cat);
    assert!(files.len() == 1 || files.iter().any(|file| file.elf().unwrap().defines("malloc")));
}
