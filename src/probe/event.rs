// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The header of all records, and checked access to the records.

use plain::Plain;

use crate::bpf::assert_same_layout;
use crate::bpf::shared::types::{self, stack_moment};

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

/// When in a call a stack was read; see the C `enum stack_moment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackMoment {
    Entry,
    Exit,
    AfterReturn,
    /// At an instruction inside the function, whose frame may be set up.
    Inside,
}

impl StackMoment {
    /// From the number in a record.
    pub fn from_record(moment: u32) -> StackMoment {
        const AFTER_RETURN: u32 = stack_moment::STACK_AFTER_RETURN.0;
        const AT_EXIT: u32 = stack_moment::STACK_AT_EXIT.0;
        match moment {
            AT_EXIT => StackMoment::Exit,
            AFTER_RETURN => StackMoment::AfterReturn,
            _ => StackMoment::Entry,
        }
    }
}

/// A C `struct stack`.
#[derive(Clone, Copy, Debug)]
pub struct RawStack<'a> {
    pub moment: StackMoment,
    /// Where the function returns to; 0 after the return.
    pub caller: u64,
    /// Length of the used part of `frames` in bytes, or a negative errno.
    pub bytes: i32,
    /// The probed instruction or where the call has returned to, then return addresses, innermost first.
    pub frames: &'a [u64],
}

impl RawStack<'_> {
    /// Replaces the content of `out` with the return addresses, innermost first. Inside a function, the first one is
    /// the probed instruction.
    ///
    /// At an entry, the kernel's frames start with the function itself and continue with its caller only if the kernel
    /// recognizes that the function's frame is not set up yet, which it does if `begins_frame` is true of the probed
    /// instruction. At an exit they never do. The missing caller is inserted here.
    pub fn addresses(&self, out: &mut Vec<u64>, begins_frame: impl FnOnce(u64) -> bool) {
        out.clear();
        let count = usize::try_from(self.bytes).map_or(0, |bytes| bytes / size_of::<u64>());
        let frames = self.frames.get(..count).unwrap_or(self.frames);
        if matches!(self.moment, StackMoment::AfterReturn | StackMoment::Inside) {
            out.extend_from_slice(frames);
            return;
        }
        let Some((&probed, outer)) = frames.split_first() else {
            out.push(self.caller);
            return;
        };
        // Where the kernel does not find the caller, an equal address is that of an outer call from the same place.
        let may_be_found = cfg!(target_arch = "x86_64") && self.moment == StackMoment::Entry;
        let is_found = may_be_found && outer.first() == Some(&self.caller) && begins_frame(probed);
        if !is_found {
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
        let addresses = |moment, caller, bytes, frames: &[u64]| {
            let mut out = vec![77];
            RawStack {
                moment,
                caller,
                bytes,
                frames,
            }
            .addresses(&mut out, |probed| probed == 1);
            out
        };
        let callers = |caller, bytes, frames| addresses(StackMoment::Entry, caller, bytes, frames);
        assert_eq!(callers(2, 24, &[1, 3, 4, 9]), [2, 3, 4]);
        let repaired: &[u64] = if cfg!(target_arch = "aarch64") {
            &[2, 2, 3]
        } else {
            &[2, 3]
        };
        assert_eq!(callers(2, 24, &[1, 2, 3, 9]), repaired);
        assert_eq!(callers(2, 24, &[5, 2, 3, 9]), [2, 2, 3]);
        assert_eq!(callers(2, -14, &[0; 4]), [2]);
        assert_eq!(addresses(StackMoment::Exit, 2, 24, &[1, 2, 3, 9]), [2, 2, 3]);
        for moment in [StackMoment::AfterReturn, StackMoment::Inside] {
            assert_eq!(addresses(moment, 0, 16, &[2, 3, 9]), [2, 3]);
            assert!(addresses(moment, 0, -14, &[0; 4]).is_empty());
            assert_eq!(addresses(moment, 0, 800, &[7, 8]), [7, 8]);
        }
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
