use super::*;
use crate::find::elf::image::{Image, Sym};

fn opened(image: &Image) -> ElfFile {
    ElfFile::open(image.file(), Path::new("made-up")).unwrap()
}

#[test]
fn near_names() {
    let names = [
        "malloc",
        "calloc",
        "malloc_usable_size",
        "__libc_malloc",
        "free",
        "readline",
    ];
    let dynamic = names
        .iter()
        .zip(0..)
        .map(|(name, at)| Sym::new(name, at * 16))
        .collect();
    let elf = opened(&Image {
        dynamic,
        ..Image::default()
    });
    assert_eq!(near(&elf, "mallok", 2), ["malloc", "calloc"]);
    assert_eq!(
        near(&elf, "MALLOC", 9),
        ["malloc", "calloc", "malloc_usable_size", "__libc_malloc"]
    );
    assert_eq!(near(&elf, "readlines", 3), ["readline"]);
    assert_eq!(near(&elf, "read", 3), ["readline"]);
    assert!(near(&elf, "getaddrinfo", 3).is_empty());
    assert!(near(&elf, "", 3).is_empty());
    assert!(near(&elf, "malloc", 0).is_empty());
}

fn near(elf: &ElfFile, name: &str, n: usize) -> Vec<String> {
    nearest(elf, Path::new("made-up"), name, n)
}
