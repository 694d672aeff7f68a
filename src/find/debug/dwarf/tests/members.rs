// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Members of structures that are not whole numbers: arrays and bit-fields.

use super::*;
use crate::find::debug::types::BitField;

const MEMBERS: &str = "
struct parts {
    int grid[2][3]; char name[5]; unsigned char bytes[4]; struct { short x; } points[7]; double none[0];
    unsigned a : 3; int b : 29; unsigned long c : 40; long d : 24; _Bool e : 1; char rest[];
};
__attribute__((noinline)) int take(struct parts *parts, double x) { return parts->a + x; }
struct mixed { double x; int b : 3; };
__attribute__((noinline)) int mixed(struct mixed mixed, int more) { return mixed.b + more; }
int main(void) { static struct parts parts; struct mixed one = {1, 2}; return take(&parts, 1) + mixed(one, 2); }
";

fn array_text(ty: &ValueType) -> String {
    match &ty.kind {
        TypeKind::Array { of, count } => format!("{count} x {}", array_text(of)),
        TypeKind::Struct(_) => "struct".to_owned(),
        _ => ty.name.to_string(),
    }
}

#[test]
fn arrays_and_bit_fields_have_types_and_places() {
    let dir = TestDir::new("members");
    for (compiler, options) in [
        ("gcc", ["-gdwarf-5", "-O1"]),
        ("gcc", ["-gdwarf-4", "-O1"]),
        ("gcc", ["-gdwarf-3", "-gstrict-dwarf"]),
        ("clang", ["-gdwarf-5", "-O1"]),
        ("clang", ["-gdwarf-3", "-O1"]),
    ] {
        let Some(program) = dir.compile(compiler, &options, MEMBERS) else {
            continue;
        };
        let info = open(&program);
        let take = signature(&info, &program, "take");
        let TypeKind::Pointer(Some(parts)) = &take.params[0].ty.kind else {
            panic!("{:?}", take.params[0]);
        };
        let TypeKind::Struct(members) = &parts.kind else {
            panic!("{parts:?}");
        };
        let arrays: Vec<String> = members
            .iter()
            .filter(|member| matches!(member.ty.kind, TypeKind::Array { .. }))
            .map(|member| format!("{} {} {}", member.offset, member.name, array_text(&member.ty)))
            .collect();
        let what = format!("{compiler} {options:?}");
        assert_eq!(
            arrays,
            [
                "0 grid 2 x 3 x int",
                "24 name 5 x char",
                "29 bytes 4 x unsigned char",
                "34 points 7 x struct",
                "48 none 0 x double",
                "65 rest 0 x char",
            ],
            "{what}"
        );
        let fields: Vec<(&str, u64, BitField)> = members
            .iter()
            .filter_map(|member| Some((&*member.name, member.offset, member.bits?)))
            .collect();
        let bits = |shift, width| BitField { shift, width };
        assert_eq!(
            fields,
            [
                ("a", 48, bits(0, 3)),
                ("b", 48, bits(3, 29)),
                ("c", 56, bits(0, 40)),
                ("d", 56, bits(40, 24)),
                ("e", 64, bits(0, 1)),
            ],
            "{what}"
        );
        // The number beside the bit-field is in a floating-point register.
        let mixed = signature(&info, &program, "mixed");
        assert_eq!(shown(&mixed)[1], "int more @ arg1", "{what}");
    }
}

#[test]
fn bit_fields_keep_their_sign() {
    let field = |shift, width| BitField { shift, width };
    assert_eq!(field(3, 5).of(0xff, false), 0x1f);
    assert_eq!(field(3, 5).of(0xff, true), u64::MAX);
    assert_eq!(field(0, 64).of(u64::MAX - 1, true), u64::MAX - 1);
    assert_eq!(field(63, 1).of(1 << 63, false), 1);
    // No compiler writes these.
    for (shift, width) in [(255, 255), (0, 0), (64, 1), (200, 3)] {
        field(shift, width).of(u64::MAX, true);
        field(shift, width).of(u64::MAX, false);
    }
}

#[test]
fn positive_numbers_in_a_byte_stay_positive() {
    const SOURCE: &str = "
enum large { SMALL = 1, LARGE = 200, LARGER = 40000 };
enum negative { MINUS = -3, PLUS = 200 };
__attribute__((noinline)) void take(enum large a, enum negative b) { asm volatile(\"\" : : \"r\"(a), \"r\"(b)); }
static __attribute__((noinline)) int always(int number, int other) { asm volatile(\"\"); return number + other; }
int main(int argc, char **argv) { take(LARGE, PLUS); return always(200, argc) + always(200, argc + 1); }
";
    let dir = TestDir::new("positive");
    for compiler in ["gcc", "clang"] {
        let Some(program) = dir.compile(compiler, &["-g", "-O2"], SOURCE) else {
            continue;
        };
        let info = open(&program);
        let take = signature(&info, &program, "take");
        let values: Vec<Vec<i64>> = take
            .params
            .iter()
            .map(|param| match &param.ty.kind {
                TypeKind::Enum { values, .. } => values.iter().map(|(value, _)| *value).collect(),
                kind => panic!("{kind:?}"),
            })
            .collect();
        assert_eq!(values, [vec![1, 200, 40000], vec![-3, 200]], "{compiler}");
        if compiler == "gcc" {
            let always = signature(&info, &program, "always.constprop.0");
            assert_eq!(shown(&always)[0], "int number @ =200", "{compiler}");
        }
    }
}

#[test]
fn members_of_base_classes_have_names_of_their_own() {
    const SOURCE: &str = "
struct root { int n; int only; };
struct left : root { int n; };
struct right : root { union { int n; long wide; }; };
struct both : left, right { int n; };
template <int N> struct head { int value; };
struct pair : head<0>, head<1> { };
__attribute__((noinline)) int take(both &one, pair &two, left &three) { asm volatile(\"\"); return one.n + two.head<0>::value + three.n; }
int main() { static both one; static pair two; return take(one, two, one); }
";
    let dir = TestDir::new("bases");
    for compiler in ["g++", "clang++"] {
        let Some(program) = dir.compile(compiler, &["-g", "-O1"], SOURCE) else {
            continue;
        };
        let take = signature(&open(&program), &program, "_Z4take");
        let names = take.params.iter().map(|param| match &param.ty.kind {
            TypeKind::Reference(to) => member_names(to),
            kind => panic!("{kind:?}"),
        });
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "left::root::n left::root::only left::n right::root::n right::root::only right::n wide n",
                "head<0>::value head<1>::value",
                "root::n only n",
            ],
            "{compiler}"
        );
    }
}

fn member_names(ty: &ValueType) -> String {
    match &ty.kind {
        TypeKind::Struct(members) => members
            .iter()
            .map(|member| &*member.name)
            .collect::<Vec<_>>()
            .join(" "),
        kind => panic!("{kind:?}"),
    }
}
