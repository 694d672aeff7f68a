// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What users get besides the binary: a page for each tool, and the files of `make install`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_ubpf-tools");
const TOP: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn each_tool_has_a_page() {
    for tool in tools() {
        let page = format!("docs/tools/{tool}.md");
        let text = fs::read_to_string(Path::new(TOP).join(&page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.starts_with(&format!("# {tool}\n")), "{page}:\n{text}");
        for part in [
            format!("{tool} "),
            "**Overhead.**".to_owned(),
            "**What it cannot see.**".to_owned(),
            "\n## Records\n".to_owned(),
        ] {
            assert!(text.contains(&part), "{page} does not contain {part:?}");
        }
    }
}

#[test]
fn each_page_has_a_tool() {
    let pages: BTreeSet<String> = fs::read_dir(Path::new(TOP).join("docs/tools"))
        .expect("docs/tools")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            path.file_stem()
                .expect("a file name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(pages, tools().into_iter().collect());
}

/// With empty pages, since `make pages` needs another build.
#[test]
fn install_copies_binary_links_pages_and_completions() {
    let folder = TempFolder::new();
    let mut names = tools();
    names.push("ubpf-tools".to_owned());
    for name in &names {
        for page in [
            format!("man1/{name}.1"),
            format!("bash/{name}"),
            format!("zsh/_{name}"),
            format!("fish/{name}.fish"),
        ] {
            let page = folder.0.join("pages").join(page);
            fs::create_dir_all(page.parent().expect("a folder")).expect("a new folder");
            fs::write(&page, "").expect("a new page");
        }
    }
    let root = folder.0.join("root");
    let prefix = root.join("opt/ubpf");
    install(&folder.0.join("pages"), &root);

    let mut expected = BTreeSet::new();
    for name in &names {
        expected.extend([
            format!("bin/{name}"),
            format!("share/man/man1/{name}.1"),
            format!("share/bash-completion/completions/{name}"),
            format!("share/zsh/site-functions/_{name}"),
            format!("share/fish/vendor_completions.d/{name}.fish"),
        ]);
    }
    assert_eq!(files(&root, &prefix), expected);
    let binary = prefix.join("bin/ubpf-tools");
    let mode = fs::metadata(&binary).expect("the binary").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(fs::read(&binary).expect("the binary") == fs::read(BINARY).expect("the binary"));
    for tool in tools() {
        let target = fs::read_link(prefix.join("bin").join(&tool)).expect("a link");
        assert_eq!(target, Path::new("ubpf-tools"), "{tool}");
    }

    // Over an existing installation, links stay links.
    install(&folder.0.join("pages"), &root);
    assert_eq!(files(&root, &prefix), expected);
}

/// Runs `make install` with the prefix /opt/ubpf below `root`.
fn install(pages: &Path, root: &Path) {
    let output = Command::new("make")
        .args(["--no-print-directory", "-C", TOP, "install", "PREFIX=/opt/ubpf"])
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("BINARY={BINARY}"))
        .arg(format!("PAGES={}", pages.display()))
        // Those of a make that runs the tests.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .stdin(Stdio::null())
        .output()
        .expect("make runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn tools() -> Vec<String> {
    let output = Command::new(BINARY)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let tools: Vec<String> = String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(!tools.is_empty(), "--list prints no tool");
    tools
}

/// The files below `root`, relative to `prefix`, and with absolute paths outside of it.
fn files(root: &Path, prefix: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.symlink_metadata().expect("a file").is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(prefix).unwrap_or(&path);
                found.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// A new folder, removed on drop.
struct TempFolder(PathBuf);

impl TempFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ubpf-tools-install-{}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
