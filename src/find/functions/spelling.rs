// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The same name in the spellings of compilers and of people.

/// What compilers add to the symbol of a copy that they specialize, for constant arguments or unused ones, or that they
/// rename for the linker. Not `.part`: such a part runs after code of the original function.
const COPIES: [&str; 9] = [
    ".constprop",
    ".isra",
    ".ipcp",
    ".lto_priv",
    ".localalias",
    ".llvm",
    ".__uniq",
    ".clone",
    ".specialized",
];

/// Long forms that demanglers write, and the short ones of source code.
const SHORT_FORMS: [(&str, &str); 8] = [
    ("std::__cxx11::", "std::"),
    ("std::__1::", "std::"),
    ("std::char_traits<char>", "~traits"),
    ("std::allocator<char>", "~allocator"),
    ("std::basic_string<char,~traits,~allocator>", "std::string"),
    ("std::basic_string_view<char,~traits>", "std::string_view"),
    ("std::basic_ostream<char,~traits>", "std::ostream"),
    ("std::basic_istream<char,~traits>", "std::istream"),
];

/// The symbol of the function that a symbol is a specialized copy of: `f` for `f.constprop.0.isra.0`. The symbol itself
/// if it is none.
pub fn without_copy(symbol: &str) -> &str {
    let mut name = symbol;
    loop {
        let numbered = name.trim_end_matches(|char: char| char.is_ascii_digit());
        let suffixed = match numbered.strip_suffix('.') {
            Some(suffixed) if numbered.len() < name.len() => suffixed,
            _ => name,
        };
        match COPIES.iter().find_map(|copy| suffixed.strip_suffix(copy)) {
            Some(rest) if !rest.is_empty() => name = rest,
            _ => return name,
        }
    }
}

/// A demangled name, or a name as people write it, in one spelling for both: without spaces that do not separate
/// words, without ABI tags (`greet[abi:cxx11]`) and inline namespaces of the standard library, with the short names of
/// strings and streams, and with `const` behind what it is about.
pub fn plain(name: &str) -> String {
    let mut text = without_spaces(&without_tags(name));
    for (long, short) in SHORT_FORMS {
        if text.contains(long) {
            text = text.replace(&format!("{long}const"), &format!("{short} const"));
            text = text.replace(long, short);
        }
    }
    text = text.replace("~traits", "std::char_traits<char>");
    text = text.replace("~allocator", "std::allocator<char>");
    match text.contains("const ") {
        true => with_const_behind(&text),
        false => text,
    }
}

/// The names of Go's generic function of which a symbol is one of the copies: `main.Map` and `main.Map[...]`, as Go
/// prints it, for `main.Map[go.shape.int]`.
pub fn generic(symbol: &str) -> Option<[String; 2]> {
    let start = symbol.find("[go.shape.")?;
    let (before, rest) = symbol.split_at(start);
    let (_, after) = rest.rsplit_once(']')?;
    Some([format!("{before}{after}"), format!("{before}[...]{after}")])
}

/// Whether [`plain`] makes more of a demangled name than its spaces.
pub fn is_long(name: &str) -> bool {
    ["[abi:", "std::__", "std::basic_"]
        .iter()
        .any(|part| name.contains(part))
}

/// A demangled name without the qualifiers behind its parameters: `A::get()` for `A::get() const &`.
pub fn unqualified(name: &str) -> &str {
    let mut rest = name;
    while let Some(before) = [" const", " volatile", " &&", " &"]
        .iter()
        .find_map(|qualifier| rest.strip_suffix(qualifier))
    {
        rest = before;
    }
    if rest.ends_with(')') { rest } else { name }
}

fn without_tags(name: &str) -> String {
    let mut parts = name.split("[abi:");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(']').map_or("", |(_, after)| after));
    }
    text
}

/// Keeps a space only between words: `unsigned long`, `operator new`.
fn without_spaces(name: &str) -> String {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let mut text = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(char) = chars.next() {
        if char != ' ' || (text.ends_with(is_word) && chars.peek().copied().is_some_and(is_word)) {
            text.push(char);
        }
    }
    text
}

/// Moves `const` at the start of a type behind it: `f(char const*)` for `f(const char*)`.
fn with_const_behind(name: &str) -> String {
    const CONST: &str = "const ";
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(CONST) {
        let (before, after) = (&rest[..at], &rest[at + CONST.len()..]);
        text.push_str(before);
        if text.is_empty() || text.ends_with(['(', ',', '<']) {
            let end = type_end(after);
            text.push_str(&with_const_behind(&after[..end]));
            text.push_str(if text.ends_with('>') { "const" } else { " const" });
            rest = &after[end..];
        } else {
            text.push_str(CONST);
            rest = after;
        }
    }
    text.push_str(rest);
    text
}

/// The bytes of the type at the start, without pointers and references.
fn type_end(text: &str) -> usize {
    let mut depth = 0_usize;
    let end = text.char_indices().find(|&(_, char)| {
        match char {
            '<' => depth += 1,
            '>' if depth > 0 => {
                depth -= 1;
                return false;
            }
            _ => {}
        }
        depth == 0 && matches!(char, '*' | '&' | ',' | ')' | '>')
    });
    end.map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_belong_to_their_function() {
        for (symbol, function) in [
            ("f.constprop.0", "f"),
            ("f.constprop.0.isra.0", "f"),
            ("f.isra.12", "f"),
            ("f.specialized.1", "f"),
            ("f.lto_priv.0", "f"),
            ("f.localalias", "f"),
            ("f.llvm.1234567890", "f"),
            ("f.__uniq.99.llvm.7", "f"),
            ("_Z1fi.constprop.0", "_Z1fi"),
            ("f", "f"),
            ("f.part.0", "f.part.0"),
            ("f.cold", "f.cold"),
            ("main.init.0", "main.init.0"),
            (".isra.0", ".isra.0"),
            ("f2", "f2"),
        ] {
            assert_eq!(without_copy(symbol), function, "{symbol}");
        }
    }

    #[test]
    fn copies_of_generic_functions() {
        let names = |symbol| generic(symbol).unwrap();
        assert_eq!(names("main.Map[go.shape.int_0]"), ["main.Map", "main.Map[...]"]);
        assert_eq!(
            names("main.(*P[go.shape.[]int,go.shape.string]).Get"),
            ["main.(*P).Get", "main.(*P[...]).Get"]
        );
        assert_eq!(generic("main.f"), None);
    }

    #[test]
    fn spellings_of_one_name_are_equal() {
        const STRING: &str =
            "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >";
        for (demangled, written) in [
            ("greet[abi:cxx11](int)".to_owned(), "greet(int)"),
            ("app::S::text[abi:cxx11]".to_owned(), "app::S::text"),
            (format!("len({STRING})"), "len(std::string)"),
            (format!("len({STRING} const&)"), "len(const std::string&)"),
            (format!("len({STRING} const&)"), "len(const std::string &)"),
            (
                format!("f(std::vector<{STRING}, int>)"),
                "f(std::vector<std::string,int>)",
            ),
            (
                "f(std::basic_string_view<char, std::char_traits<char> >)".to_owned(),
                "f(std::string_view)",
            ),
            (
                "f(char const*, unsigned long)".to_owned(),
                "f(const char *,unsigned long)",
            ),
            (
                "f(std::vector<char const*, int> const&)".to_owned(),
                "f(const std::vector<const char*, int>&)",
            ),
            ("max<int>(int, int)".to_owned(), "max<int>(int,int)"),
        ] {
            assert_eq!(plain(&demangled), plain(written));
        }
        assert_ne!(plain("f(char*)"), plain("f(char const*)"));
        assert_ne!(plain("f(unsigned int)"), plain("f(unsignedint)"));
        assert_eq!(unqualified("A::get() const &"), "A::get()");
        assert_eq!(unqualified("A::operator B const &"), "A::operator B const &");
    }
}
