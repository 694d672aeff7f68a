// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

const WEB: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const DB: &str = "0123f6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0";

/// A made-up machine in a directory that is removed at the end.
struct MadeUpMachine(PathBuf);

impl MadeUpMachine {
    fn new(test: &str) -> MadeUpMachine {
        let root = std::env::temp_dir().join(format!("ubpf-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for directory in ["proc/self", "cgroup"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        MadeUpMachine(root)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds a process, and its cgroup v2 control group.
    fn process(&self, pid: u32, cgroup: &str) {
        self.file(
            &format!("proc/{pid}/cgroup"),
            &format!("3:memory:/elsewhere\n0::{cgroup}\n"),
        );
        fs::create_dir_all(self.cgroup(cgroup)).unwrap();
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        self.0.join("cgroup").join(path.trim_start_matches('/'))
    }

    fn runtimes(&self) -> ContainerRuntimes {
        ContainerRuntimes {
            proc: self.0.join("proc"),
            cgroup: Some(self.0.join("cgroup")),
            docker: self.0.join("docker"),
            podman: self.0.join("podman"),
            containerd: self.0.join("containerd"),
        }
    }

    fn find(&self, wanted: &str) -> Result<RunningContainer> {
        self.runtimes().find(wanted)
    }

    fn error(&self, wanted: &str) -> String {
        shown(&self.find(wanted).unwrap_err())
    }
}

impl Drop for MadeUpMachine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shown(error: &anyhow::Error) -> String {
    let failure = Failure::of(error);
    format!("{}\nhint: {}", failure.message, failure.hint.unwrap_or_default())
}

#[test]
fn container_id_of_each_runtime() {
    let id = |path: &str| container_id(&path.replace("ID", WEB)).map(|id| id.replace(WEB, "ID"));
    for path in [
        "/system.slice/docker-ID.scope",
        "/docker/ID",
        "/docker/ID/init.scope",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
        "/machine.slice/libpod-ID.scope",
        "/libpod_parent/libpod-ID",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1234.slice/cri-containerd-ID.scope",
        "/kubepods.slice/kubepods-pod1234.slice/crio-ID.scope",
        "/kubepods/burstable/pod0a1b-2c/ID",
        "/system.slice/containerd.service/kubepods-burstable-pod12.slice:cri-containerd:ID",
    ] {
        assert_eq!(id(path).as_deref(), Some("ID"), "{path}");
    }
    for path in [
        "/",
        "",
        "/user.slice/user-0.slice/session-1.scope",
        "/machine.slice/libpod-conmon-ID.scope",
        "/kubepods.slice/crio-conmon-ID.scope",
        "/machine.slice/machine-libpod_pod_ID.slice",
        "/lxc.monitor.web",
        "/lxc",
        "/docker/abc",
        "/x/machine-web.scope",
    ] {
        assert_eq!(id(path), None, "{path}");
    }
    assert_eq!(
        id("/machine.slice/systemd-nspawn@deb.service/payload").as_deref(),
        Some("deb")
    );
    assert_eq!(
        id("/machine.slice/machine-my\\x2ddeb.scope/init.scope").as_deref(),
        Some("my\\x2ddeb")
    );
    assert_eq!(
        id("/lxc.payload.web/system.slice/cron.service").as_deref(),
        Some("web")
    );
    assert_eq!(id("/lxc/web/init.scope").as_deref(), Some("web"));
}

#[test]
fn innermost_container_wins() {
    let path = format!("/docker/{WEB}/kubelet/kubepods/pod1/{DB}/x");
    assert_eq!(container_id(&path), Some(DB));
    let outer = format!("/docker/{WEB}");
    assert_eq!(containers_in(&path).next(), Some((WEB, outer.as_str())));
}

#[test]
fn systemd_escapes_are_decoded() {
    assert_eq!(unescape("my\\x2ddeb"), "my-deb");
    assert_eq!(unescape("a\\xzzb\\x2"), "a\\xzzb\\x2");
    assert_eq!(unescape("\\x\u{e9}\\x2d"), "\\x\u{e9}-");
}

#[test]
fn finds_by_id_and_by_name() {
    let machine = MadeUpMachine::new("by-name");
    let web = format!("/system.slice/docker-{WEB}.scope");
    machine.process(30, &web);
    machine.process(20, &format!("{web}/nested"));
    machine.process(40, "/system.slice/cron.service");
    machine.file(&format!("docker/{WEB}/config.v2.json"), "{\"Name\":\"/web\"}");
    let expected = RunningContainer {
        id: WEB.to_owned(),
        name: Some("web".to_owned()),
        cgroups: vec![machine.cgroup(&web)],
        pids: vec![20, 30],
    };
    for wanted in ["web", WEB, &WEB[..12], &WEB[..4]] {
        assert_eq!(machine.find(wanted).unwrap(), expected, "{wanted}");
    }
    assert!(
        machine
            .error(&WEB[..3])
            .starts_with("no running container \"012\"\nhint: running containers: web (0123456789ab)")
    );
}

#[test]
fn ambiguous_id_lists_candidates() {
    let machine = MadeUpMachine::new("ambiguous");
    machine.process(1, &format!("/docker/{WEB}"));
    machine.process(2, &format!("/machine.slice/libpod-{DB}.scope/container"));
    let file = format!("[{{\"id\":\"{DB}\",\"names\":[\"db\"]}},{{\"id\":3}}]");
    machine.file("podman/volatile-containers.json", &file);
    let error = machine.error("0123");
    assert!(
        error.starts_with("several containers match \"0123\"\nhint: "),
        "{error}"
    );
    assert!(error.ends_with("0123456789ab, db (0123f6789abc)"), "{error}");
    assert_eq!(machine.find("db").unwrap().id, DB);
}

#[test]
fn finds_kubernetes_nspawn_and_lxc_containers_by_name() {
    let machine = MadeUpMachine::new("names");
    machine.process(1, &format!("/kubepods.slice/cri-containerd-{WEB}.scope"));
    let annotations =
        "\"io.kubernetes.cri.container-name\":\"nginx\",\"io.kubernetes.cri.sandbox-name\":\"shop\"";
    let config = format!("{{\"annotations\":{{{annotations}}}}}");
    machine.file(&format!("containerd/k8s.io/{WEB}/config.json"), &config);
    machine.process(2, "/machine.slice/machine-my\\x2ddeb.scope");
    machine.process(3, "/lxc.payload.box/init.scope");
    for (wanted, pid) in [("nginx", 1), ("shop/nginx", 1), ("my-deb", 2), ("box", 3)] {
        assert_eq!(machine.find(wanted).unwrap().pids, [pid], "{wanted}");
    }
    let error = machine.error("none");
    assert!(
        error.ends_with("shop/nginx (0123456789ab), box, my-deb (my\\x2ddeb)"),
        "{error}"
    );
}

#[test]
fn cgroup_v1_container_is_rejected() {
    let machine = MadeUpMachine::new("v1");
    machine.file("proc/5/cgroup", &format!("4:memory:/docker/{WEB}\n0::/\n"));
    let error = machine.error(WEB);
    assert!(
        error.contains("needs cgroup v2") && error.ends_with("\nhint: select its processes with -p"),
        "{error}"
    );
}

#[test]
fn hint_if_nothing_runs_in_a_container() {
    let machine = MadeUpMachine::new("nothing");
    machine.process(1, "/init.scope");
    assert!(
        machine
            .error("web")
            .ends_with("no control group of a running process belongs to a container")
    );
}
