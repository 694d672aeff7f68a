// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Text that a mangled name must contain to match a pattern. That rules out most symbols without demangling
//! them.
//!
//! Mangling keeps identifiers, but abbreviates words that languages and compilers know.

use crate::find::spec::NamePattern;

/// Words of demangled C++ and Rust names that do not appear in mangled ones, including operators and the
/// wording of demanglers. Parts of these words, such as `str`, are useless too.
const ABBREVIATED: &str = "std allocator basic_string string basic_istream istream basic_ostream ostream basic_iostream \
    iostream char_traits wstring u8string u16string u32string signed unsigned char short long int float double bool void wchar_t char8_t char16_t char32_t \
    __int128 __float128 decimal16 decimal32 decimal64 decimal128 ellipsis half auto decltype decltype(auto) nullptr_t \
    const volatile restrict true false nullptr sizeof alignof typeid throw noexcept this template typename operator new \
    delete co_await and clone (anonymous namespace) anonymous namespace vtable for VTT typeinfo name guard variable \
    reference temporary non-virtual virtual override thunk to offset covariant return construction in initialization transaction safe \
    dynamic_cast static_cast reinterpret_cast const_cast complex imaginary lambda unnamed type default arg literal \
    constructor destructor vector extern unsafe dyn mut impl closure shim as str usize isize i8 i16 i32 i64 i128 u8 u16 \
    u32 u64 u128 f16 f32 f64 f128 global TLS init wrapper function hidden alias java Class resource [abi: enable_if pixel \
    {closure_env} {vtable} _GLOBAL__N_ _Float16 _BitInt";

/// The longest text that the mangled form of every name that matches `pattern` contains. `None` if there is
/// no such text.
pub fn required_text(pattern: &NamePattern) -> Option<String> {
    let text = pattern.literal_text()?;
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let is_required = |word: &&str| {
        let is_name = word.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
        is_name && !ABBREVIATED.contains(word)
    };
    words
        .filter(is_required)
        .max_by_key(|word| word.len())
        .map(str::to_owned)
}
