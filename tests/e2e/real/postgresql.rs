// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! PostgreSQL: the probes and functions of a server that forks a process for each connection, and those of its clients.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{calls, spec};
use crate::harness::{DEADLINE, Folder, Owned, Run, Tool, Way, run_to_end, skip, wait_until};

/// The server refuses to be root's, so it is nobody's.
const NOBODY: u32 = 65534;

/// A server of its own, which nothing but a socket in its folder leads to. It ends with this value.
struct Server {
    postmaster: Owned,
    programs: PathBuf,
    /// Removed after the server's end: fields are dropped in their order.
    folder: Folder,
}

impl Server {
    fn start(programs: PathBuf) -> Server {
        let folder = Folder::new();
        chown(&folder.path, Some(NOBODY), Some(NOBODY)).expect("to give it away");
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
        wait_until("the server", || {
            let ready = run_to_end(&mut server.client("pg_isready"));
            ready.status.success().then_some(())
        });
        server
    }

    /// A program that finds the server.
    fn client(&self, name: &str) -> Command {
        let mut command = as_nobody(&self.programs.join(name), &self.folder.path);
        command
            .env("PGHOST", &self.folder.path)
            .envs([("PGUSER", "nobody"), ("PGDATABASE", "postgres")]);
        command
    }

    /// A client that has these queries answered, each so many times, one after the other.
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

    /// Runs a tool while queries are answered.
    fn during(&self, tool: &str, way: Way, specs: &[&str], queries: &[(&str, usize)]) -> Run {
        let tool = Tool::start(tool, way, specs);
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
        // It breaks its connections off, and leaves no shared memory behind.
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

/// The folder of a server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.filter(|folder| folder.join("postgres").exists()).max()
}

/// One test, as each server takes seconds to start.
#[test]
fn queries_are_counted_in_server_and_client() {
    let Some(programs) = programs() else {
        return skip("there is no /usr/lib/postgresql/VERSION/bin/postgres");
    };
    let server = Server::start(programs);
    for way in [Way::Session, Way::Multi, Way::Single, Way::Plain] {
        way.run(|way| {
            probes_fire_once_a_query(&server, way);
            errors_leave_calls_unmatched(&server, way);
            clients_send_what_they_are_told(&server, way);
        });
    }
}

fn probes_fire_once_a_query(server: &Server, way: Way) {
    let probes = format!("usdt:{}:query__*", server.postgres().display());
    let queries = [("select 1", 503), ("select count(*) from pg_class", 13)];
    let run = server.during("funccount", way, &[&probes], &queries);
    let found = [
        "query__start",
        "query__done",
        "query__parse__start",
        "query__execute__done",
    ]
    .map(|name| calls(&run, &format!("postgresql:{name}")));
    assert_eq!(found, [516; 4], "{way:?}: {:?}", run.rows);
}

/// An error in a query jumps out of everything that is under way.
fn errors_leave_calls_unmatched(server: &Server, way: Way) {
    let run_portal = spec(&server.postgres(), "PortalRun");
    let queries = [
        ("select 1", 101),
        ("select 1 / count(*) from pg_class where false", 17),
        ("select 2", 211),
    ];
    let run = server.during("funclatency", way, &["-F", &run_portal], &queries);
    assert_eq!(calls(&run, "PortalRun"), 312, "{way:?}: {:?}", run.rows);
    assert_eq!(run.summary["unmatched"], 17, "{way:?}");
}

fn clients_send_what_they_are_told(server: &Server, way: Way) {
    // The first in version 14, the second since.
    let specs = ["libpq:PQexec", "libpq:PQsendQuery", "libpq:PQconnectdbParams"];
    let run = server.during("funccount", way, &specs, &[("select 1", 307)]);
    let queries = calls(&run, "PQexec") + calls(&run, "PQsendQuery");
    assert_eq!(
        (queries, calls(&run, "PQconnectdbParams")),
        (307, 1),
        "{way:?}: {:?}",
        run.rows
    );
}
