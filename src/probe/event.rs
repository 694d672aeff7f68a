//! The header that every record of every tool starts with, and safe access to the rest.

use std::mem::{offset_of, size_of};

use plain::Plain;

/// Twin of `struct event_header` in `src/bpf/event.bpf.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Header {
    /// CLOCK_MONOTONIC nanoseconds at the probe.
    pub time_ns: u64,
    /// Process (thread group) as the initial pid namespace numbers it.
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Which record of the tool this is.
    pub kind: u16,
    /// Index of the function, from the probe's cookie.
    pub func: u16,
    /// Name of the thread, NUL-terminated. Untrusted.
    pub comm: [u8; 16],
}

const _: () = {
    assert!(size_of::<Header>() == 40);
    assert!(offset_of!(Header, pid) == 8);
    assert!(offset_of!(Header, uid) == 16);
    assert!(offset_of!(Header, kind) == 20);
    assert!(offset_of!(Header, func) == 22);
    assert!(offset_of!(Header, comm) == 24);
};

// SAFETY: all fields are integers, every bit pattern is valid, and there is no padding.
unsafe impl Plain for Header {}

impl Header {
    /// The thread's name without the NUL bytes behind it.
    pub fn comm(&self) -> &[u8] {
        until_nul(&self.comm)
    }
}

/// The bytes before the first NUL, all of them if there is none.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or(bytes)
}

/// A record as `T`, borrowed from the ring. None when it is too short: a record of another version or another kind.
pub fn decode<T: Plain>(record: &[u8]) -> Option<&T> {
    plain::from_bytes(record).ok()
}

/// The same from a key or value of a map, wherever in memory it is.
pub fn copied<T: Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    value.copy_from_bytes(bytes).ok()?;
    Some(value)
}

/// The return addresses of a `struct stack` (src/bpf/stack.bpf.h), innermost first.
///
/// At an entry, `caller` is not 0: the kernel's frames begin with the function itself, and go on with its caller only
/// where the kernel knows that the caller's frame is not built yet; elsewhere the caller is missing and is put in.
pub fn callers(caller: u64, bytes: i64, frames: &[u64]) -> Vec<u64> {
    let count = usize::try_from(bytes)
        .map_or(0, |bytes| bytes / size_of::<u64>())
        .min(frames.len());
    let frames = &frames[..count];
    if caller == 0 {
        return frames.to_vec();
    }
    let outer = frames.get(1..).unwrap_or_default();
    // On arm64 it always is. An address that is there all the same is that of an outer call from the same place.
    let missing = cfg!(target_arch = "aarch64") || outer.first() != Some(&caller);
    missing
        .then_some(caller)
        .into_iter()
        .chain(outer.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(8))]
    struct Aligned([u8; 48]);

    #[test]
    fn short_records_are_refused_and_long_ones_are_read_from_the_front() {
        let mut record = Aligned([0; 48]);
        record.0[8] = 7;
        record.0[24..28].copy_from_slice(b"bash");
        for len in 0..40 {
            assert!(decode::<Header>(&record.0[..len]).is_none(), "{len} bytes");
        }
        let header = decode::<Header>(&record.0).expect("48 bytes hold a header");
        assert_eq!((header.pid, header.comm()), (7, &b"bash"[..]));
    }

    #[test]
    fn the_direct_caller_is_put_in_where_it_is_missing() {
        assert_eq!(callers(2, 24, &[1, 3, 4, 9]), [2, 3, 4]);
        let repaired: &[u64] = if cfg!(target_arch = "aarch64") {
            &[2, 2, 3]
        } else {
            &[2, 3]
        };
        assert_eq!(callers(2, 24, &[1, 2, 3, 9]), repaired);
        assert_eq!(callers(0, 16, &[2, 3, 9]), [2, 3]);
        assert_eq!(callers(2, -14, &[0; 4]), [2]);
        assert!(callers(0, -14, &[0; 4]).is_empty());
        assert_eq!(callers(0, 800, &[7, 8]), [7, 8]);
    }

    #[test]
    fn a_name_that_fills_its_field_has_no_nul() {
        let header = Header {
            comm: *b"0123456789abcdef",
            ..Header::default()
        };
        assert_eq!(header.comm(), b"0123456789abcdef");
    }
}
