// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

fn function(name: NamePattern) -> ProbeSubject {
    ProbeSubject::Function { name, offset: 0 }
}

fn exact(name: &str) -> NamePattern {
    NamePattern::Exact(name.to_owned())
}

fn glob(text: &str) -> NamePattern {
    NamePattern::parse(text).unwrap()
}

fn regex(text: &str) -> NamePattern {
    NamePattern::Regex(Regex::new(text).unwrap())
}

fn usdt(provider: NamePattern, name: NamePattern) -> ProbeSubject {
    ProbeSubject::Usdt { provider, name }
}

fn parts(text: &str) -> (ProbeMoment, Option<String>, ProbeSubject) {
    let spec = parse(text).unwrap();
    assert_eq!(spec.text, text);
    (spec.moment, spec.target, spec.subject)
}

fn message(text: &str) -> String {
    format!("{:#}", parse(text).unwrap_err())
}

#[test]
fn targets_and_functions() {
    for (text, target, name) in [
        ("libc:malloc", "libc", exact("malloc")),
        ("/usr/bin/app:main", "/usr/bin/app", exact("main")),
        ("malloc", "", exact("malloc")),
        (":malloc", "", exact("malloc")),
        ("*:malloc", "", exact("malloc")),
        ("*:*", "", glob("*")),
        ("libc:mem*", "libc", glob("mem*")),
        ("libc:?alloc", "libc", glob("?alloc")),
        ("libc:/^mem|^str/", "libc", regex("^mem|^str")),
        ("/^mem/", "", regex("^mem")),
        ("app:net::Proxy::read(int)", "app", exact("net::Proxy::read(int)")),
        ("app:tokio::runtime::*", "app", glob("tokio::runtime::*")),
        ("net::Proxy::read", "", exact("net::Proxy::read")),
        (":net::Proxy::read", "", exact("net::Proxy::read")),
        ("/opt/a::b/app:f", "/opt/a::b/app", exact("f")),
        (r"/opt/a\:b\\c\d:f", r"/opt/a:b\c\d", exact("f")),
        (
            "app:Set::operator+(Set const&)",
            "app",
            exact("Set::operator+(Set const&)"),
        ),
        ("app:Set::operator+", "app", exact("Set::operator+")),
        ("app:operator++", "app", exact("operator++")),
        (
            "app:github.com/app/net.Dial",
            "app",
            exact("github.com/app/net.Dial"),
        ),
        ("./app:f", "./app", exact("f")),
        (r#""/opt/a:b":f"#, "/opt/a:b", exact("f")),
        ("'./a b:c':ns::f", "./a b:c", exact("ns::f")),
        ("greet[abi:cxx11]", "", exact("greet[abi:cxx11]")),
        ("/(?:mem|str)cpy/", "", regex("(?:mem|str)cpy")),
        ("/^net::Proxy/", "", regex("^net::Proxy")),
        ("app:/^net::Proxy/", "app", regex("^net::Proxy")),
        ("libc:{malloc,free}", "libc", glob("{malloc,free}")),
        (r"app:A::operator\*", "app", exact("A::operator*")),
        ("libc:memcpy@GLIBC_2.2.5", "libc", exact("memcpy@GLIBC_2.2.5")),
    ] {
        let target = (!target.is_empty()).then(|| target.to_owned());
        assert_eq!(parts(text), (ProbeMoment::Any, target, function(name)), "{text}");
    }
}

#[test]
fn prefixes_select_the_moment() {
    for (text, at) in [
        ("p:libc:malloc", ProbeMoment::Entry),
        ("uprobe:libc:malloc", ProbeMoment::Entry),
        ("r:libc:malloc", ProbeMoment::Return),
        ("uretprobe:libc:malloc", ProbeMoment::Return),
    ] {
        assert_eq!(
            parts(text),
            (at, Some("libc".to_owned()), function(exact("malloc"))),
            "{text}"
        );
    }
    let anywhere = (ProbeMoment::Return, None, function(exact("malloc")));
    assert_eq!(parts("r:malloc"), anywhere);
    assert_eq!(parts("r::malloc"), anywhere);
    let namespace = (ProbeMoment::Any, None, function(exact("r::malloc")));
    assert_eq!(parts(":r::malloc"), namespace);
    assert_eq!(parts("./r:malloc").1.as_deref(), Some("./r"));
}

#[test]
fn offsets_and_addresses() {
    let at = |name, offset| ProbeSubject::Function {
        name: exact(name),
        offset,
    };
    assert_eq!(parts("libc:malloc+0x10").2, at("malloc", 16));
    assert_eq!(parts("libc:malloc+16").2, at("malloc", 16));
    assert_eq!(parts("app:operator+(int)+4").2, at("operator+(int)", 4));
    assert_eq!(parts("app:my_operator+4").2, at("my_operator", 4));
    assert_eq!(parts("app:main.(*Conn).Read+4").2, at("main.(*Conn).Read", 4));
    assert_eq!(parts("app:0x1234").2, ProbeSubject::Address(0x1234));
    assert_eq!(parts("0xffffffffffffffff").2, ProbeSubject::Address(u64::MAX));
}

#[test]
fn usdt_probes() {
    let python = || Some("python3".to_owned());
    for text in ["usdt:python3:python:gc__start", "u:python3:python:gc__start"] {
        assert_eq!(
            parts(text),
            (
                ProbeMoment::Any,
                python(),
                usdt(exact("python"), exact("gc__start"))
            )
        );
    }
    for text in ["u:python3:gc*", "u:python3::gc*"] {
        assert_eq!(parts(text).2, usdt(NamePattern::any(), glob("gc*")), "{text}");
    }
    assert_eq!(parts("u:gc*").1, None);
    assert_eq!(
        parts("u::python:gc*"),
        (ProbeMoment::Any, None, usdt(exact("python"), glob("gc*")))
    );
    assert_eq!(
        parts(r"u:/a\:b:c:d"),
        (
            ProbeMoment::Any,
            Some("/a:b".to_owned()),
            usdt(exact("c"), exact("d"))
        )
    );
    assert_eq!(parts("u:app:/^q/:/start$/").2, usdt(regex("^q"), regex("start$")));
}

#[test]
fn regex_syntax() {
    let parts = |text: &str| {
        let spec = parse_as(text, PatternSyntax::Regex).unwrap();
        (spec.moment, spec.target, spec.subject)
    };
    for (text, target, pattern) in [
        ("libc:^mem(cpy|set)$", "libc", "^mem(cpy|set)$"),
        ("app:^net::Proxy", "app", "^net::Proxy"),
        (
            "app:^net::Proxy::(read|write)",
            "app",
            "^net::Proxy::(read|write)",
        ),
        ("^net::Proxy", "", "^net::Proxy"),
        (":^net::Proxy", "", "^net::Proxy"),
        ("libc:[[:alpha:]]+_r$", "libc", "[[:alpha:]]+_r$"),
        ("[[:alpha:]]+_r$", "", "[[:alpha:]]+_r$"),
        (r"/opt/a\:b:f+", "/opt/a:b", "f+"),
        ("app:0x12", "app", "0x12"),
    ] {
        let target = (!target.is_empty()).then(|| target.to_owned());
        assert_eq!(
            parts(text),
            (ProbeMoment::Any, target, function(regex(pattern))),
            "{text}"
        );
    }
    assert_eq!(parts("r:app:^a::b").0, ProbeMoment::Return);
    assert_eq!(parts("u:app:^gc").2, usdt(NamePattern::any(), regex("^gc")));
    assert_eq!(parts("u:app:python:^gc").2, usdt(exact("python"), regex("^gc")));
}

#[test]
fn regex_syntax_reports_columns_of_the_text() {
    let message = |text: &str| format!("{:#}", parse_as(text, PatternSyntax::Regex).unwrap_err());
    assert!(
        message("app:(").starts_with("failed to parse \"app:(\": invalid regular expression at column 5: ")
    );
    assert!(message("app:").contains("missing function at column 5"));
}

/// Specs, and parts of their messages.
const MESSAGES: [(&str, &str); 23] = [
    (
        "",
        r#"failed to parse "": missing function at column 1; write TARGET:FUNCTION"#,
    ),
    (
        "libc:",
        r#"failed to parse "libc:": missing function at column 6; write TARGET:FUNCTION"#,
    ),
    (
        "é:",
        r#"failed to parse "é:": missing function at column 3; write TARGET:FUNCTION"#,
    ),
    ("libc::", "missing function at column 7; write TARGET:FUNCTION"),
    ("::malloc", "unexpected colon at column 2; write TARGET:FUNCTION"),
    (
        "/usr/bin/app",
        r#""/usr/bin/app" is a path and needs a function; write /usr/bin/app:FUNCTION"#,
    ),
    (
        "r:./app",
        r#""./app" is a path and needs a function; write ./app:FUNCTION"#,
    ),
    (
        "libc:0x",
        r#""0x" at column 6 is not an address; write it as 0x1234"#,
    ),
    ("libc:0x12345678123456789", "is not an address"),
    ("libc:0x+5", "is not an address"),
    (
        "libc:malloc+",
        r#""" at column 13 is not a number of bytes; write NAME+0x10 or NAME+16"#,
    ),
    (
        "libc:malloc+ten",
        r#""ten" at column 13 is not a number of bytes"#,
    ),
    ("libc:malloc+0x", "is not a number of bytes"),
    ("libc:malloc+99999999999999999999", "is not a number of bytes"),
    ("libc:+16", "missing function at column 6"),
    (
        "libc:mem*+16",
        "an offset needs an exact name, and mem* is a pattern",
    ),
    (
        "libc:/mem",
        "unterminated regular expression at column 6; write it between slashes: /^mem/",
    ),
    ("libc://", "unterminated"),
    ("libc:/(/", "invalid regular expression at column 7: "),
    (
        "u:",
        "missing name at column 3; write usdt:TARGET:PROVIDER:NAME or usdt:TARGET:NAME",
    ),
    ("usdt:python3:", "missing name at column 14"),
    ("usdt:python3:python:", "missing name at column 21"),
    (
        "usdt:a:b:c:d",
        "too many parts at column 11; write usdt:TARGET:PROVIDER:NAME or usdt:TARGET:NAME",
    ),
];

#[test]
fn messages_say_what_is_wrong_and_what_to_write() {
    for (text, expected) in MESSAGES {
        let message = message(text);
        assert!(message.contains(expected), "{text}: {message}");
        assert!(message.starts_with("failed to parse \""), "{message}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
    assert!(!message("\x1b[2J:").contains('\x1b'));
}

#[test]
fn list_without_function_means_all() {
    let libc = || Some("libc".to_owned());
    let list = |text: &str| {
        let spec = parse_list(text).unwrap();
        (spec.target, spec.subject)
    };
    assert_eq!(list("libc"), (libc(), function(NamePattern::any())));
    assert_eq!(list("/usr/bin/app").0.as_deref(), Some("/usr/bin/app"));
    assert_eq!(list("libc:mem*"), (libc(), function(glob("mem*"))));
    assert_eq!(list(":mem*"), (None, function(glob("mem*"))));
    assert_eq!(
        list("u:libc"),
        (libc(), usdt(NamePattern::any(), NamePattern::any()))
    );
    assert_eq!(
        list("u:libc:memory*"),
        (libc(), usdt(NamePattern::any(), glob("memory*")))
    );
    assert_eq!(list(r"a\:b").0.as_deref(), Some("a:b"));
    assert!(parse_list("").is_err() && parse_list("libc:").is_err() && parse_list("u:").is_err());
}

#[test]
fn glob_matching() {
    for (glob, name) in [
        ("*", ""),
        ("*", "malloc"),
        ("mal*", "mal"),
        ("*loc", "malloc"),
        ("m*l*c", "malloc"),
        ("?alloc", "malloc"),
        ("*?", "é"),
        ("g?del", "gödel"),
        ("*aab", "aaaab"),
        ("**a", "a"),
        ("f(char*)", "f(char const*)"),
        ("[ab]*", "ab"),
    ] {
        assert!(self::glob(glob).matches(name), "{glob} {name}");
    }
    for (glob, name) in [
        ("", "a"),
        ("?", ""),
        ("??", "é"),
        ("*???", "é"),
        ("mal", "malloc"),
        ("*lo", "malloc"),
        ("m*x*c", "malloc"),
        ("a[b]*", "a[b]c"),
    ] {
        assert!(!self::glob(glob).matches(name), "{glob} {name}");
    }
}

#[test]
fn matching_time_is_bounded() {
    let name = "a".repeat(20_000);
    assert!(!glob(&("a*".repeat(30) + "b")).matches(&name));
    assert!(!regex("(a|a)*(a|a)*(a|a)*b$").matches(&name[..500]));
}

/// Pseudo-random numbers, the same in every run.
struct TestRandom(u64);

impl TestRandom {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }
}

/// A name without characters of patterns, a pattern as it is.
fn escaped(name: &NamePattern) -> String {
    let Some(exact) = name.exact() else {
        return name.to_string();
    };
    let special = |char| ['*', '?', '[', '{', '\\', ':', '/'].contains(&char);
    let escape = |char| match special(char) {
        true => format!("\\{char}"),
        false => char.to_string(),
    };
    exact.chars().map(escape).collect()
}

/// A text with the same meaning.
fn written(spec: &ProbeSpec) -> String {
    let target = spec.target.as_deref().unwrap_or_default();
    let target = target.replace('\\', r"\\").replace(':', r"\:");
    let prefix = match (&spec.subject, spec.moment) {
        (ProbeSubject::Usdt { .. }, _) => "usdt:",
        (_, ProbeMoment::Any) => "",
        (_, ProbeMoment::Entry) => "p:",
        (_, ProbeMoment::Return) => "r:",
    };
    // Otherwise a target such as `p` would be a prefix.
    let dot = if prefix.is_empty() && ["p", "r", "u", "uprobe", "uretprobe", "usdt"].contains(&&*target) {
        "\\"
    } else {
        ""
    };
    let what = match &spec.subject {
        ProbeSubject::Function { name, offset: 0 } => escaped(name),
        ProbeSubject::Function { name, offset } => format!("{}+{offset:#x}", escaped(name)),
        ProbeSubject::Address(address) => format!("{address:#x}"),
        ProbeSubject::Usdt { provider, name } => format!("{}:{}", escaped(provider), escaped(name)),
    };
    format!("{prefix}{dot}{target}:{what}")
}

#[test]
fn parsed_specs_round_trip() {
    const SEEDS: [&str; 8] = [
        "p:libc:malloc+0x10",
        "r:/usr/bin/a\\:b:net::Proxy::read(int)",
        "usdt:python3:python:gc__*",
        "app:/^mem(cpy|set)$/",
        "app:0x1234",
        "u:x:?",
        "a::operator+",
        "é:ß*",
    ];
    const PIECES: [&str; 20] = [
        ":", "::", "\\", "+", "0x", "*", "?", "/", "p:", "usdt:", "u", "9", "f", " ", "é", "\0", "operator",
        "(", "[", "+0x1",
    ];
    let mut dice = TestRandom(1);
    let mut parsed = 0;
    for round in 0..40_000 {
        let mut text: Vec<char> = SEEDS[round % SEEDS.len()].chars().collect();
        for _ in 0..1 + dice.roll(4) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(3) {
                0 if at < text.len() => drop(text.remove(at)),
                1 => text.truncate(at),
                _ => drop(text.splice(at..at, PIECES[dice.roll(PIECES.len())].chars())),
            }
        }
        let text: String = text.into_iter().collect();
        let _ = parse_list(&text);
        let Ok(spec) = parse(&text) else {
            assert_eq!(message(&text).lines().count(), 1, "{text:?}");
            continue;
        };
        parsed += 1;
        let text = written(&spec);
        let again = parse(&text).unwrap_or_else(|error| panic!("{text:?} of {spec:?}: {error}"));
        assert_eq!(again, ProbeSpec { text, ..spec.clone() });
    }
    assert!(parsed > 10_000, "{parsed}");
}

#[test]
fn paths_of_existing_files_may_have_colons() {
    let dir = std::env::temp_dir().join(format!("find-spec-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["a b:c+d", "x:y:z"] {
        let path = dir.join(name);
        std::fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap().to_owned();
        let target = Some(path.clone());
        let (_, found, subject) = parts(&format!("{path}:work"));
        assert_eq!((found, subject), (target.clone(), function(exact("work"))));
        let (_, found, subject) = parts(&format!("{path}:ns::work"));
        assert_eq!((found, subject), (target.clone(), function(exact("ns::work"))));
        let usdt_probe = parts(&format!("usdt:{path}:p:n")).1;
        assert_eq!(usdt_probe, target);
        assert_eq!(parse_list(&path).unwrap().target, target);
        let quoted = parse_list(&format!("'{path}':work")).unwrap();
        assert_eq!((quoted.target, quoted.subject), (target, function(exact("work"))));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
