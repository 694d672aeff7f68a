//! Names of C++ and Rust functions as their authors wrote them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, Symbol};

/// Bytes of a demangled name that are kept. A mangled name of a few hundred bytes can stand for gigabytes:
/// each part may repeat the ones before it.
const MAX_BYTES: usize = 4096;

/// The readable form of a function's name, without the hash that Rust adds. A name that is not mangled stays
/// as it is, and so does one that cannot be understood; a very long one is cut, and then ends in `...`.
pub fn demangle(name: &str) -> Cow<'_, str> {
    // Without this C functions would be taken for types, such as `f` for `float`.
    if !name.starts_with("_Z") && !name.starts_with("_R") {
        return Cow::Borrowed(name);
    }
    rust(name)
        .or_else(|| cpp(name))
        .map_or(Cow::Borrowed(name), Cow::Owned)
}

fn rust(name: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    Bounded::collect(|text| write!(text, "{demangled:#}"))
}

fn cpp(name: &str) -> Option<String> {
    let symbol = Symbol::new(name.as_bytes()).ok()?;
    Bounded::collect(|text| symbol.structured_demangle(text, &DemangleOptions::new()))
}

/// Text that takes no more than `MAX_BYTES`, and stops whoever writes more.
#[derive(Default)]
struct Bounded {
    text: String,
    is_full: bool,
}

impl Bounded {
    /// `None` when the writer failed for a reason of its own.
    fn collect(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> Option<String> {
        let mut bounded = Bounded::default();
        let result = write(&mut bounded);
        if bounded.is_full {
            bounded.text.push_str("...");
            return Some(bounded.text);
        }
        result.ok().map(|()| bounded.text)
    }
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = MAX_BYTES.saturating_sub(self.text.len());
        self.is_full |= part.len() > room;
        let kept = (0..=room.min(part.len()))
            .rev()
            .find(|&end| part.is_char_boundary(end))
            .unwrap_or(0);
        self.text.push_str(&part[..kept]);
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpp_and_rust() {
        assert_eq!(demangle("_ZN3net5Proxy4readEi"), "net::Proxy::read(int)");
        assert_eq!(
            demangle("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(demangle("_RNvC6_123foo3bar"), "123foo::bar");
    }

    #[test]
    fn other_names_stay() {
        for name in [
            "f",
            "Pv",
            "main",
            "read",
            "_start",
            "_Z",
            "_R",
            "_Znonsense",
            "__libc_start_main@@GLIBC_2.34",
            "",
        ] {
            assert_eq!(demangle(name), name);
        }
    }

    #[test]
    fn a_name_that_grows_without_end_is_cut() {
        // Each pair has the one before it twice: S0_ = pair<int, int>, S1_ = pair<S0_, S0_>, and so on.
        let number = |n: u32| {
            char::from_digit(n, 36)
                .into_iter()
                .collect::<String>()
                .to_uppercase()
        };
        let pairs: String = (0..35).map(|n| format!("S_IS{0}_S{0}_E", number(n))).collect();
        let text = demangle(&format!("_Z1fSt4pairIiiE{pairs}")).into_owned();
        assert!(text.starts_with("f(std::pair<int, int>, std::pair<"), "{text}");
        assert!(
            text.ends_with("...") && text.len() == MAX_BYTES + 3,
            "{}",
            text.len()
        );
    }
}
