// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! PostgreSQL: USDT probes and functions of a server that forks for each connection, and functions of its clients.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{calls, spec};
use crate::harness::{AttachMode, DEADLINE, Folder, Owned, Run, Tool, run_to_end, skip, wait_until};

/// The server refuses to run as root, so it runs as user nobody.
const NOBODY: u32 = 65534;

/// A private server, reachable only through a socket in its directory. Shut down when dropped.
struct Server {
    postmaster: Owned,
    programs: PathBuf,
    /// Removed after the server has exited: fields are dropped in declaration order.
    folder: Folder,
}

impl Server {
    fn start(programs: PathBuf) -> Server {
        let folder = Folder::new();
        chown(&folder.path, Some(NOBODY), Some(NOBODY)).expect("failed to change the owner");
        let as_nobody = |name: &str, options: &[&str]| {
            let mut command = as_nobody(&programs.join(name), &folder.path);
            command.args(options).arg("-D").arg(folder.path.join("data"));
            command
        };
        let options = ["--auth=trust", "--username=nobody", "--no-sync", "--no-locale"];
        let made = run_to_end(&mut as_nobody("initdb", &options));
        assert!(made.status.success(), "{made:?}");
        let options = ["listen_addresses=", "fsync=off", "autovacuum=off"].map(|option| ["-c", option]);
        let postmaster = as_nobody("postgres", options.as_flattened())
            .arg("-k")
            .arg(&folder.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path.join("log")).expect("a log"))
            .spawn()
            .expect("the server");
        let server = Server {
            postmaster: Owned(postmaster),
            programs,
            folder,
        };
        wait_until("the server to accept connections", || {
            let ready = run_to_end(&mut server.client("pg_isready"));
            ready.status.success().then_some(())
        });
        server
    }

    /// A client program with the environment to find the server.
    fn client(&self, name: &str) -> Command {
        let mut command = as_nobody(&self.programs.join(name), &self.folder.path);
        command
            .env("PGHOST", &self.folder.path)
            .envs([("PGUSER", "nobody"), ("PGDATABASE", "postgres")]);
        command
    }

    /// A client that runs each query the given number of times, in order.
    fn queries(&self, queries: &[(&str, usize)]) -> Command {
        let script: String = queries
            .iter()
            .map(|(query, times)| format!("{query};\n").repeat(*times))
            .collect();
        let path = self.folder.path.join("script");
        fs::write(&path, script).expect("a script");
        let mut client = self.client("psql");
        client
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "-f"])
            .arg(path);
        client
    }

    /// Runs a tool while a client runs queries.
    fn during(&self, tool: &str, mode: AttachMode, specs: &[&str], queries: &[(&str, usize)]) -> Run {
        let tool = Tool::start(tool, mode, specs);
        let ended = run_to_end(&mut self.queries(queries));
        assert!(ended.status.success(), "{ended:?}");
        let run = tool.stop();
        run.assert_clean();
        run
    }

    fn postgres(&self) -> PathBuf {
        self.programs.join("postgres")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fast shutdown: disconnects clients and removes its shared memory.
        self.postmaster.signal(Signal::SIGINT);
        let start = Instant::now();
        while matches!(self.postmaster.0.try_wait(), Ok(None)) && start.elapsed() < DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn as_nobody(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).current_dir(folder);
    command
}

/// The directory of the newest installed server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.filter(|folder| folder.join("postgres").exists()).max()
}

/// One test for all modes, because each server takes seconds to start.
#[test]
fn queries_are_counted_in_server_and_client() {
    let Some(programs) = programs() else {
        return skip("/usr/lib/postgresql/VERSION/bin/postgres is not installed");
    };
    let server = Server::start(programs);
    for mode in [
        AttachMode::Session,
        AttachMode::Multi,
        AttachMode::Single,
        AttachMode::Plain,
    ] {
        mode.run(|mode| {
            probes_fire_once_per_query(&server, mode);
            errors_leave_calls_unmatched(&server, mode);
            client_library_calls_match_queries(&server, mode);
        });
    }
}

fn probes_fire_once_per_query(server: &Server, mode: AttachMode) {
    let probes = format!("usdt:{}:query__*", server.postgres().display());
    let queries = [("select 1", 503), ("select count(*) from pg_class", 13)];
    let run = server.during("funccount", mode, &[&probes], &queries);
    let found = [
        "query__start",
        "query__done",
        "query__parse__start",
        "query__execute__done",
    ]
    .map(|name| calls(&run, &format!("postgresql:{name}")));
    assert_eq!(found, [516; 4], "{mode:?}: {:?}", run.rows);
}

/// An error in a query leaves all functions in progress with siglongjmp.
fn errors_leave_calls_unmatched(server: &Server, mode: AttachMode) {
    let run_portal = spec(&server.postgres(), "PortalRun");
    let queries = [
        ("select 1", 101),
        ("select 1 / count(*) from pg_class where false", 17),
        ("select 2", 211),
    ];
    let run = server.during("funclatency", mode, &["-F", &run_portal], &queries);
    assert_eq!(calls(&run, "PortalRun"), 312, "{mode:?}: {:?}", run.rows);
    assert_eq!(run.summary["unmatched"], 17, "{mode:?}");
}

fn client_library_calls_match_queries(server: &Server, mode: AttachMode) {
    // psql calls PQexec up to version 14, and PQsendQuery since.
    let specs = ["libpq:PQexec", "libpq:PQsendQuery", "libpq:PQconnectdbParams"];
    let run = server.during("funccount", mode, &specs, &[("select 1", 307)]);
    let queries = calls(&run, "PQexec") + calls(&run, "PQsendQuery");
    assert_eq!(
        (queries, calls(&run, "PQconnectdbParams")),
        (307, 1),
        "{mode:?}: {:?}",
        run.rows
    );
}
