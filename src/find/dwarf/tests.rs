use super::*;
use crate::find::elf::ElfFile;

#[test]
fn dump() {
    let path = std::env::var("DUMP").unwrap();
    let file = File::open(&path).unwrap();
    let t = std::time::Instant::now();
    let info = DebugInfo::open(&file, None).unwrap().unwrap();
    eprintln!("open {:?}", t.elapsed());
    let (n, i, s) = info.loaded.with_dependent(|_, d| d.counts());
    eprintln!("functions {n} inlined {i} namespaces {s}");
    let t = std::time::Instant::now();
    let addrs = info.loaded.with_dependent(|_, d| d.addrs());
    let signatures: Vec<_> = addrs.iter().map(|&a| info.signature(a)).collect();
    eprintln!(
        "all {:?} {} some",
        t.elapsed(),
        signatures.iter().flatten().count()
    );
    eprintln!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("VmHWM"))
            .collect::<String>()
    );
    if let Ok(names) = std::env::var("NAMES") {
        let elf = ElfFile::open(file, Path::new(&path)).unwrap();
        for f in crate::find::functions::all(&elf, Path::new(&path)).unwrap() {
            if names.split(',').any(|n| f.name.contains(n)) {
                if let Some(s) = info.signature(f.addr) {
                    eprintln!(
                        "{} -> {:?}{}",
                        f.name,
                        s.returns.map(|r| r.name),
                        if s.variadic { " ..." } else { "" }
                    );
                    for p in s.params {
                        eprintln!(
                            "    {:?}: {} ({}) @ {:?}\n        {}",
                            p.name,
                            p.ty.name,
                            p.ty.bytes,
                            p.place,
                            format!("{:?}", p.ty.kind).chars().take(300).collect::<String>()
                        );
                    }
                }
            }
        }
    }
}
use std::path::Path;
