// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

/// A cache of entries with flags, soname, path and hardware bits.
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
fn entries_of_current_and_old_format() {
    let data = cache(&[
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (3, "liba.so.1", "/lib32/liba.so.1", 0),
    ]);
    let expected = [("liba.so.1", Path::new("/lib/liba.so.1"), 0)];
    assert_eq!(listed(&LoaderCache::parse(data.clone())), expected);

    // The same after a table of the old format, which is padded to 8 bytes.
    let mut old = b"ld.so-1.7.0\0".to_vec();
    old.extend(1_u32.to_le_bytes());
    old.extend([0xee; 12 + 4]);
    assert_eq!(listed(&LoaderCache::parse([old, data].concat())), expected);
}

#[test]
fn damaged_entries_are_skipped() {
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
fn variants_for_other_processors_are_skipped() {
    let data = cache(&[
        (OWN, "liba.so.1", "/lib/glibc-hwcaps/z99/liba.so.1", 1 << 62),
        (OWN, "liba.so.1", "/lib/haswell/liba.so.1", 4),
        (OWN, "liba.so.1", "/lib/liba.so.1", 0),
        (OWN, "liba.so.1.2", "/lib/liba.so.1.2", 0),
    ]);
    assert_eq!(
        LoaderCache::parse(data).files_of("liba.so.1").collect::<Vec<_>>(),
        [Path::new("/lib/liba.so.1")]
    );
}

#[test]
fn best_variant_comes_first() {
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
    let found: Vec<PathBuf> = LoaderCache::parse(data).files_of("liba.so.1").collect();
    assert_eq!(found, [Path::new(&better), Path::new("/lib/liba.so.1")]);
}
