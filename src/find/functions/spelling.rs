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
const SHORT_FORMS: [(&str, &str); 10] = [
    ("{anonymous}", ANONYMOUS),
    ("decltype(nullptr)", "std::nullptr_t"),
    ("std::__cxx11::", "std::"),
    ("std::__1::", "std::"),
    ("std::char_traits<char>", "~traits"),
    ("std::allocator<char>", "~allocator"),
    ("std::basic_string<char,~traits,~allocator>", "std::string"),
    ("std::basic_string_view<char,~traits>", "std::string_view"),
    ("std::basic_ostream<char,~traits>", "std::ostream"),
    ("std::basic_istream<char,~traits>", "std::istream"),
];

const ANONYMOUS: &str = "(anonymous namespace)";

/// Templates of `std` whose trailing arguments usually keep their defaults, which people omit.
const WITH_DEFAULTS: &str = "vector list deque forward_list set multiset map multimap unordered_set unordered_multiset \
    unordered_map unordered_multimap unique_ptr basic_string basic_string_view queue stack priority_queue";

/// How such values begin.
const DEFAULTS: [&str; 8] = [
    "std::allocator<",
    "std::default_delete<",
    "std::less<",
    "std::hash<",
    "std::equal_to<",
    "std::char_traits<",
    "std::deque<",
    "std::vector<",
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
/// strings and streams, without default arguments of containers, and with `const` behind what it is about.
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
    if text.contains("const ") {
        text = with_const_behind(&text);
    }
    without_defaults(&text, 0)
}

/// A name in the spelling of [`plain`] without what people leave out if it is clear without: unnamed namespaces, and
/// the trait of a Rust method, with the angle brackets around its type: `m::P::go` for `<m::P as m::Walk>::go`.
pub fn loose(plain: &str) -> String {
    let text = plain.replace(&format!("{ANONYMOUS}::"), "");
    let Some((arguments, rest)) = text.strip_prefix('<').and_then(arguments) else {
        return text;
    };
    match arguments[..] {
        [of] => format!("{}{rest}", without_trait(of)),
        _ => text,
    }
}

/// `m::P` of `m::P as m::Walk`.
fn without_trait(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut before = '<';
    for (at, char) in text.char_indices() {
        match char {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            'a' if depth == 0 && matches!(before, ' ' | '>' | ')' | ']') && text[at..].starts_with("as ") => {
                return text[..at].trim_end();
            }
            _ => {}
        }
        before = char;
    }
    text
}

/// A name without its parameters: `A::get` for `A::get(int)`. None if it has none.
pub fn without_parameters(name: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let name = unqualified(name);
    let open = name.char_indices().rev().find(|&(_, char)| {
        match char {
            ')' => depth += 1,
            '(' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    let (at, _) = open.filter(|&(at, char)| char == '(' && at > 0)?;
    name.get(..at).filter(|bare| !bare.ends_with("operator"))
}

/// The names of Go's generic function of which a symbol is one of the copies: `main.Map`, `main.Map[...]`, as Go prints
/// it, and `main.Map[int]` for `main.Map[go.shape.int]`.
pub fn generic(symbol: &str) -> Option<[String; 3]> {
    let start = symbol.find("[go.shape.")?;
    let (before, rest) = symbol.split_at(start);
    let (arguments, after) = rest.rsplit_once(']')?;
    let written = arguments.replace("go.shape.", "");
    // Go 1.18 appends the number of the parameter.
    let types = written.split(',').map(|ty| match ty.rsplit_once('_') {
        Some((before, number)) if number.parse::<u8>().is_ok() => before,
        _ => ty,
    });
    let types: Vec<&str> = types.collect();
    Some([
        format!("{before}{after}"),
        format!("{before}[...]{after}"),
        format!("{before}{}]{after}", types.join(",")),
    ])
}

/// Whether [`plain`] makes more of a demangled name than its spaces.
pub fn is_long(name: &str) -> bool {
    [
        "[abi:",
        "std::__",
        "std::basic_",
        "std::allocator<",
        "std::default_delete<",
    ]
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

/// Leaves out default arguments of containers: `std::vector<int>` for `std::vector<int,std::allocator<int>>`. The name
/// has no spaces around commas and brackets.
fn without_defaults(name: &str, depth: usize) -> String {
    /// Names from files can be nested as deeply as they are long.
    const MAX_DEPTH: usize = 16;
    const STD: &str = "std::";
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, template)) = rest.split_once(STD).filter(|_| depth < MAX_DEPTH) {
        text.push_str(before);
        text.push_str(STD);
        rest = template;
        let list = template.split_once('<').filter(|(word, _)| has_defaults(word));
        if let Some((word, list)) = list
            && let Some((mut list, after)) = arguments(list)
        {
            while list.len() > 1 && list.last().is_some_and(|last| is_default(last)) {
                list.pop();
            }
            let list: Vec<String> = list
                .iter()
                .map(|argument| without_defaults(argument, depth + 1))
                .collect();
            text.push_str(&format!("{word}<{}>", list.join(",")));
            rest = after;
        }
    }
    text.push_str(rest);
    text
}

fn has_defaults(word: &str) -> bool {
    WITH_DEFAULTS.split_ascii_whitespace().any(|known| known == word)
}

fn is_default(argument: &str) -> bool {
    DEFAULTS.iter().any(|default| argument.starts_with(default))
}

/// The arguments at the start, up to the `>` that closes them, and the text after it.
fn arguments(text: &str) -> Option<(Vec<&str>, &str)> {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut found = Vec::new();
    for (at, char) in text.char_indices() {
        match char {
            '<' | '(' | '[' => depth += 1,
            // The arrow of a result.
            '>' if text[..at].ends_with('-') => {}
            '>' if depth == 0 => {
                found.push(&text[start..at]);
                return Some((found, &text[at + 1..]));
            }
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    None
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
        assert_eq!(
            names("main.Map[go.shape.int_0]"),
            ["main.Map", "main.Map[...]", "main.Map[int]"]
        );
        assert_eq!(
            names("main.(*P[go.shape.[]int,go.shape.string]).Get"),
            [
                "main.(*P).Get",
                "main.(*P[...]).Get",
                "main.(*P[[]int,string]).Get"
            ]
        );
        assert_eq!(generic("main.f"), None);
    }

    #[test]
    fn parts_of_names_that_are_left_out() {
        for (name, short) in [
            ("ns::(anonymous namespace)::f(int)", "ns::f(int)"),
            ("<m::P as m::Walk>::go", "m::P::go"),
            ("<m::P>::go", "m::P::go"),
            ("<m::P<u8> as m::Walk<u8, u16>>::go", "m::P<u8>::go"),
            ("<<A as B>::C as m::Walk<D as E>>::go", "<A as B>::C::go"),
            ("f<int>(int)", "f<int>(int)"),
            ("<m", "<m"),
        ] {
            assert_eq!(loose(&plain(name)), short);
        }
        for (name, bare) in [
            ("f(int)", Some("f")),
            ("A::get(int (*)(char)) const", Some("A::get")),
            ("(anonymous namespace)::f(int)", Some("(anonymous namespace)::f")),
            ("A::operator()(int)", Some("A::operator()")),
            ("A::operator()", None),
            ("main.(*Conn).Read", None),
            ("f", None),
            ("f)", None),
        ] {
            assert_eq!(without_parameters(name), bare, "{name}");
        }
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
            (
                "vec(std::vector<int, std::allocator<int> >)".to_owned(),
                "vec(std::vector<int>)",
            ),
            (
                format!("vec(std::vector<{STRING}, std::allocator<{STRING} > > const&)"),
                "vec(const std::vector<std::string>&)",
            ),
            (
                format!("f(std::map<int, {STRING}, std::less<int>, std::allocator<std::pair<int const, {STRING} > > >)"),
                "f(std::map<int, std::string>)",
            ),
            (
                "f(std::vector<std::unique_ptr<A, std::default_delete<A> >, std::allocator<std::unique_ptr<A, \
                 std::default_delete<A> > > >, int)"
                    .to_owned(),
                "f(std::vector<std::unique_ptr<A>>, int)",
            ),
            ("f(std::nullptr_t)".to_owned(), "f(decltype(nullptr))"),
            ("(anonymous namespace)::f()".to_owned(), "{anonymous}::f()"),
        ] {
            assert_eq!(plain(&demangled), plain(written));
        }
        assert_ne!(plain("f(char*)"), plain("f(char const*)"));
        assert_ne!(plain("f(unsigned int)"), plain("f(unsignedint)"));
        assert_ne!(
            plain("f(std::vector<int, Pool<int> >)"),
            plain("f(std::vector<int>)")
        );
        assert_ne!(
            plain("f(std::tuple<int, std::allocator<int> >)"),
            plain("f(std::tuple<int>)")
        );
        assert_eq!(unqualified("A::get() const &"), "A::get()");
        assert_eq!(unqualified("A::operator B const &"), "A::operator B const &");
    }
}
