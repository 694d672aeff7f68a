// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The programs, a line for each.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::targets::program_if_built;
use crate::traced::ToolRun;

/// A folder for files of the scripts, which every user can read: some servers give up root.
static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = env::temp_dir().join(format!("harm-{}", std::process::id()));
    fs::create_dir(&folder).expect("a new folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a public folder");
    folder
});

/// Removes what the scripts left.
pub fn remove_scratch() {
    let _ = fs::remove_dir_all(&*SCRATCH);
}

/// What is traced, and where.
pub struct Program {
    /// The first word is the name of a program of tests/targets.
    pub name: &'static str,
    work: Work,
    /// Its file and libraries, of which all functions are traced, or a few; `{}` is its folder.
    targets: &'static [&'static str],
    /// Part of the short form.
    pub short: bool,
    /// Return probes hurt it, as documented.
    only_instructions: bool,
    /// The file with the functions that mallocsnoop traces, if it is not the C library of this machine.
    allocator: Option<&'static str>,
}

enum Work {
    /// Modes of a program of tests/targets, and how often they do their work: under most tools, and under those that
    /// cost little.
    Modes(&'static [(&'static str, u32, u32)]),
    /// A script in tests/harm/programs with the name of the program, the commands that it needs, and how many
    /// rounds it makes under tools that cost little; otherwise one.
    Script(&'static [&'static str], u32),
}

use Work::{Modes, Script};

const SIGNALS: Work = Modes(&[
    ("jump", 29, 5003),
    ("fault", 29, 5003),
    ("below", 29, 5003),
    ("nested", 29, 5003),
    ("timer", 499, 4999),
    ("recursion", 7, 2003),
    ("backtrace", 29, 997),
    ("caller", 29, 100_003),
]);

/// What `--returns safe` does not cover, see docs/overhead.md.
const ABOVE: Work = Modes(&[("above", 29, 5003), ("handler", 29, 997)]);

const PROCESSES: Work = Modes(&[
    ("fork", 11, 101),
    ("vfork", 11, 101),
    ("clone", 11, 101),
    ("spawn", 5, 53),
    ("system", 5, 53),
    ("popen", 5, 53),
    ("strict", 11, 101),
    ("filter", 11, 101),
    ("load", 17, 503),
    ("threads", 11, 101),
    ("context", 29, 5003),
    ("cleanup", 11, 101),
    ("generated", 29, 5003),
]);

/// Without those that need other headers or dlopen.
const PROCESSES_MUSL: Work = Modes(&[
    ("fork", 11, 101),
    ("vfork", 11, 101),
    ("clone", 11, 101),
    ("spawn", 5, 53),
    ("system", 5, 53),
    ("popen", 5, 53),
    ("threads", 11, 101),
    ("cleanup", 11, 101),
    ("generated", 29, 5003),
]);

const HAZARDS: Work = Modes(&[
    ("throw", 13, 503),
    ("callback", 13, 503),
    ("once", 13, 503),
    ("rethrow", 7, 251),
    ("cancel", 11, 101),
    ("exit", 11, 101),
    ("async", 11, 101),
    ("serve", 53, 5003),
    ("next", 1, 1),
    ("cycle", 29, 5003),
    ("switch", 11, 101),
]);

/// Each process that throws first sorts the unwind tables of the whole program: 150,000 hits.
const HAZARDS_STATIC: Work = Modes(&[
    ("throw", 13, 503),
    ("cancel", 11, 101),
    ("async", 11, 101),
    ("next", 1, 1),
    ("cycle", 29, 5003),
    ("switch", 11, 101),
]);

const LIBC: &str = "libc";
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";
#[cfg(target_arch = "x86_64")]
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";
#[cfg(target_arch = "aarch64")]
const MUSL: &str = "/lib/ld-musl-aarch64.so.1";
const CALLBACK: &str = "{}/libcallback.so";

#[rustfmt::skip]
pub const PROGRAMS: &[Program] = &[
    program("hazards", HAZARDS, &["{}/hazards", CALLBACK, "libstdc++", "libgcc_s", LIBC]).short(),
    program("signals", SIGNALS, &["{}/signals", LIBC]).short(),
    program("signals above", ABOVE, &["{}/signals", LIBC]).short().only_instructions(),
    program("processes", PROCESSES, &["{}/processes", CALLBACK, LIBC, LOADER]).short(),
    program("hazards-static", HAZARDS_STATIC, &["{}/hazards-static"]).own_allocator(),
    program("signals-static", SIGNALS, &["{}/signals-static"]).own_allocator(),
    program("signals-static-pie", SIGNALS, &["{}/signals-static-pie"]).own_allocator(),
    program("signals-musl", SIGNALS, &["{}/signals-musl", MUSL]).allocator(MUSL),
    program("signals-musl-static", SIGNALS, &["{}/signals-musl-static"]).own_allocator(),
    program("processes-static", PROCESSES, &["{}/processes-static"]).own_allocator(),
    program("processes-static-pie", PROCESSES, &["{}/processes-static-pie"]).own_allocator(),
    program("processes-musl", PROCESSES_MUSL, &["{}/processes-musl", MUSL]).allocator(MUSL),
    program("processes-musl-static", PROCESSES_MUSL, &["{}/processes-musl-static"]).own_allocator(),
    program("postgresql", Script(&["pgbench", "postgres"], 1), &["postgres", LIBC]),
    program("nginx", Script(&["nginx", "ab"], 3), &["nginx", "libpcre2-8", LIBC]),
    program("redis", Script(&["redis-benchmark", "/usr/bin/redis-check-rdb"], 3), &["/usr/bin/redis-check-rdb", LIBC])
        .allocator("libjemalloc"),
    program("python", Script(&["/usr/lib/python3/dist-packages/gevent"], 1), &["/usr/bin/python3", "libffi"]),
    program("ruby", Script(&["ruby"], 2), &["{}/libruby.so", LIBC]),
    program("php", Script(&["php"], 5), &["php", LIBC]),
    program("ocaml", Script(&["ocamlopt"], 2), &["{}/ocaml", LIBC]),
    program("node", Script(&["node"], 1), &["node:/^_ZN4node/", "libstdc++"]),
    program("java", Script(&["java"], 1), &["{}/libjvm.so", "libz", LIBC]),
    program("go", Script(&["go"], 3), &["{}/go"]),
];

const fn program(name: &'static str, work: Work, targets: &'static [&'static str]) -> Program {
    Program {
        name,
        work,
        targets,
        short: false,
        only_instructions: false,
        allocator: None,
    }
}

impl Program {
    const fn short(mut self) -> Program {
        self.short = true;
        self
    }

    const fn only_instructions(mut self) -> Program {
        self.only_instructions = true;
        self
    }

    const fn own_allocator(mut self) -> Program {
        self.allocator = Some(self.targets[0]);
        self
    }

    const fn allocator(mut self, file: &'static str) -> Program {
        self.allocator = Some(file);
        self
    }

    /// True if the tool may trace it.
    pub fn can_be_traced_by(&self, tool: &ToolRun) -> bool {
        if in_guest() && (tool.harmful || tool.tool() != "functrace") {
            // They are slow, and trace the program alone. This one throws itself, so it gets no return probes.
            false
        } else if tool.harmful {
            self.name == "hazards"
        } else if matches!(self.work, Script(..)) && !tool.short {
            // Once under each tool: they run for long.
            false
        } else {
            !self.only_instructions || !tool.has_return_probes()
        }
    }

    /// What it needs and this machine does not have.
    pub fn missing(&self) -> Option<&'static str> {
        match self.work {
            Modes(_) => program_if_built(self.file()).is_none().then(|| self.file()),
            Script(commands, _) => commands.iter().copied().find(|command| !is_installed(command)),
        }
    }

    fn file(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }

    /// Makes the files that its script needs.
    pub fn prepare(&self) {
        if let Script(..) = self.work {
            let made = Command::new("/bin/sh")
                .args(["-c", &self.script_command("prepare", 0)])
                .output();
            let made = made.expect("failed to run sh");
            assert!(made.status.success(), "{}: {made:?}", self.name);
        }
    }

    fn script_command(&self, action: &str, rounds: u32) -> String {
        let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harm/programs");
        let folder = SCRATCH.display();
        format!(
            "cd {programs} && exec sh ./{}.sh {action} {folder} {rounds}",
            self.name
        )
    }

    fn folder(&self) -> PathBuf {
        match self.work {
            Modes(_) => program_if_built(".").unwrap_or_default(),
            Script(..) => SCRATCH.clone(),
        }
    }

    /// Replaces `{}`, in a specification, by the folder of the program.
    fn in_folder(&self, text: &str) -> String {
        text.replace("{}", &self.folder().display().to_string())
    }

    /// The commands that run it.
    pub fn script(&self, bulk: bool) -> String {
        match self.work {
            Modes(modes) => {
                let file = self.folder().join(self.file()).display().to_string();
                let lines = modes.iter().map(|(mode, few, many)| {
                    let times = if bulk { many } else { few };
                    format!("{file} {mode} {times} || {{ echo {mode}: $?; status=1; }}\n")
                });
                format!("status=0\n{}exit $status\n", lines.collect::<String>())
            }
            Script(_, rounds) => self.script_command("run", if bulk { rounds } else { 1 }),
        }
    }

    /// What functrace and its like trace. In a guest, which is slow, only the program itself.
    pub fn specs(&self) -> Vec<String> {
        let count = if in_guest() { 1 } else { self.targets.len() };
        let targets = self
            .targets
            .iter()
            .take(count)
            .map(|target| self.in_folder(target));
        targets
            .map(|target| {
                if target.contains(':') {
                    target
                } else {
                    target + ":*"
                }
            })
            .collect()
    }

    pub fn allocator_file(&self) -> Option<String> {
        self.allocator.map(|file| self.in_folder(file))
    }
}

/// True in a guest of `make vmtest`, which has no compilers and may be emulated.
pub fn in_guest() -> bool {
    env::var_os("UBPF_TOOLS_TARGETS").is_some()
}

fn is_installed(command: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    command.starts_with('/') && Path::new(command).exists()
        || env::split_paths(&path).any(|folder| folder.join(command).exists())
}
