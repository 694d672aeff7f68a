use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::find::elf::image::Image;
use crate::find::host::loader::find_program;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("find-target-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is past its loader and waits; it ends with the value.
struct Waiting(Child);

impl Waiting {
    /// The command must copy its input to its output. `None` if it ended instead.
    fn start(command: &mut Command) -> Option<Waiting> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Writing fails if the command ended already; reading tells.
        let _ = child.stdin.as_mut().unwrap().write_all(b"?");
        let answered = child.stdout.as_mut().unwrap().read_exact(&mut [0]).is_ok();
        let waiting = Waiting(child);
        answered.then_some(waiting)
    }

    fn cat() -> Waiting {
        Waiting::start(&mut Command::new("cat")).unwrap()
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mapping(line: &[u8]) -> ProcMapping {
    parse_mapping(line).unwrap()
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
fn a_line_of_maps() {
    let line = b"7f01-7f02f000 r-xp 0001f000 fd:1a 1234567                    /usr/lib/libc.so.6";
    let expected = ProcMapping {
        start: 0x7f01,
        end: 0x7f02f000,
        offset: 0x1f000,
        exec: true,
        dev: (0xfd, 0x1a),
        inode: 1234567,
        path: "/usr/lib/libc.so.6".into(),
        deleted: false,
    };
    assert_eq!(mapping(line), expected);
}

#[test]
fn odd_paths_in_maps() {
    let path = |text: &[u8]| mapping(&[b"1-2 rw-p 0 0:0 7 ", text].concat());
    assert_eq!(path(b"  /a b").path, Path::new("/a b"));
    assert_eq!(path(b"/a  b ").path, Path::new("/a  b "));
    assert_eq!(path(b"/a\\012b").path, Path::new("/a\nb"));
    assert_eq!(path(b"/a\\134b").path, Path::new("/a\\134b"));
    assert_eq!(path(b"/\xff\xfe").path.as_os_str().as_bytes(), b"/\xff\xfe");
    let long = [b"/".as_slice(), &[b'x'; 5000]].concat();
    assert_eq!(path(&long).path.as_os_str().len(), 5001);
    let gone = path(b"/lib/x.so (deleted)");
    assert_eq!(
        (gone.path.as_path(), gone.deleted),
        (Path::new("/lib/x.so"), true)
    );
}

#[test]
fn what_is_a_file() {
    let heap = mapping(b"1-2 rw-p 00000000 00:00 0                [heap]");
    let nothing = mapping(b"1-2 rw-p 00000000 00:00 0 ");
    let event = mapping(b"1-2 rw-p 00000000 00:0e 33 anon_inode:[perf_event]");
    let file = mapping(b"1-2 rw-p 00000000 08:01 33 /f");
    assert_eq!(nothing.path, Path::new(""));
    assert_eq!(
        files(&[heap, nothing, event, file.clone()]).collect::<Vec<_>>(),
        [&file]
    );
}

#[test]
fn broken_lines_of_maps_are_left_out() {
    let broken: [&[u8]; 9] = [
        b"",
        b" ",
        b"1-2",
        b"1-2 r-xp",
        b"1-2 r-xp 0 00:00",
        b"1-2 r- 0 00:00 0 /x",
        b"12 r-xp 0 00:00 0 /x",
        b"1-2 r-xp 0 00:00 zero /x",
        b"11112222333344445-2 r-xp 0 00:00 0 /x",
    ];
    for line in broken {
        assert_eq!(parse_mapping(line), None, "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn a_made_up_proc() {
    let folder = Folder::new("proc");
    folder.write(
        "20/maps",
        "1000-2000 r--p 0 8:1 5 /a\nnonsense\n2000-3000 r-xp 1000 8:1 5 /a",
    );
    folder.write("20/status", "Name:\tx\nTgid:\t19\nPid:\t20\n");
    folder.write("3/status", "Name:\tx\n");
    folder.write("self/maps", "");
    folder.write("version", "");
    let proc = Proc::at(&folder.0);
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
fn the_mapped_inode_is_opened_not_the_name() {
    let folder = Folder::new("open");
    let mapped = folder.write("somewhere/mapped", "the mapped file");
    let other = folder.write("7/root/lib/f.so", "another file of that name");
    let inode = fs::metadata(&other).unwrap().ino();
    let proc = Proc::at(&folder.0);
    let mut line = mapping(format!("a000-b000 r-xp 0 0:0 {inode} /lib/f.so").as_bytes());

    assert_eq!(
        FileId::of(&proc.open(7, &line).unwrap()).unwrap(),
        id_of(&other),
        "by name, inode agrees"
    );
    line.inode += 1;
    assert_eq!(
        proc.open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound,
        "by name, another inode"
    );
    line.inode = inode;
    line.offset = 4096;
    assert_eq!(
        proc.open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound,
        "by name, too short"
    );

    fs::create_dir(folder.0.join("7/map_files")).unwrap();
    symlink(&mapped, folder.0.join("7/map_files/a000-b000")).unwrap();
    assert_eq!(FileId::of(&proc.open(7, &line).unwrap()).unwrap(), id_of(&mapped));
}

#[test]
fn links_do_not_lead_out_of_the_root_of_the_process() {
    let folder = Folder::new("root");
    let outside = folder.write("outside/f.so", "a file of the machine");
    fs::create_dir_all(folder.0.join("7/root")).unwrap();
    symlink(folder.0.join("outside"), folder.0.join("7/root/lib")).unwrap();
    let inode = fs::metadata(&outside).unwrap().ino();
    let line = mapping(format!("a000-b000 r-xp 0 0:0 {inode} /lib/f.so").as_bytes());
    assert_eq!(
        Proc::at(&folder.0).open(7, &line).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn pipes_and_devices_are_refused_at_once() {
    let folder = Folder::new("pipe");
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [&pipe, Path::new("/dev/zero"), &folder.0] {
        assert_eq!(open_regular(path).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(
        open_regular(&folder.0.join("absent")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn identity() {
    let folder = Folder::new("identity");
    let one = folder.write("one", "text");
    let copy = folder.write("copy", "text");
    let link = folder.0.join("link");
    fs::hard_link(&one, &link).unwrap();
    assert_eq!(id_of(&one), id_of(&link));
    let object = ObjectFile::at(&one).unwrap();
    assert_eq!((object.id, object.path), (id_of(&link), one.clone()));
    assert_ne!(id_of(&one), id_of(&copy));
}

#[test]
fn each_file_of_each_process_once() {
    let folder = Folder::new("all");
    let a = folder.write("files/a", "a");
    let b = folder.write("files/b", "b");
    let own = |pid: u32, lines: &[(&str, u64, &str, &PathBuf)]| {
        let mut maps = String::new();
        fs::create_dir_all(folder.0.join(format!("{pid}/map_files"))).unwrap();
        for (index, (permissions, inode, name, file)) in lines.iter().enumerate() {
            let range = format!("{:x}-{:x}", index * 4096 + 4096, index * 4096 + 8192);
            maps += &format!("{range} {permissions} 0 8:1 {inode} {name}\n");
            let _ = symlink(file, folder.0.join(format!("{pid}/map_files/{range}")));
        }
        folder.write(&format!("{pid}/maps"), maps);
    };
    let missing = folder.0.join("files/missing");
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
    fs::create_dir(folder.0.join("4")).unwrap();
    let proc = Proc::at(&folder.0);
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
fn own_process() {
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
fn a_thread_belongs_to_its_process() {
    let (tell, told) = std::sync::mpsc::channel();
    let (stay, leave) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid().as_raw() as u32).unwrap();
        let _ = leave.recv();
    });
    let tid = told.recv().unwrap();
    assert_ne!(tid, std::process::id());
    assert_eq!(Proc::host().tgid(tid).unwrap(), std::process::id());
    assert!(Proc::host().exists(tid));
    drop(stay);
    thread.join().unwrap();
}

#[test]
fn link_order_of_a_dynamic_program() {
    let cat = Waiting::cat();
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
    // The C library of this program, whichever it is, comes before the loader, which was mapped first.
    let loader = ElfFile::open(order[0].file.try_clone().unwrap(), Path::new("cat"))
        .unwrap()
        .interpreter();
    if let Some(loader) = loader {
        assert_eq!(order.last().unwrap().id, id_of(loader));
    }
}

#[test]
fn link_order_of_a_program_started_by_the_loader() {
    let path = find_program("cat").unwrap();
    let elf = ElfFile::open(open_regular(&path).unwrap(), &path).unwrap();
    let Some(loader) = elf.interpreter() else {
        eprintln!("skipped: {} is static", path.display());
        return;
    };
    let cat = Waiting::start(Command::new(&loader).arg(&path)).unwrap();
    let order = Proc::host().link_order(cat.pid()).unwrap();
    assert_eq!(Proc::host().executable(cat.pid()).unwrap().id, id_of(&loader));
    assert_eq!(order[0].id, id_of(&path), "{:?}", names(&order));
    assert_eq!(order.last().unwrap().id, id_of(&loader));
}

#[test]
fn a_program_that_was_removed_or_replaced() {
    let folder = Folder::new("removed");
    let path = folder.0.join("cat");
    fs::copy(find_program("cat").unwrap(), &path).unwrap();
    let id = id_of(&path);
    let cat = Waiting::start(&mut Command::new(&path)).unwrap();
    fs::rename(folder.write("new", "another file"), &path).unwrap();
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
fn a_process_that_is_gone() {
    let cat = Waiting::cat();
    let pid = cat.pid();
    drop(cat);
    let proc = Proc::host();
    assert!(!proc.exists(pid));
    assert_eq!(proc.link_order(pid).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(proc.objects(pid).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Memory that consists of these numbers.
fn memory(words: &[u64]) -> ProcMemory {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ProcMemory(crate::find::elf::image::file_with(&bytes))
}

#[test]
fn hostile_link_maps_have_an_end() {
    let debug = u64::from(object::elf::DT_DEBUG);
    assert_eq!(memory(&[5, 6, debug, 64, 0, 0]).debug_address(0), Some(64));
    assert_eq!(
        memory(&[0, 0, debug, 64]).debug_address(0),
        None,
        "past the end of the list"
    );
    assert_eq!(
        memory(&[debug, 0, 0, 0]).debug_address(0),
        None,
        "the loader has not run"
    );
    assert_eq!(memory(&[5, 6]).debug_address(0), None, "no end");
    assert_eq!(
        memory(&[5; 2 * 5000]).debug_address(0),
        None,
        "no end within reason"
    );
    assert_eq!(memory(&[]).debug_address(u64::MAX - 3), None);

    // r_debug at 0, entries at 16 and 48.
    assert_eq!(
        memory(&[1, 16, 0, 0, 0x700, 48, 0, 0, 0x800, 0]).link_map(0),
        [0x700, 0x800]
    );
    assert_eq!(memory(&[1, 16, 0, 0, 0x700, 16]).link_map(0), [0x700], "a circle");
    assert_eq!(
        memory(&[1, 16, 0, 0, 0x700, u64::MAX - 7]).link_map(0),
        [0x700],
        "out of memory"
    );
    assert!(memory(&[1, 0]).link_map(0).is_empty());
    assert!(memory(&[]).link_map(8).is_empty());
    // Each entry overlaps the next: a list as long as the memory.
    let mut words = vec![1, 8];
    words.extend((0..40_000).map(|index| 8 * (index + 1)));
    assert_eq!(memory(&words).link_map(0).len(), MAX_LINKS);
}

#[test]
fn a_made_up_process_in_a_made_up_proc() {
    let folder = Folder::new("linked");
    let program = Image {
        interpreter: "/ld.so".into(),
        needed: vec!["x".into()],
        ..Image::default()
    }
    .bytes();
    let program = folder.write("files/program", program);
    let library = folder.write("files/library", Image::default().bytes());
    let elf = ElfFile::open(File::open(&program).unwrap(), &program).unwrap();
    let moved = 0x10_0000;
    let dynamic = elf.dynamic_address().unwrap() + moved;
    fs::create_dir_all(folder.0.join("5/map_files")).unwrap();
    symlink(&program, folder.0.join("5/exe")).unwrap();
    symlink(&library, folder.0.join("5/map_files/1000-2000")).unwrap();
    symlink(&program, folder.0.join("5/map_files/500000-600000")).unwrap();
    folder.write(
        "5/maps",
        "1000-2000 r-xp 0 8:1 2 /library\n500000-600000 r-xp 0 8:1 1 /program\n",
    );
    let auxv = [3, 64, libc::AT_ENTRY, elf.entry() + moved, 0, 0]
        .map(u64::to_ne_bytes)
        .concat();
    folder.write("5/auxv", auxv);
    let proc = Proc::at(&folder.0);
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
    let memory = File::create(folder.0.join("5/mem")).unwrap();
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

/// Two containers of one image, as far as files go: two overlays above one folder, each with a process.
#[test]
fn one_file_of_an_image_in_two_containers_is_one_file() {
    let folder = Folder::new("overlay");
    fs::create_dir_all(folder.0.join("image")).unwrap();
    for name in ["image/cat", "image/copy"] {
        fs::copy(find_program("cat").unwrap(), folder.0.join(name)).unwrap();
    }
    let container = |name: &str| {
        let script = "mkdir -p $1/upper $1/work $1/root &&
            mount -t overlay overlay -o lowerdir=image,upperdir=$1/upper,workdir=$1/work $1/root &&
            exec $1/root/cat";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh", name])
            .current_dir(&folder.0)
            .stderr(Stdio::null());
        Waiting::start(&mut command)
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
    let mount = folder.0.strip_prefix("/").unwrap().join("one/root");
    let inside = proc.path(one.pid(), "root").join(mount);
    assert_eq!(id_of(inside.join("cat")), first.id);
    assert_ne!(
        id_of(inside.join("copy")),
        first.id,
        "the same content, but another file"
    );
}
