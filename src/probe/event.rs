// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The header of all records, and checked access to the records.

use plain::Plain;

use crate::bpf::assert_same_layout;
use crate::bpf::shared::types;

/// The C `struct event_header`, at the start of each record.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Header {
    /// CLOCK_MONOTONIC nanoseconds at the probe.
    pub time_ns: u64,
    /// Thread group ID in the PID namespace of the run, 0 if the process is not in it.
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Which record of the BPF object this is.
    pub kind: u16,
    /// Index of the function, where a tool has few; or what `kind` says.
    pub func: u16,
    /// Thread name, NUL-terminated. Untrusted.
    pub comm: [u8; 16],
}

assert_same_layout!(
    Header,
    types::event_header,
    time_ns,
    pid,
    tid,
    uid,
    kind,
    func,
    comm
);

// SAFETY: all fields are integers, every bit pattern is valid, and there is no padding.
unsafe impl Plain for Header {}

impl Header {
    /// The thread name without the NUL padding.
    pub fn comm(&self) -> &[u8] {
        until_nul(&self.comm)
    }
}

/// The bytes before the first NUL, or all of them if there is none.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0);
    end.map_or(bytes, |end| &bytes[..end])
}

/// A record as `T`, borrowed from the ring. None if it is too short, which a record of another kind may be.
pub fn decode<T: Plain>(record: &[u8]) -> Option<&T> {
    plain::from_bytes(record).ok()
}

/// A copy of a key or value of a map as `T`, whatever its alignment. None if it is too short.
pub fn copied<T: Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    value.copy_from_bytes(bytes).ok()?;
    Some(value)
}

/// A C `struct stack`.
#[derive(Clone, Copy, Debug)]
pub struct RawStack<'a> {
    /// Where the function returns to; 0 unless the stack was read at an entry.
    pub caller: u64,
    /// Length of the used part of `frames` in bytes, or a negative errno.
    pub bytes: i64,
    /// Return addresses, innermost first.
    pub frames: &'a [u64],
}

impl RawStack<'_> {
    /// Replaces the content of `out` with the return addresses, innermost first.
    ///
    /// At an entry, the kernel's frames start with the function itself and continue with its caller only if the kernel
    /// recognizes that the function's frame is not set up yet. Otherwise the caller is missing, and is inserted here.
    pub fn callers(&self, out: &mut Vec<u64>) {
        out.clear();
        let count = usize::try_from(self.bytes).map_or(0, |bytes| bytes / size_of::<u64>());
        let frames = self.frames.get(..count).unwrap_or(self.frames);
        if self.caller == 0 {
            out.extend_from_slice(frames);
            return;
        }
        let outer = frames.get(1..).unwrap_or_default();
        // On arm64 it always is: an equal address is that of an outer call from the same place.
        if cfg!(target_arch = "aarch64") || outer.first() != Some(&self.caller) {
            out.push(self.caller);
        }
        out.extend_from_slice(outer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(8))]
    struct Aligned([u8; 48]);

    #[test]
    fn record_shorter_than_its_type_is_rejected() {
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
    fn missing_direct_caller_is_inserted() {
        let callers = |caller, bytes, frames: &[u64]| {
            let mut out = vec![77];
            RawStack {
                caller,
                bytes,
                frames,
            }
            .callers(&mut out);
            out
        };
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
    fn name_may_fill_its_field_without_nul() {
        let header = Header {
            comm: *b"0123456789abcdef",
            ..Header::default()
        };
        assert_eq!(header.comm(), b"0123456789abcdef");
    }
}
