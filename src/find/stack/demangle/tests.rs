// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

#[test]
fn cpp_and_rust_names_are_demangled() {
    assert_eq!(demangle("_ZN3net5Proxy4readEi"), "net::Proxy::read(int)");
    assert_eq!(
        demangle("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
        "core::fmt::Write::write_fmt"
    );
    assert_eq!(demangle("_RNvC6_123foo3bar"), "123foo::bar");
}

#[test]
fn template_constructors_keep_their_first_parameter() {
    for (mangled, full, bare) in [
        ("_ZN1AC1IiEEPKcRKT_", "A::A<int>(char const*, int const&)", "A::A"),
        (
            "_ZN2ns3BoxIlEC2IiEET_l",
            "ns::Box<long>::Box<int>(int, long)",
            "ns::Box<long>::Box",
        ),
        ("_ZN1AC1IJilEEEDpT_", "A::A<int, long>(int, long)", "A::A"),
        ("_ZN1A1fIiEEvPKc", "void A::f<int>(char const*)", "A::f"),
    ] {
        assert_eq!(demangle(mangled), full);
        let readable = ReadableName::new(mangled).unwrap();
        assert_eq!((&*readable.full, readable.bare()), (full, bare));
    }
}

#[test]
fn thunks_are_named_as_such() {
    for (mangled, full, short) in [
        (
            "_ZThn16_N1C1gEi",
            "non-virtual thunk to C::g(int)",
            "non-virtual thunk to C::g",
        ),
        (
            "_ZTv0_n24_N1D1hEi",
            "virtual thunk to D::h(int)",
            "virtual thunk to D::h",
        ),
        (
            "_ZTch0_h16_N1C1gEi",
            "covariant return thunk to C::g(int)",
            "covariant return thunk to C::g",
        ),
    ] {
        assert_eq!(demangle(mangled), full);
        assert_eq!(ReadableName::new(mangled).unwrap().short, short);
    }
}

#[test]
fn readable_forms() {
    for (mangled, full, short, bare) in [
        (
            "_ZN3net5Proxy4readEi",
            "net::Proxy::read(int)",
            "net::Proxy::read",
            "net::Proxy::read",
        ),
        ("_Z3maxIiET_S0_S0_", "int max<int>(int, int)", "max<int>", "max"),
        (
            "_ZN1AcvbEv",
            "A::operator bool()",
            "A::operator bool",
            "A::operator bool",
        ),
        ("_ZNKR1A3refEv", "A::ref() const &", "A::ref", "A::ref"),
        ("_ZNO1A4takeEv", "A::take() &&", "A::take", "A::take"),
        ("_ZN1AptEv", "A::operator->()", "A::operator->", "A::operator->"),
        (
            "_ZN1AgtERKS_",
            "A::operator>(A const&)",
            "A::operator>",
            "A::operator>",
        ),
        (
            "_ZN12_GLOBAL__N_11fEv",
            "(anonymous namespace)::f()",
            "(anonymous namespace)::f",
            "(anonymous namespace)::f",
        ),
        (
            "_RNvMC3appNtB2_3Box4open",
            "<app::Box>::open",
            "app::Box::open",
            "app::Box::open",
        ),
        (
            "_RINvC3app3maxlE",
            "app::max::<i32>",
            "app::max::<i32>",
            "app::max",
        ),
    ] {
        let readable = ReadableName::new(mangled).unwrap();
        assert_eq!(
            (&*readable.full, &*readable.short, readable.bare()),
            (full, short, bare)
        );
    }
    assert_eq!(ReadableName::new("main"), None);
    assert_eq!(ReadableName::new("_Znonsense"), None);
}

#[test]
fn other_names_are_unchanged() {
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
fn exploding_name_is_truncated() {
    // Each pair contains the one before it twice: S0_ = pair<int, int>, S1_ = pair<S0_, S0_>, and so on.
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
