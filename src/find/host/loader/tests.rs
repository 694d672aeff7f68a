use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::find::elf::image::Image;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("find-loader-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file that can be run.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An ELF file that needs others. Its loader is made up as well.
    fn elf(&self, name: &str, needed: &[&str], rpath: &str, runpath: &str) -> PathBuf {
        self.write("ld-made.so", Image::default().bytes());
        self.elf_for("ld-made.so", name, needed, rpath, runpath)
    }

    fn elf_for(&self, loader: &str, name: &str, needed: &[&str], rpath: &str, runpath: &str) -> PathBuf {
        let image = Image {
            interpreter: self.path(loader).to_str().unwrap().to_owned(),
            needed: needed.iter().map(|&name| name.to_owned()).collect(),
            rpath: rpath.to_owned(),
            runpath: runpath.to_owned(),
            ..Image::default()
        };
        self.write(name, image.bytes())
    }

    /// The files for a program, relative to the folder, symbolic links and `..` resolved.
    fn closure(&self, exe: &str, env: &[(&str, &str)]) -> Vec<String> {
        let env: Vec<(OsString, OsString)> = env
            .iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let files = closure(&self.path(exe), &env).unwrap();
        let files: Vec<PathBuf> = files.iter().map(|file| file.canonicalize().unwrap()).collect();
        // The machine may preload something into every program.
        let own = files.iter().filter_map(|file| file.strip_prefix(&self.0).ok());
        own.map(|file| file.to_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A cache with these entries: flags, soname, path, hardware bits.
fn cache(entries: &[(u32, &str, &str, u64)]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut strings = Vec::new();
    let strings_at = LoaderCache::HEADER + entries.len() * LoaderCache::ENTRY;
    let mut add = |text: &str| {
        let at = (strings_at + strings.len()) as u32;
        strings.extend(text.bytes().chain([0]));
        at.to_le_bytes()
    };
    for (flags, soname, path, hardware) in entries {
        table.extend(flags.to_le_bytes());
        table.extend(add(soname));
        table.extend(add(path));
        table.extend([0; 4]);
        table.extend(hardware.to_le_bytes());
    }
    let mut data = LoaderCache::MAGIC.to_vec();
    data.extend((entries.len() as u32).to_le_bytes());
    data.extend((strings.len() as u32).to_le_bytes());
    data.resize(LoaderCache::HEADER, 0);
    [data, table, strings].concat()
}

const OWN: u32 = arch::CACHE_ABI | LoaderCache::LIBC6;

fn listed(cache: &LoaderCache) -> Vec<(&str, &Path, u64)> {
    cache.entries().collect()
}

#[test]
fn entries_of_the_cache() {
    let data = cache(&[
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (3, "liba.so.1", "/lib32/liba.so.1", 0),
    ]);
    let expected = [("liba.so.1", Path::new("/lib/liba.so.1"), 0)];
    assert_eq!(listed(&LoaderCache::parse(data.clone())), expected);

    // The same behind a table of the old format, which is padded to 8 bytes.
    let mut old = b"ld.so-1.7.0\0".to_vec();
    old.extend(1_u32.to_le_bytes());
    old.extend([0xee; 12 + 4]);
    assert_eq!(listed(&LoaderCache::parse([old, data].concat())), expected);
}

#[test]
fn a_damaged_cache() {
    let whole = cache(&[
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (OWN, "libb.so.1", "/lib/libb.so.1", 0),
    ]);
    for len in 0..whole.len() {
        assert!(listed(&LoaderCache::parse(whole[..len].to_vec())).len() < 2);
    }
    let mut many = whole.clone();
    many[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(listed(&LoaderCache::parse(many)).len(), 2);
    let mut far = whole.clone();
    far[LoaderCache::HEADER + 4..LoaderCache::HEADER + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(listed(&LoaderCache::parse(far)).len(), 1);
    let mut old = b"ld.so-1.7.0\0".to_vec();
    old.extend(u32::MAX.to_le_bytes());
    assert_eq!(listed(&LoaderCache::parse([old, whole].concat())).len(), 0);
    assert_eq!(listed(&LoaderCache::load(Path::new("/absent"))).len(), 0);
}

#[test]
fn variants_for_other_processors_are_left_out() {
    let data = cache(&[
        (OWN, "liba.so.1", "/lib/glibc-hwcaps/z99/liba.so.1", 1 << 62),
        (OWN, "liba.so.1", "/lib/haswell/liba.so.1", 4),
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (OWN, "liba.so.1.2", "/lib/liba.so.1.2", 0),
    ]);
    assert_eq!(
        LoaderCache::parse(data).exactly("liba.so.1").collect::<Vec<_>>(),
        [Path::new("/lib/liba.so.1")]
    );
}

#[test]
fn the_best_variant_comes_first() {
    let levels = processor_levels();
    let Some(best) = levels.first() else {
        eprintln!("skipped: no variants for this processor");
        return;
    };
    let better = format!("/lib/glibc-hwcaps/{best}/liba.so.1");
    let data = cache(&[
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (OWN, "liba.so.1", &better, 1 << 62),
    ]);
    let found: Vec<PathBuf> = LoaderCache::parse(data).exactly("liba.so.1").collect();
    assert_eq!(found, [Path::new(&better), Path::new("/lib/liba.so.1")]);
}

#[test]
fn versions() {
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
fn the_newest_library_for_this_machine() {
    let folder = Folder::new("newest");
    for name in ["libx.so.9", "libx.so.10", "libx.so", "libxy.so.11"] {
        folder.write(name, Image::default().bytes());
    }
    folder.write("libx.so.12", "/* a linker script */");
    let found = |stem: &str| newest(stem, libraries_in(&folder.0, stem));
    assert_eq!(found("libx"), Some(folder.path("libx.so.10")));
    assert_eq!(found("libx.so.9"), Some(folder.path("libx.so.9")));
    assert_eq!(found("libz"), None);
}

#[test]
fn libraries_of_this_machine() {
    let libc = find_library("libc").unwrap();
    assert!(open_elf(&libc).unwrap().0.defines("malloc"), "{}", libc.display());
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
fn programs() {
    let folder = Folder::new("programs");
    let tool = folder.write("bin/tool", "x");
    fs::write(folder.path("plain"), "x").unwrap();
    fs::create_dir_all(folder.path("first/tool")).unwrap();
    let path = std::env::join_paths(["first", "absent", "bin", ""].map(|dir| folder.path(dir))).unwrap();
    let find = |name: &str| find_program_in(OsStr::new(name), &path);
    assert_eq!(find("tool"), Some(tool.clone()));
    assert_eq!(find("plain"), None, "not executable");
    assert_eq!(find("absent"), None);
    assert_eq!(find(""), None);
    assert_eq!(find(tool.to_str().unwrap()), Some(tool));
    assert!(find_program("sh").is_some());
}

#[test]
fn breadth_first_and_each_once() {
    let folder = Folder::new("breadth");
    folder.elf(
        "bin/exe",
        &["liba.so", "libb.so", "libmissing.so"],
        "",
        "$ORIGIN/../lib",
    );
    folder.elf("lib/liba.so", &["libc1.so", "libb.so"], "", "${ORIGIN}");
    folder.elf("lib/libb.so", &["liba.so", "libd1.so"], "", "$ORIGIN");
    folder.elf("lib/libc1.so", &["libe1.so"], "", "$ORIGIN");
    folder.elf("lib/libd1.so", &[], "", "");
    folder.elf("lib/libe1.so", &["libalias.so"], "", "$ORIGIN");
    symlink("liba.so", folder.path("lib/libalias.so")).unwrap();
    let expected = [
        "bin/exe",
        "lib/liba.so",
        "lib/libb.so",
        "lib/libc1.so",
        "lib/libd1.so",
        "lib/libe1.so",
        "ld-made.so",
    ];
    assert_eq!(folder.closure("bin/exe", &[]), expected);
    symlink("bin/exe", folder.path("link")).unwrap();
    assert_eq!(
        folder.closure("link", &[])[1..],
        expected[1..],
        "the origin is that of the real file"
    );
}

#[test]
fn order_of_the_search_paths() {
    let folder = Folder::new("paths");
    for dir in ["r", "env", "run"] {
        folder.elf(&format!("{dir}/libp.so"), &[], "", "");
    }
    let env = folder.path("env").to_str().unwrap().to_owned();
    let env = [("LD_LIBRARY_PATH", env.as_str())];
    folder.elf("old", &["libp.so"], "$ORIGIN/r", "");
    folder.elf("new", &["libp.so"], "$ORIGIN/r", "$ORIGIN/run");
    assert_eq!(folder.closure("old", &[])[1], "r/libp.so");
    assert_eq!(
        folder.closure("old", &env)[1],
        "r/libp.so",
        "RPATH before the environment"
    );
    assert_eq!(
        folder.closure("new", &[])[1],
        "run/libp.so",
        "RUNPATH turns RPATH off"
    );
    assert_eq!(
        folder.closure("new", &env)[1],
        "env/libp.so",
        "the environment before RUNPATH"
    );
}

#[test]
fn old_run_paths_are_inherited_new_ones_are_not() {
    let folder = Folder::new("inherit");
    folder.elf("lib/libmid.so", &["libend.so"], "", "");
    folder.elf("lib/libend.so", &[], "", "");
    folder.elf("old", &["libmid.so"], "$ORIGIN/lib", "");
    folder.elf("new", &["libmid.so"], "", "$ORIGIN/lib");
    assert_eq!(
        folder.closure("old", &[]),
        ["old", "lib/libmid.so", "lib/libend.so", "ld-made.so"]
    );
    assert_eq!(folder.closure("new", &[]), ["new", "lib/libmid.so", "ld-made.so"]);
    folder.write("ld-musl-made.so", Image::default().bytes());
    folder.elf_for("ld-musl-made.so", "musl", &["libmid.so"], "", "$ORIGIN/lib");
    assert_eq!(
        folder.closure("musl", &[]),
        ["musl", "lib/libmid.so", "lib/libend.so", "ld-musl-made.so"]
    );
}

#[test]
fn preloaded_libraries_come_first() {
    let folder = Folder::new("preload");
    folder.elf("exe", &["liba.so"], "$ORIGIN/lib", "");
    for name in ["lib/liba.so", "lib/libp.so", "q.so"] {
        folder.elf(name, &[], "", "");
    }
    let preload = format!("{} libp.so:absent.so", folder.path("q.so").display());
    let expected = ["exe", "q.so", "lib/libp.so", "lib/liba.so", "ld-made.so"];
    assert_eq!(folder.closure("exe", &[("LD_PRELOAD", &preload)]), expected);
}

#[test]
fn a_static_program_is_alone() {
    let folder = Folder::new("static");
    folder.write("exe", Image::default().bytes());
    folder.elf("q.so", &[], "", "");
    let preload = folder.path("q.so");
    assert_eq!(
        folder.closure("exe", &[("LD_PRELOAD", preload.to_str().unwrap())]),
        ["exe"]
    );
}

#[test]
fn scripts_run_their_interpreter() {
    let folder = Folder::new("scripts");
    let here = folder.0.display();
    folder.elf("exe", &[], "", "");
    folder.write("one", format!("#! {here}/exe -x\nmore"));
    folder.write("two", format!("#!{here}/one"));
    folder.write("env", "#!/usr/bin/env -S A=1 exe -u\n");
    folder.write("circle", format!("#!{here}/circle\n"));
    folder.write("empty", "#!\n");
    folder.write("text", "echo hello to everybody in the world of text files");
    assert_eq!(folder.closure("one", &[]), ["exe", "ld-made.so"]);
    assert_eq!(folder.closure("two", &[]), ["exe", "ld-made.so"]);
    assert_eq!(
        folder.closure("env", &[("PATH", &here.to_string())]),
        ["exe", "ld-made.so"]
    );
    let error = |name: &str| format!("{:#}", closure(&folder.path(name), &[]).unwrap_err());
    assert!(error("circle").contains("too many scripts"));
    assert!(error("empty").contains("no interpreter"));
    assert!(error("text").contains("not an ELF file"));
    assert!(error("absent").starts_with(&format!("failed to open {here}/absent: ")));
}

#[test]
fn dollar_names() {
    let origin = Path::new("/o");
    let expanded = |text: &str| expand(text, origin);
    assert_eq!(expanded("/plain"), [Path::new("/plain")]);
    assert_eq!(expanded("$ORIGIN/../lib"), [Path::new("/o/../lib")]);
    assert_eq!(expanded("${ORIGIN}x"), [Path::new("/ox")]);
    assert_eq!(expanded("/a/$PLATFORM"), [PathBuf::from("/a").join(arch::NAME)]);
    assert_eq!(
        expanded("/a/$LIB"),
        arch::LIB.map(|lib| PathBuf::from("/a").join(lib))
    );
    for text in ["$ORIGINAL/x", "$", "${ORIGIN", "/a$$/b"] {
        assert_eq!(expanded(text), [Path::new(text)], "{text}");
    }
}

#[test]
fn what_a_real_program_maps() {
    let cat = find_program("cat").unwrap();
    let files = closure(&cat, &[]).unwrap();
    assert_eq!(files[0], cat);
    assert!(
        files.len() == 1
            || files
                .iter()
                .any(|file| open_elf(file).unwrap().0.defines("malloc"))
    );
}
