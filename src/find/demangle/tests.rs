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

/// Of clang 19, whose constraints other demanglers do not know, and of GCC and clang alike.
#[test]
fn constrained_templates_have_names() {
    for (mangled, full, bare) in [
        (
            "_Z5twiceIiQsr3stdE8integralIT_EES0_S0_",
            "int twice<int>(int)",
            "twice",
        ),
        ("_Z6thriceITkSt8integraliET_S0_", "int thrice<int>(int)", "thrice"),
        ("_Z5trailIiET_S0_QgestS0_Li4E", "int trail<int>(int)", "trail"),
        (
            "_ZN3BoxIiE3getEvQsr3stdE8integralIT_E",
            "Box<int>::get()",
            "Box<int>::get",
        ),
        (
            "_ZN3BoxIiEC2IiQsr3stdE8integralITL0__EEET_",
            "Box<int>::Box<int>(int)",
            "Box<int>::Box",
        ),
        (
            "_ZN3BoxIiEF4sameES0_iQLb1E",
            "Box<int>::same(Box<int>, int)",
            "Box<int>::same",
        ),
        ("_Z4nttpITnDaLc99EEiv", "int nttp<(char)99>()", "nttp"),
        ("_Z2ttITtTpTyESt6vectorEiv", "int tt<std::vector>()", "tt"),
        (
            "_Z3bigIiQaa3BigIT_Entsr3stdE14floating_pointIS0_EEiS0_",
            "int big<int>(int)",
            "big",
        ),
        ("_Z2rrIiQrQT__XplfL0p_fL0p_EEiS0_", "int rr<int>(int)", "rr"),
    ] {
        let readable = ReadableName::new(mangled).unwrap_or_else(|| panic!("{mangled}"));
        assert_eq!((&*readable.full, readable.bare()), (full, bare));
    }
}

#[test]
fn packs_and_parameters_are_those_of_their_template() {
    for (mangled, full) in [
        (
            "_Z4packIJilcEEiDpT_",
            "int pack<int, long, char>(int, long, char)",
        ),
        ("_Z4packIJEEiDpT_", "int pack<>()"),
        (
            "_Z4moveIJiRKcEEvDpOT_",
            "void move<int, char const&>(int&&, char const&)",
        ),
        ("_Z3arrIiLi3EEiRAT0__T_", "int arr<int, 3>(int (&) [3])"),
        (
            "_Z2fpIiJiEET_PDoFS0_DpT0_ES2_",
            "int fp<int, int>(int (*)(int) noexcept, int)",
        ),
        ("_ZN3BoxIiEcvT_IlEEv", "Box<int>::operator long<long>()"),
        ("_Z2dtIiEDTplfp_Li1EET_", "decltype({parm#1}+(1)) dt<int>(int)"),
        ("_ZNSt6bitsetILm8EE4flipEv", "std::bitset<8ul>::flip()"),
        (
            "_ZNKSt4base3endERNS_5entryE",
            "std::base::end(std::base::entry&) const",
        ),
        ("_Zli3_kgy", "operator\"\" _kg(unsigned long long)"),
        // In a lambda, a parameter is of the lambda; the same code behind it is of the function around.
        (
            "_Z4callIZ5outeriEUlT_E_Z5outeriEUlS0_E0_EiS0_T0_",
            "int call<outer(int)::{lambda(auto:1)#1}, outer(int)::{lambda(auto:1)#2}>\
             (outer(int)::{lambda(auto:1)#1}, outer(int)::{lambda(auto:1)#2})",
        ),
        (
            "_ZZ3runIiEvT_ENKUlvE_clEv",
            "run<int>(int)::{lambda()#1}::operator()() const",
        ),
        (
            "_Z1fi.constprop.0.isra.1",
            "f(int) [clone .constprop.0] [clone .isra.1]",
        ),
    ] {
        assert_eq!(demangle(mangled), full);
    }
    let readable = ReadableName::new("_Z4packIJilcEEiDpT_").unwrap();
    assert_eq!(
        readable.without_return_type(),
        "pack<int, long, char>(int, long, char)"
    );
    assert_eq!(
        ReadableName::new("_ZZ4mainENKUliE_clEi").unwrap().short,
        "main::{lambda(int)#1}::operator()"
    );
}

/// Damaged names are refused or written, but nothing panics, recurses without end or takes long.
#[test]
fn damaged_names_are_survived() {
    let names = [
        "_ZNKSt6ranges5views9__adaptor8_PartialINS0_7_FilterEJZ4mainE3$_3EEclIRSt6vectorIiSaIiEEQ19__adaptor_invocableIT_TL0__RKT0_EEEDaOSB_",
        "_ZTch0_h16_N1C1gEi",
        "_Z4callIZ5outeriEUlT_E_Z5outeriEUlS0_E0_EiS0_T0_.isra.0",
        "_Z2rrIiQrQT__XplfL0p_fL0p_EEiS0_",
        "_ZNSt5tupleIJONSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEEEC2IJS5_ELb1ETnNSt9enable_ifIXclsr4_TCCIXT0_EEE29__is_implicitly_constructibleIDpT_EEEbE4typeELb1EEEDpOSA_",
    ];
    let alphabet = "_NZEISTKPROFAMDJLXQstlpiv0159\u{e9}";
    for name in names {
        for at in 2..name.len() {
            demangle(&name[..at]);
            for piece in alphabet.chars() {
                demangle(&format!("{}{piece}{}", &name[..at], &name[at..]));
                demangle(&format!("{}{piece}{}", &name[..at], &name[at + 1..]));
            }
        }
    }
    for repeated in ["P", "N", "I", "Z", "DpT_", "XT", "F", "cv", "U1a", "St", "sr"] {
        demangle(&format!("_Z1fI{}", repeated.repeat(100_000)));
        demangle(&format!("_Z1f{}", repeated.repeat(100_000)));
    }
}
