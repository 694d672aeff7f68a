// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

fn structure(bytes: u64, scalars: &[(u64, u64, bool)]) -> TypeLayout {
    let scalars = scalars.iter().map(|&(offset, bytes, float)| ScalarField {
        offset,
        bytes,
        float,
        x87: false,
    });
    TypeLayout {
        bytes,
        align: 8,
        scalars: scalars.collect(),
        ..TypeLayout::default()
    }
}

fn registers(numbers: &[u8]) -> ValueLocation {
    ValueLocation::Pieces(
        numbers
            .iter()
            .map(|&number| LocationPiece::Argument(number))
            .collect(),
    )
}

fn stack(offsets: &[u64]) -> ValueLocation {
    ValueLocation::Pieces(
        offsets
            .iter()
            .map(|&offset| LocationPiece::Stack(offset))
            .collect(),
    )
}

#[test]
fn integers_and_floats_use_separate_registers() {
    let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
    assert_eq!(x86.next(&TypeLayout::scalar(4, false)), registers(&[0]));
    assert_eq!(
        x86.next(&TypeLayout::scalar(8, true)),
        ValueLocation::Unavailable(IN_FLOAT)
    );
    assert_eq!(x86.next(&TypeLayout::scalar(16, false)), registers(&[1, 2]));
    assert_eq!(x86.next(&TypeLayout::scalar(16, true)), stack(&[8, 16]));
    assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[3]));
}

#[test]
fn arguments_beyond_the_registers_are_on_the_stack() {
    let pair = structure(16, &[(0, 8, false), (8, 8, false)]);
    let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
    let mut arm = ArgumentAllocator::new(MachineAbi::Aarch64);
    for number in 0..5 {
        assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[number]));
    }
    for number in 0..7 {
        assert_eq!(arm.next(&TypeLayout::scalar(8, false)), registers(&[number]));
    }
    // x86-64 uses the last register for a later argument, arm64 does not.
    assert_eq!(x86.next(&pair), stack(&[8, 16]));
    assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[5]));
    assert_eq!(x86.next(&TypeLayout::scalar(1, false)), stack(&[24]));
    assert_eq!(arm.next(&pair), stack(&[0, 8]));
    assert_eq!(arm.next(&TypeLayout::scalar(8, false)), stack(&[16]));
}

#[test]
fn floats_after_the_eighth_are_on_the_stack() {
    for (machine, first) in [(MachineAbi::X86_64, 8), (MachineAbi::Aarch64, 0)] {
        let mut arguments = ArgumentAllocator::new(machine);
        for _ in 0..8 {
            assert_eq!(
                arguments.next(&TypeLayout::scalar(8, true)),
                ValueLocation::Unavailable(IN_FLOAT)
            );
        }
        assert_eq!(arguments.next(&TypeLayout::scalar(8, true)), stack(&[first]));
        assert_eq!(arguments.next(&TypeLayout::scalar(8, false)), registers(&[0]));
    }
}

#[test]
fn structures_are_split_or_passed_by_address() {
    let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
    let mixed = structure(16, &[(0, 8, true), (8, 4, false)]);
    let floats = structure(12, &[(0, 4, true), (4, 4, true), (8, 4, true)]);
    let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
    assert_eq!(x86.next(&large), stack(&[8, 16, 24]));
    assert_eq!(x86.next(&mixed), ValueLocation::Unavailable(IN_FLOAT));
    assert_eq!(x86.next(&floats), ValueLocation::Unavailable(IN_FLOAT));
    assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[1]));

    let mut arm = ArgumentAllocator::new(MachineAbi::Aarch64);
    assert_eq!(
        arm.next(&large),
        ValueLocation::Indirect(LocationPiece::Argument(0))
    );
    assert_eq!(arm.next(&mixed), registers(&[1, 2]));
    assert_eq!(arm.next(&floats), ValueLocation::Unavailable(IN_FLOAT));
    assert_eq!(arm.next(&TypeLayout::scalar(16, false)), registers(&[4, 5]));
}

#[test]
fn result_in_memory_takes_an_argument_register() {
    let large = structure(24, &[(0, 8, false)]);
    let class = TypeLayout {
        by_reference: true,
        ..structure(8, &[(0, 8, false)])
    };
    for (layout, machine, first) in [
        (&large, MachineAbi::X86_64, 1),
        (&class, MachineAbi::X86_64, 1),
        (&large, MachineAbi::Aarch64, 0),
        (&TypeLayout::scalar(16, true), MachineAbi::X86_64, 0),
        (&TypeLayout::scalar(8, false), MachineAbi::X86_64, 0),
    ] {
        let mut arguments = ArgumentAllocator::new(machine);
        arguments.result(layout);
        assert_eq!(
            arguments.next(&class),
            ValueLocation::Indirect(LocationPiece::Argument(first))
        );
    }
}

#[test]
fn empty_classes_take_a_register_on_arm64_only() {
    let next = TypeLayout::scalar(8, false);
    for (bytes, machine, taken) in [
        (1, MachineAbi::X86_64, 0),
        (2, MachineAbi::X86_64, 0),
        (1, MachineAbi::Aarch64, 1),
        (2, MachineAbi::Aarch64, 1),
        (0, MachineAbi::Aarch64, 0),
    ] {
        let mut arguments = ArgumentAllocator::new(machine);
        let empty = arguments.next(&structure(bytes, &[]));
        assert_eq!(empty.is_nowhere(), taken == 0, "{bytes} {machine:?}");
        assert_eq!(arguments.next(&next), registers(&[taken]), "{bytes} {machine:?}");
        // One with a copy constructor has an address.
        let class = TypeLayout {
            by_reference: true,
            ..structure(bytes, &[])
        };
        let address = ValueLocation::Indirect(LocationPiece::Argument(taken + 1));
        assert_eq!(arguments.next(&class), address, "{bytes} {machine:?}");
    }
}

#[test]
fn results_are_in_two_registers_or_in_memory() {
    let registers = |numbers: &[u16]| {
        ValueLocation::Pieces(
            numbers
                .iter()
                .map(|&number| LocationPiece::Register(number))
                .collect(),
        )
    };
    let behind = ValueLocation::Indirect(LocationPiece::Register(0));
    let pair = structure(16, &[(0, 8, false), (8, 8, false)]);
    let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
    let small = structure(8, &[(0, 4, false), (4, 4, false)]);
    let class = TypeLayout {
        by_reference: true,
        ..structure(8, &[(0, 8, false)])
    };
    let float = ValueLocation::Unavailable(IN_FLOAT);
    let lost = ValueLocation::Unavailable(RESULT_IN_MEMORY);
    let scalar = TypeLayout::scalar;
    let (new, rust) = (ArgumentAllocator::new, ArgumentAllocator::rust);
    let (x86, arm) = (MachineAbi::X86_64, MachineAbi::Aarch64);
    for (arguments, layout, expected) in [
        (ArgumentAllocator::new(x86), &scalar(4, false), registers(&[0])),
        (ArgumentAllocator::new(arm), &scalar(4, false), registers(&[0])),
        (new(x86), &pair, registers(&[0, 1])),
        (new(arm), &pair, registers(&[0, 1])),
        (new(x86), &large, behind.clone()),
        (ArgumentAllocator::new(arm), &large, lost.clone()),
        (new(x86), &class, behind.clone()),
        (ArgumentAllocator::new(arm), &class, lost.clone()),
        (new(x86), &scalar(8, true), float.clone()),
        (new(arm), &scalar(8, true), float.clone()),
        (new(x86), &scalar(16, true), float.clone()),
        (rust(x86), &pair, registers(&[0, 1])),
        (
            ArgumentAllocator::rust(x86),
            &small,
            ValueLocation::Unavailable(SCATTERED),
        ),
        (rust(x86), &large, behind),
        (ArgumentAllocator::rust(arm), &large, lost.clone()),
    ] {
        assert_eq!(
            arguments.clone().result(layout),
            expected,
            "{arguments:?} {layout:?}"
        );
    }
}

#[test]
fn go_returns_words_in_its_own_registers() {
    let pieces = |numbers: &[u16]| {
        ValueLocation::Pieces(
            numbers
                .iter()
                .map(|&number| LocationPiece::Register(number))
                .collect(),
        )
    };
    let text = structure(16, &[(0, 8, false), (8, 8, false)]);
    let small = structure(8, &[(0, 4, false), (4, 4, false)]);
    let four = structure(
        32,
        &[(0, 8, false), (8, 8, false), (16, 8, false), (24, 8, false)],
    );
    for (layout, x86, arm) in [
        (&TypeLayout::scalar(4, false), pieces(&[0]), pieces(&[0])),
        (&text, pieces(&[0, 3]), pieces(&[0, 1])),
        (
            &small,
            ValueLocation::Unavailable(SCATTERED),
            ValueLocation::Unavailable(SCATTERED),
        ),
        (
            &four,
            ValueLocation::Unavailable(SCATTERED),
            ValueLocation::Unavailable(SCATTERED),
        ),
        (
            &TypeLayout::scalar(8, true),
            ValueLocation::Unavailable(IN_FLOAT),
            ValueLocation::Unavailable(IN_FLOAT),
        ),
    ] {
        assert_eq!(go_result(MachineAbi::X86_64, layout), x86, "{layout:?}");
        assert_eq!(go_result(MachineAbi::Aarch64, layout), arm, "{layout:?}");
    }
}

#[test]
fn rust_passes_pairs_as_two_arguments() {
    // In the order of the source, which is not that in memory.
    let text = structure(16, &[(8, 8, false), (0, 8, false)]);
    let small = structure(8, &[(4, 1, false), (0, 4, false)]);
    let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
    let mut rust = ArgumentAllocator::rust(MachineAbi::X86_64);
    rust.result(&large);
    assert_eq!(rust.next(&text), registers(&[1, 2]));
    assert_eq!(rust.next(&small), ValueLocation::Unavailable(SCATTERED));
    assert_eq!(
        rust.next(&large),
        ValueLocation::Indirect(LocationPiece::Argument(5))
    );
    assert_eq!(rust.next(&text), stack(&[8, 16]));
}

#[test]
fn rust_passes_what_is_not_a_scalar_or_a_pair_as_bytes() {
    let array = |bytes, scalars| TypeLayout {
        has_array: true,
        ..structure(bytes, scalars)
    };
    let address = |number| ValueLocation::Indirect(LocationPiece::Argument(number));
    let behind = ValueLocation::Indirect(LocationPiece::Register(0));
    for (layout, expected, result) in [
        // (u64, u8, u16), [u64; 2], and a pair with a gap
        (
            structure(16, &[(0, 8, false), (10, 1, false), (8, 2, false)]),
            address(0),
            Some(&behind),
        ),
        (
            array(16, &[(0, 8, false), (8, 8, false)]),
            address(0),
            Some(&behind),
        ),
        (
            structure(32, &[(0, 8, false), (8, 8, false)]),
            address(0),
            Some(&behind),
        ),
        // (u8, u8, u8), [f32; 2], [f64; 1]
        (
            structure(3, &[(0, 1, false), (1, 1, false), (2, 1, false)]),
            registers(&[0]),
            None,
        ),
        (array(8, &[(0, 4, true), (4, 4, true)]), registers(&[0]), None),
        (array(8, &[(0, 8, true)]), registers(&[0]), None),
        (
            TypeLayout::scalar(8, true),
            ValueLocation::Unavailable(IN_FLOAT),
            None,
        ),
        (
            structure(8, &[(0, 4, true), (4, 4, true)]),
            ValueLocation::Unavailable(IN_FLOAT),
            None,
        ),
        (TypeLayout::scalar(16, false), registers(&[0, 1]), None),
    ] {
        let mut rust = ArgumentAllocator::rust(MachineAbi::X86_64);
        assert_eq!(rust.next(&layout), expected, "{layout:?}");
        let location = ArgumentAllocator::rust(MachineAbi::X86_64).result(&layout);
        assert_eq!(location == behind, result.is_some(), "{layout:?} {location:?}");
    }
}

#[test]
fn rust_does_not_split_integers_of_two_words() {
    let mut rust = ArgumentAllocator::rust(MachineAbi::X86_64);
    for number in 0..5 {
        assert_eq!(rust.next(&TypeLayout::scalar(8, false)), registers(&[number]));
    }
    assert_eq!(rust.next(&TypeLayout::scalar(16, false)), stack(&[8, 16]));
    assert_eq!(rust.next(&TypeLayout::scalar(8, false)), registers(&[5]));
}

#[test]
fn impossible_sizes_do_not_overflow() {
    for machine in [MachineAbi::X86_64, MachineAbi::Aarch64] {
        let mut arguments = ArgumentAllocator::new(machine);
        let huge = structure(u64::MAX, &[(0, 8, false)]);
        for _ in 0..20 {
            let location = arguments.next(&huge);
            assert!(
                matches!(
                    location,
                    ValueLocation::Unavailable(TOO_LARGE) | ValueLocation::Indirect(_)
                ),
                "{location:?}"
            );
        }
        arguments.next(&TypeLayout::scalar(16, false));
    }
}

#[test]
fn words_of_nothing_take_no_register() {
    let value = |scalars| structure(16, scalars);
    let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
    let pieces = |pieces: &[LocationPiece]| ValueLocation::Pieces(pieces.to_vec());
    let (first, second) = (LocationPiece::Argument(0), LocationPiece::Argument(1));
    let nothing = LocationPiece::Constant(0);
    assert_eq!(
        x86.result(&value(&[(0, 8, false)])),
        pieces(&[LocationPiece::Register(0), nothing])
    );
    assert_eq!(x86.next(&value(&[(0, 8, false)])), pieces(&[first, nothing]));
    assert_eq!(x86.next(&value(&[(8, 4, false)])), pieces(&[nothing, second]));
    assert_eq!(
        x86.next(&value(&[(0, 8, true)])),
        ValueLocation::Unavailable(IN_FLOAT)
    );
    assert_eq!(x86.next(&TypeLayout::scalar(4, false)), registers(&[2]));
    for number in 3..6 {
        assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[number]));
    }
    assert_eq!(x86.next(&value(&[(0, 8, false)])), stack(&[8, 16]));
}

#[test]
fn vectors_take_one_register() {
    let vector = structure(16, &[(0, 16, true)]);
    for machine in [MachineAbi::X86_64, MachineAbi::Aarch64] {
        let mut arguments = ArgumentAllocator::new(machine);
        for _ in 0..8 {
            assert_eq!(arguments.next(&vector), ValueLocation::Unavailable(IN_FLOAT));
        }
        assert_eq!(arguments.next(&TypeLayout::scalar(4, false)), registers(&[0]));
        assert!(matches!(arguments.next(&vector), ValueLocation::Pieces(pieces) if pieces.len() == 2));
    }
    // In a union with an integer, the two halves have different classes.
    let either = structure(16, &[(0, 16, true), (0, 4, false)]);
    let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
    assert_eq!(x86.next(&either), ValueLocation::Unavailable(IN_FLOAT));
    assert_eq!(x86.next(&TypeLayout::scalar(4, false)), registers(&[1]));
}

#[test]
fn complex_long_doubles_are_returned_in_registers() {
    let part = |offset| ScalarField {
        offset,
        ..TypeLayout::scalar(16, true).scalars[0]
    };
    let complex = TypeLayout {
        bytes: 32,
        align: 16,
        scalars: vec![part(0), part(16)],
        is_complex: true,
        ..TypeLayout::default()
    };
    let structure = TypeLayout {
        is_complex: false,
        ..complex.clone()
    };
    for (layout, first) in [(&complex, 0), (&structure, 1)] {
        let mut x86 = ArgumentAllocator::new(MachineAbi::X86_64);
        x86.result(layout);
        assert_eq!(x86.next(&TypeLayout::scalar(8, false)), registers(&[first]));
        assert_eq!(x86.next(layout), stack(&[8, 16, 24, 32]));
    }
}

#[test]
fn stack_arguments_are_aligned() {
    let aligned = |align| TypeLayout {
        align,
        ..structure(64, &[])
    };
    let start = |location| match location {
        ValueLocation::Pieces(pieces) => pieces.first().copied(),
        _ => None,
    };
    for (machine, align, expected) in [
        (MachineAbi::X86_64, 8, 8 + 8),
        (MachineAbi::X86_64, 16, 8 + 16),
        (MachineAbi::X86_64, 32, 8 + 32),
    ] {
        let mut arguments = ArgumentAllocator::new(machine);
        for _ in 0..7 {
            arguments.next(&TypeLayout::scalar(8, false));
        }
        assert_eq!(
            start(arguments.next(&aligned(align))),
            Some(LocationPiece::Stack(expected))
        );
    }
}
