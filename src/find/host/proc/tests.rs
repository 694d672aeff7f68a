// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::find::elf::image::ElfImage;
use crate::find::host::loader::find_program;
use crate::find::host::object_file::FileId;

/// A directory that is removed at the end of the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> TestDir {
        let path = std::env::temp_dir().join(format!("find-target-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process whose loader has run and that waits. It is killed on drop.
struct WaitingProcess(Child);

impl WaitingProcess {
    /// The command must copy its input to its output. `None` if it exits instead.
    fn start(command: &mut Command) -> Option<WaitingProcess> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Writing fails if the command has exited; reading shows it.
        let _ = child.stdin.as_mut().unwrap().write_all(b"?");
        let answered = child.stdout.as_mut().unwrap().read_exact(&mut [0]).is_ok();
        let waiting = WaitingProcess(child);
        answered.then_some(waiting)
    }

    fn cat() -> WaitingProcess {
        WaitingProcess::start(&mut Command::new("cat")).unwrap()
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for WaitingProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mapping(line: &[u8]) -> ProcMapping {
    ProcMapping::parse(line).unwrap()
}

fn names(objects: &[ObjectFile]) -> Vec<String> {
    objects
        .iter()
        .map(|object| object.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn id_of(path: impl AsRef<Path>) -> FileId {
    FileId::of(&open_regular(path.as_ref()).unwrap()).unwrap()
}

#[test]
fn pids_threads_and_mappings() {
    let dir = TestDir::new("proc");
    dir.write(
        "20/maps",
        "1000-2000 r--p 0 8:1 5 /a\nnonsense\n2000-3000 r-xp 1000 8:1 5 /a",
    );
    dir.write("20/status", "Name:\tx\nTgid:\t19\nPid:\t20\n");
    dir.write("3/status", "Name:\tx\n");
    dir.write("self/maps", "");
    dir.write("version", "");
    let proc = Proc::at(&dir.0);
    assert_eq!(proc.pids().unwrap(), [3, 20]);
    assert_eq!(proc.tgid(20).unwrap(), 19);
    assert_eq!(proc.tgid(3).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(proc.tgid(4).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(proc.exists(3) && !proc.exists(4));
    let mappings = proc.mappings(20).unwrap();
    assert_eq!(
        mappings.iter().map(|m| (m.start, m.exec)).collect::<Vec<_>>(),
        [(0x1000, false), (0x2000, true)]
    );
    assert_eq!(proc.mappings(4).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(mapping_at(&mappings, 0x1fff).unwrap().start, 0x1000);
    assert_eq!(mapping_at(&mappings, 0x2000).unwrap().start, 0x2000);
    assert_eq!(
        (mapping_at(&mappings, 0xfff), mapping_at(&mappings, 0x3000)),
        (None, None)
    );
}

#[test]
fn mapped_inode_is_opened_rather_than_the_path() {
    let dir = TestDir::new("open");
    let mapped = dir.write("somewhere/mapped", "the mapped file");
    let other = dir.write("7/root/lib/f.so", "another file of that name");
    let inode = fs::metadata(&other).unwrap().ino();
    let proc = Proc::at(&dir.0);
    let mut line = mapping(format!("a000-b000 r-xp 0 0:0 {inode} /lib/f.so").as_bytes());

    assert_eq!(
        FileId::of(&proc.open(7, &line).unwrap()).unwrap(),
        id_of(&other),
        "by path, same inode"
    );
    line.inode += 1;
    assert_eq!(
        proc.open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound,
        "by path, another inode"
    );
    line.inode = inode;
    line.offset = 4096;
    assert_eq!(
        proc.open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound,
        "by path, too short"
    );

    fs::create_dir(dir.0.join("7/map_files")).unwrap();
    symlink(&mapped, dir.0.join("7/map_files/a000-b000")).unwrap();
    assert_eq!(FileId::of(&proc.open(7, &line).unwrap()).unwrap(), id_of(&mapped));
}

#[test]
fn symbolic_links_stay_inside_the_root_of_the_process() {
    let dir = TestDir::new("root");
    let outside = dir.write("outside/f.so", "a file of the machine");
    fs::create_dir_all(dir.0.join("7/root")).unwrap();
    symlink(dir.0.join("outside"), dir.0.join("7/root/lib")).unwrap();
    let inode = fs::metadata(&outside).unwrap().ino();
    let line = mapping(format!("a000-b000 r-xp 0 0:0 {inode} /lib/f.so").as_bytes());
    assert_eq!(
        Proc::at(&dir.0).open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn all_objects_has_each_inode_once() {
    let dir = TestDir::new("all");
    let a = dir.write("files/a", "a");
    let b = dir.write("files/b", "b");
    let own = |pid: u32, lines: &[(&str, u64, &str, &PathBuf)]| {
        let mut maps = String::new();
        fs::create_dir_all(dir.0.join(format!("{pid}/map_files"))).unwrap();
        for (index, (permissions, inode, name, file)) in lines.iter().enumerate() {
            let range = format!("{:x}-{:x}", index * 4096 + 4096, index * 4096 + 8192);
            maps += &format!("{range} {permissions} 0 8:1 {inode} {name}\n");
            let _ = symlink(file, dir.0.join(format!("{pid}/map_files/{range}")));
        }
        dir.write(&format!("{pid}/maps"), maps);
    };
    let missing = dir.0.join("files/missing");
    own(
        1,
        &[
            ("r--p", 5, "/a", &a),
            ("r-xp", 5, "/a", &a),
            ("r-xp", 5, "/a", &a),
            ("r-xp", 6, "/b", &b),
        ],
    );
    own(
        2,
        &[
            ("r-xp", 9, "/other-name-of-a", &a),
            ("r-xp", 10, "/gone", &missing),
        ],
    );
    own(3, &[("r-xp", 10, "/gone", &missing)]);
    fs::create_dir(dir.0.join("4")).unwrap();
    let proc = Proc::at(&dir.0);
    assert_eq!(names(&proc.objects(1).unwrap()), ["a", "b"]);
    assert_eq!(names(&proc.objects(2).unwrap()), ["other-name-of-a"]);
    assert!(proc.objects(3).is_err());
    let all = proc.all_objects(|_| true);
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(
        names(&proc.all_objects(|mapping| mapping.path == Path::new("/other-name-of-a"))),
        ["other-name-of-a"]
    );
    assert_eq!(names(&proc.all_objects(|_| false)), [""; 0]);
}

#[test]
fn objects_of_the_own_process() {
    let proc = Proc::host();
    let own = std::process::id();
    assert!(proc.exists(own) && proc.pids().unwrap().contains(&own));
    let executable = proc.executable(own).unwrap();
    assert_eq!(executable.path, std::env::current_exe().unwrap());
    assert_eq!(executable.id, id_of("/proc/self/exe"));
    let order = proc.link_order(own).unwrap();
    assert_eq!(order[0].id, executable.id);
    let all = proc.all_objects(|_| true);
    for object in proc.objects(own).unwrap() {
        assert_eq!(
            all.iter().filter(|other| other.id == object.id).count(),
            1,
            "{}",
            object.path.display()
        );
    }
}

#[test]
fn tgid_of_a_thread() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (stay, leave) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        sender.send(nix::unistd::gettid().as_raw() as u32).unwrap();
        let _ = leave.recv();
    });
    let tid = receiver.recv().unwrap();
    assert_ne!(tid, std::process::id());
    assert_eq!(Proc::host().tgid(tid).unwrap(), std::process::id());
    assert!(Proc::host().exists(tid));
    drop(stay);
    thread.join().unwrap();
}

#[test]
fn link_order_of_a_dynamic_program() {
    let cat = WaitingProcess::cat();
    let proc = Proc::host();
    let order = proc.link_order(cat.pid()).unwrap();
    assert_eq!(order[0].id, proc.executable(cat.pid()).unwrap().id);
    let mapped = proc.objects(cat.pid()).unwrap();
    let ids = |objects: &[ObjectFile]| objects.iter().map(|object| object.id).collect::<HashSet<_>>();
    assert_eq!(
        ids(&order),
        ids(&mapped),
        "{:?} {:?}",
        names(&order),
        names(&mapped)
    );
    // The C library comes before the loader, which was mapped first.
    let loader = order[0].elf().unwrap().interpreter();
    if let Some(loader) = loader {
        assert_eq!(order.last().unwrap().id, id_of(loader));
    }
}

#[test]
fn link_order_of_a_program_started_by_the_loader() {
    let path = find_program("cat").unwrap();
    let elf = ObjectFile::at(&path).unwrap().elf().unwrap();
    let Some(loader) = elf.interpreter() else {
        eprintln!("skipped: {} is static", path.display());
        return;
    };
    let cat = WaitingProcess::start(Command::new(&loader).arg(&path)).unwrap();
    let order = Proc::host().link_order(cat.pid()).unwrap();
    assert_eq!(Proc::host().executable(cat.pid()).unwrap().id, id_of(&loader));
    assert_eq!(order[0].id, id_of(&path), "{:?}", names(&order));
    assert_eq!(order.last().unwrap().id, id_of(&loader));
}

#[test]
fn replaced_executable_is_still_found() {
    let dir = TestDir::new("removed");
    let path = dir.0.join("cat");
    fs::copy(find_program("cat").unwrap(), &path).unwrap();
    let id = id_of(&path);
    let cat = WaitingProcess::start(&mut Command::new(&path)).unwrap();
    fs::rename(dir.write("new", "another file"), &path).unwrap();
    let proc = Proc::host();
    let executable = proc.executable(cat.pid()).unwrap();
    assert_eq!((executable.id, &executable.path), (id, &path));
    assert_eq!(proc.link_order(cat.pid()).unwrap()[0].id, id);
    if nix::unistd::geteuid().is_root() {
        let objects = proc.objects(cat.pid()).unwrap();
        assert!(
            objects
                .iter()
                .any(|object| object.id == id && object.path == path)
        );
    } else {
        eprintln!("skipped: only root may open a removed file through map_files");
    }
}

#[test]
fn missing_process_is_not_found() {
    let cat = WaitingProcess::cat();
    let pid = cat.pid();
    drop(cat);
    let proc = Proc::host();
    assert!(!proc.exists(pid));
    assert_eq!(proc.link_order(pid).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(proc.objects(pid).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn link_order_follows_the_list_in_memory() {
    let dir = TestDir::new("linked");
    let program = ElfImage {
        interpreter: "/ld.so".into(),
        needed: vec!["x".into()],
        ..ElfImage::default()
    }
    .bytes();
    let program = dir.write("files/program", program);
    let library = dir.write("files/library", ElfImage::default().bytes());
    let elf = ObjectFile::at(&program).unwrap().elf().unwrap();
    let moved = 0x10_0000;
    let dynamic = elf.dynamic_address().unwrap() + moved;
    fs::create_dir_all(dir.0.join("5/map_files")).unwrap();
    symlink(&program, dir.0.join("5/exe")).unwrap();
    symlink(&library, dir.0.join("5/map_files/1000-2000")).unwrap();
    symlink(&program, dir.0.join("5/map_files/500000-600000")).unwrap();
    dir.write(
        "5/maps",
        "1000-2000 r-xp 0 8:1 2 /library\n500000-600000 r-xp 0 8:1 1 /program\n",
    );
    let auxv = [3, 64, libc::AT_ENTRY, elf.entry() + moved, 0, 0]
        .map(u64::to_ne_bytes)
        .concat();
    dir.write("5/auxv", auxv);
    let proc = Proc::at(&dir.0);
    assert_eq!(
        names(&proc.link_order(5).unwrap()),
        ["program", "library"],
        "no memory: by address"
    );

    let debug = [u64::from(object::elf::DT_DEBUG), 0x8000, 0, 0]
        .map(u64::to_ne_bytes)
        .concat();
    let list = [1, 0x8010, 0, 0, dynamic, 0x8030, 0, 0, 0x1800, 0, 0]
        .map(u64::to_ne_bytes)
        .concat();
    let memory = File::create(dir.0.join("5/mem")).unwrap();
    memory.write_all_at(&debug, dynamic).unwrap();
    assert_eq!(
        names(&proc.link_order(5).unwrap()),
        ["program", "library"],
        "no list: by address"
    );
    memory.write_all_at(&list, 0x8000).unwrap();
    assert_eq!(names(&proc.link_order(5).unwrap()), ["program", "library"]);
    let reversed = [1, 0x8010, 0, 0, 0x1800, 0x8030, 0, 0, dynamic, 0, 0]
        .map(u64::to_ne_bytes)
        .concat();
    memory.write_all_at(&reversed, 0x8000).unwrap();
    assert_eq!(names(&proc.link_order(5).unwrap()), ["library", "program"]);
}

/// As in a FUSE file system of another user, in which not even root may read.
#[test]
fn libraries_of_an_unreadable_program_are_found() {
    let dir = TestDir::new("unreadable");
    let [program, library] =
        ["program", "library"].map(|name| dir.write(&format!("files/{name}"), ElfImage::default().bytes()));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o0)).unwrap();
    fs::create_dir_all(dir.0.join("5/map_files")).unwrap();
    symlink(&program, dir.0.join("5/exe")).unwrap();
    symlink(dir.0.join("files"), dir.0.join("5/root")).unwrap();
    symlink(&library, dir.0.join("5/map_files/1000-2000")).unwrap();
    symlink(&program, dir.0.join("5/map_files/500000-600000")).unwrap();
    dir.write(
        "5/maps",
        "1000-2000 r-xp 0 8:1 2 /library\n500000-600000 r-xp 0 8:1 1 /program\n",
    );
    for open in ["", "files", "files/library", "5", "5/map_files", "5/maps"] {
        fs::set_permissions(dir.0.join(open), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let proc = Proc::at(&dir.0);
    let search = move || {
        if nix::unistd::geteuid().is_root() {
            // For this thread only.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        }
        (names(&proc.link_order(5).unwrap()), proc.unreadable_files(5))
    };
    let found = std::thread::spawn(search).join().unwrap();
    assert_eq!(
        found,
        (vec!["library".to_owned()], vec![PathBuf::from("/program")])
    );
}

/// Like two containers of one image: two overlays over one directory, each with a process.
#[test]
fn overlays_of_one_image_share_inodes() {
    let dir = TestDir::new("overlay");
    fs::create_dir_all(dir.0.join("image")).unwrap();
    for name in ["image/cat", "image/copy"] {
        fs::copy(find_program("cat").unwrap(), dir.0.join(name)).unwrap();
    }
    let container = |name: &str| {
        let script = "mkdir -p $1/upper $1/work $1/root &&
            mount -t overlay overlay -o lowerdir=image,upperdir=$1/upper,workdir=$1/work $1/root &&
            exec $1/root/cat";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh", name])
            .current_dir(&dir.0)
            .stderr(Stdio::null());
        WaitingProcess::start(&mut command)
    };
    let (Some(one), Some(two)) = (container("one"), container("two")) else {
        eprintln!("skipped: no permission to mount an overlay, or the kernel has none");
        return;
    };
    let proc = Proc::host();
    let [first, second] = [&one, &two].map(|process| proc.executable(process.pid()).unwrap());
    let device = |object: &ObjectFile| object.file.metadata().unwrap().dev();
    assert_ne!(device(&first), device(&second));
    assert_eq!(first.id, second.id);
    assert_eq!(
        proc.all_objects(|mapping| mapping.path.ends_with("root/cat"))
            .len(),
        1
    );
    let mount = dir.0.strip_prefix("/").unwrap().join("one/root");
    let inside = proc.path(one.pid(), "root").join(mount);
    assert_eq!(id_of(inside.join("cat")), first.id);
    assert_ne!(
        id_of(inside.join("copy")),
        first.id,
        "the same content, but another file"
    );
}
