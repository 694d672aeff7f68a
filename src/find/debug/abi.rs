//! Where the calling conventions put the arguments of a function: System V x86-64, AAPCS64 of arm64, and what rustc
//! makes of both for its own functions.

use super::types::{Piece, Place};

const WORD: u64 = 8;
/// Floating-point registers for arguments, on both machines.
const FLOATS: u8 = 8;
/// Longest value that is found on the stack, in bytes: nobody looks at more.
pub const MAX_ON_STACK: u64 = 512;
pub const IN_FLOAT: &str = "in a floating-point register";
pub const SCATTERED: &str = "in pieces of odd sizes";
pub const TOO_LARGE: &str = "too large";
pub const ON_STACK: &str = "on the stack of the caller";
pub const RESULT_IN_MEMORY: &str = "in memory whose address the function does not return";

/// The registers of results by their DWARF numbers, which on both machines are rax and rdx, x0 and x1.
const RESULTS: [u16; 2] = [0, 1];

/// A machine, with its calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    X86_64,
    Aarch64,
}

/// The machine this runs on, which is that of the traced programs.
pub const NATIVE: Machine = if cfg!(target_arch = "x86_64") {
    Machine::X86_64
} else {
    Machine::Aarch64
};

impl Machine {
    fn integers(self) -> u8 {
        match self {
            Machine::X86_64 => 6,
            Machine::Aarch64 => 8,
        }
    }

    /// Where the first argument on the stack is, in bytes above the stack pointer at the function's first instruction.
    pub fn stack_arguments(self) -> u64 {
        match self {
            // The call pushed the return address.
            Machine::X86_64 => WORD,
            Machine::Aarch64 => 0,
        }
    }

    /// The number of the integer argument register that DWARF calls `register`.
    pub fn argument_register(self, register: u16) -> Option<u8> {
        match self {
            // rdi, rsi, rdx, rcx, r8, r9
            Machine::X86_64 => [5, 4, 1, 2, 8, 9].iter().position(|&number| number == register),
            Machine::Aarch64 => (register < 8).then_some(usize::from(register)),
        }
        .and_then(|index| u8::try_from(index).ok())
    }

    /// DWARF's number of the stack pointer.
    pub fn stack_pointer(self) -> u16 {
        match self {
            Machine::X86_64 => 7,
            Machine::Aarch64 => 31,
        }
    }

    /// Whether DWARF calls a floating-point or vector register `register`.
    pub fn is_float(self, register: u16) -> bool {
        match self {
            Machine::X86_64 => (17..=32).contains(&register),
            Machine::Aarch64 => (64..=95).contains(&register),
        }
    }
}

/// What a calling convention asks of a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    pub bytes: u64,
    /// In bytes; 0 if it is not known.
    pub align: u64,
    /// The scalars it is made of, in order; those of a type that is too large for registers may be missing.
    pub leaves: Vec<Leaf>,
    /// A C++ class whose objects cannot be copied as bytes: the caller passes the address of one.
    pub by_reference: bool,
}

/// A scalar, alone or in a structure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leaf {
    pub offset: u64,
    pub bytes: u64,
    pub float: bool,
}

impl Shape {
    /// An integer, a pointer, or a floating-point number.
    pub fn scalar(bytes: u64, float: bool) -> Shape {
        let leaf = Leaf {
            offset: 0,
            bytes,
            float,
        };
        Shape {
            bytes,
            align: bytes,
            leaves: vec![leaf],
            by_reference: false,
        }
    }

    fn words(&self) -> u64 {
        self.bytes.div_ceil(WORD)
    }

    /// Whether no integer lies in that word, so that it goes into a floating-point register.
    fn is_float_word(&self, word: u64) -> bool {
        let (start, end) = (word * WORD, word * WORD + WORD);
        let mut inside = self
            .leaves
            .iter()
            .filter(|leaf| leaf.offset < end && leaf.offset + leaf.bytes > start)
            .peekable();
        inside.peek().is_some() && inside.all(|leaf| leaf.float)
    }

    fn in_x86_memory(&self) -> bool {
        // The x87 numbers are the only scalars with floats longer than a word.
        let unfit = |leaf: &Leaf| (leaf.float && leaf.bytes > WORD) || is_unaligned(leaf);
        self.bytes > 2 * WORD || self.leaves.iter().any(unfit)
    }

    /// One to four floating-point numbers of one size, and nothing else.
    fn is_homogeneous_float(&self) -> bool {
        let same =
            |leaf: &Leaf| leaf.float && self.leaves.first().is_some_and(|first| first.bytes == leaf.bytes);
        let total: u64 = self.leaves.iter().map(|leaf| leaf.bytes).sum();
        (1..=4).contains(&self.leaves.len()) && total == self.bytes && self.leaves.iter().all(same)
    }
}

fn is_unaligned(leaf: &Leaf) -> bool {
    leaf.offset
        .checked_rem(leaf.bytes.min(WORD))
        .is_some_and(|rest| rest != 0)
}

/// The registers and the stack that the arguments so far have taken.
#[derive(Clone, Debug)]
pub struct Arguments {
    machine: Machine,
    rust: bool,
    integers: u8,
    floats: u8,
    /// Bytes on the stack.
    stack: u64,
}

impl Arguments {
    pub fn new(machine: Machine) -> Arguments {
        Arguments {
            machine,
            rust: false,
            integers: 0,
            floats: 0,
            stack: 0,
        }
    }

    /// Those of a function that keeps to Rust's own convention. It is not documented; this is what rustc 1.80 and later do.
    pub fn rust(machine: Machine) -> Arguments {
        Arguments {
            rust: true,
            ..Arguments::new(machine)
        }
    }

    /// Where the result is at the return. Must come before the first argument: on x86-64 the address of a result that
    /// does not fit in registers takes the place of one, and is returned.
    pub fn result(&mut self, shape: &Shape) -> Place {
        let in_memory = match self.machine {
            Machine::Aarch64 => false,
            Machine::X86_64 if self.rust => shape.bytes > 2 * WORD,
            Machine::X86_64 => shape.by_reference || shape.in_x86_memory() && !is_x87(shape),
        };
        if in_memory {
            self.integers += 1;
            return Place::Behind(Piece::Register(RESULTS[0]));
        }
        if self.machine == Machine::X86_64 && is_x87(shape) {
            return Place::Nowhere(IN_FLOAT);
        }
        // What fits in registers is in as many of them as if it were the first argument.
        let mut alike = Arguments {
            rust: self.rust,
            ..Arguments::new(self.machine)
        };
        match alike.next(shape) {
            Place::Pieces(pieces) => {
                let registers = pieces.iter().map(|piece| match piece {
                    Piece::Argument(number) => RESULTS.get(usize::from(*number)).copied(),
                    _ => None,
                });
                match registers.map(|register| register.map(Piece::Register)).collect() {
                    Some(pieces) => Place::Pieces(pieces),
                    None => Place::Nowhere(RESULT_IN_MEMORY),
                }
            }
            Place::Behind(_) => Place::Nowhere(RESULT_IN_MEMORY),
            nowhere => nowhere,
        }
    }

    /// The place of the next argument.
    pub fn next(&mut self, shape: &Shape) -> Place {
        if shape.bytes == 0 || (shape.leaves.is_empty() && shape.bytes == 1) {
            // C++ gives an empty class a size of 1.
            return Place::Pieces(Vec::new());
        }
        if shape.by_reference {
            return Place::Behind(self.word());
        }
        match self.machine {
            _ if self.rust => self.next_rust(shape),
            Machine::X86_64 => self.next_x86_64(shape),
            Machine::Aarch64 => self.next_aarch64(shape),
        }
    }

    fn next_x86_64(&mut self, shape: &Shape) -> Place {
        if shape.in_x86_memory() {
            return self.on_stack(shape);
        }
        let floats = (0..shape.words())
            .filter(|&word| shape.is_float_word(word))
            .count() as u64;
        self.in_registers(shape, shape.words() - floats, floats)
    }

    fn next_aarch64(&mut self, shape: &Shape) -> Place {
        if shape.is_homogeneous_float() {
            let place = self.in_registers(shape, 0, shape.leaves.len() as u64);
            if place != Place::Nowhere(IN_FLOAT) {
                // What follows may not go back to the registers.
                self.floats = FLOATS;
            }
            return place;
        }
        if shape.bytes > 2 * WORD {
            return Place::Behind(self.word());
        }
        if shape.align >= 2 * WORD {
            self.integers = self.integers.next_multiple_of(2);
        }
        let place = self.in_registers(shape, shape.words(), 0);
        if !is_in_registers(&place) {
            self.integers = self.machine.integers();
        }
        place
    }

    fn next_rust(&mut self, shape: &Shape) -> Place {
        if shape.bytes > 2 * WORD {
            return Place::Behind(self.word());
        }
        if let [leaf] = shape.leaves[..]
            && leaf.float
        {
            return self.in_registers(shape, 0, 1);
        }
        if let [first, second] = shape.leaves[..]
            && first.bytes <= WORD
            && second.bytes <= WORD
        {
            return self.next_pair(first, second);
        }
        Place::Pieces((0..shape.words()).map(|_| self.word()).collect())
    }

    /// rustc passes two scalars as if they were two arguments.
    fn next_pair(&mut self, first: Leaf, second: Leaf) -> Place {
        let places = [first, second].map(|leaf| self.next_rust(&Shape::scalar(leaf.bytes, leaf.float)));
        match places {
            [Place::Pieces(mut words), Place::Pieces(more)] if second.offset == WORD => {
                words.extend(more);
                Place::Pieces(words)
            }
            [Place::Pieces(_), Place::Pieces(_)] => Place::Nowhere(SCATTERED),
            _ => Place::Nowhere(IN_FLOAT),
        }
    }

    /// All of it in registers if there are enough, else all of it on the stack.
    fn in_registers(&mut self, shape: &Shape, integers: u64, floats: u64) -> Place {
        let free = (
            self.machine.integers().saturating_sub(self.integers),
            FLOATS - self.floats,
        );
        if integers > u64::from(free.0) || floats > u64::from(free.1) {
            return self.on_stack(shape);
        }
        let words = (0..integers).map(|_| self.word()).collect();
        if floats == 0 {
            return Place::Pieces(words);
        }
        // Not more than there are registers.
        self.floats += floats as u8;
        Place::Nowhere(IN_FLOAT)
    }

    /// The next integer register, or the next word on the stack.
    fn word(&mut self) -> Piece {
        if self.integers < self.machine.integers() {
            self.integers += 1;
            return Piece::Argument(self.integers - 1);
        }
        let at = self.stack;
        self.stack = self.stack.saturating_add(WORD);
        Piece::Stack(self.machine.stack_arguments().saturating_add(at))
    }

    fn on_stack(&mut self, shape: &Shape) -> Place {
        if shape.align >= 2 * WORD {
            self.stack = self.stack.checked_next_multiple_of(2 * WORD).unwrap_or(u64::MAX);
        }
        let start = self.machine.stack_arguments().saturating_add(self.stack);
        self.stack = self.stack.saturating_add(shape.words().saturating_mul(WORD));
        if shape.bytes > MAX_ON_STACK || start.checked_add(MAX_ON_STACK).is_none() {
            return Place::Nowhere(TOO_LARGE);
        }
        Place::Pieces(
            (0..shape.words())
                .map(|word| Piece::Stack(start + word * WORD))
                .collect(),
        )
    }
}

/// Where the first result of a Go function is at the return, in a program whose functions return in registers.
/// See <https://go.dev/s/regabi>.
pub fn go_result(machine: Machine, shape: &Shape) -> Place {
    // rax, rbx, rcx; x0, x1, x2: texts and slices have three words at most.
    let registers: [u16; 3] = match machine {
        Machine::X86_64 => [0, 3, 2],
        Machine::Aarch64 => [0, 1, 2],
    };
    if shape.leaves.iter().any(|leaf| leaf.float) {
        return Place::Nowhere(IN_FLOAT);
    }
    let words = registers.map(Piece::Register);
    let is_word = |(index, leaf): (u64, &Leaf)| leaf.bytes <= WORD && leaf.offset == index * WORD;
    match words.get(..shape.leaves.len()) {
        Some(words) if (0..).zip(&shape.leaves).all(is_word) => Place::Pieces(words.to_vec()),
        _ => Place::Nowhere(SCATTERED),
    }
}

/// A `long double`, which is passed on the stack but returned in a register.
fn is_x87(shape: &Shape) -> bool {
    matches!(shape.leaves[..], [leaf] if leaf.float)
}

fn is_in_registers(place: &Place) -> bool {
    matches!(place, Place::Pieces(pieces) if pieces.iter().all(|piece| matches!(piece, Piece::Argument(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(bytes: u64, leaves: &[(u64, u64, bool)]) -> Shape {
        let leaves = leaves
            .iter()
            .map(|&(offset, bytes, float)| Leaf { offset, bytes, float });
        Shape {
            bytes,
            align: 8,
            leaves: leaves.collect(),
            by_reference: false,
        }
    }

    fn registers(numbers: &[u8]) -> Place {
        Place::Pieces(numbers.iter().map(|&number| Piece::Argument(number)).collect())
    }

    fn stack(offsets: &[u64]) -> Place {
        Place::Pieces(offsets.iter().map(|&offset| Piece::Stack(offset)).collect())
    }

    #[test]
    fn integers_and_floats_are_counted_apart() {
        let mut x86 = Arguments::new(Machine::X86_64);
        assert_eq!(x86.next(&Shape::scalar(4, false)), registers(&[0]));
        assert_eq!(x86.next(&Shape::scalar(8, true)), Place::Nowhere(IN_FLOAT));
        assert_eq!(x86.next(&Shape::scalar(16, false)), registers(&[1, 2]));
        assert_eq!(x86.next(&Shape::scalar(16, true)), stack(&[8, 16]));
        assert_eq!(x86.next(&Shape::scalar(8, false)), registers(&[3]));
    }

    #[test]
    fn what_does_not_fit_goes_to_the_stack() {
        let pair = structure(16, &[(0, 8, false), (8, 8, false)]);
        let mut x86 = Arguments::new(Machine::X86_64);
        let mut arm = Arguments::new(Machine::Aarch64);
        for number in 0..5 {
            assert_eq!(x86.next(&Shape::scalar(8, false)), registers(&[number]));
        }
        for number in 0..7 {
            assert_eq!(arm.next(&Shape::scalar(8, false)), registers(&[number]));
        }
        // x86-64 fills the last register with what comes later, arm64 does not.
        assert_eq!(x86.next(&pair), stack(&[8, 16]));
        assert_eq!(x86.next(&Shape::scalar(8, false)), registers(&[5]));
        assert_eq!(x86.next(&Shape::scalar(1, false)), stack(&[24]));
        assert_eq!(arm.next(&pair), stack(&[0, 8]));
        assert_eq!(arm.next(&Shape::scalar(8, false)), stack(&[16]));
    }

    #[test]
    fn floats_after_the_eighth_can_be_read() {
        for (machine, first) in [(Machine::X86_64, 8), (Machine::Aarch64, 0)] {
            let mut arguments = Arguments::new(machine);
            for _ in 0..8 {
                assert_eq!(arguments.next(&Shape::scalar(8, true)), Place::Nowhere(IN_FLOAT));
            }
            assert_eq!(arguments.next(&Shape::scalar(8, true)), stack(&[first]));
            assert_eq!(arguments.next(&Shape::scalar(8, false)), registers(&[0]));
        }
    }

    #[test]
    fn structures() {
        let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
        let mixed = structure(16, &[(0, 8, true), (8, 4, false)]);
        let floats = structure(12, &[(0, 4, true), (4, 4, true), (8, 4, true)]);
        let mut x86 = Arguments::new(Machine::X86_64);
        assert_eq!(x86.next(&large), stack(&[8, 16, 24]));
        assert_eq!(x86.next(&mixed), Place::Nowhere(IN_FLOAT));
        assert_eq!(x86.next(&floats), Place::Nowhere(IN_FLOAT));
        assert_eq!(x86.next(&Shape::scalar(8, false)), registers(&[1]));

        let mut arm = Arguments::new(Machine::Aarch64);
        assert_eq!(arm.next(&large), Place::Behind(Piece::Argument(0)));
        assert_eq!(arm.next(&mixed), registers(&[1, 2]));
        assert_eq!(arm.next(&floats), Place::Nowhere(IN_FLOAT));
        assert_eq!(arm.next(&Shape::scalar(16, false)), registers(&[4, 5]));
    }

    #[test]
    fn results_and_references() {
        let large = structure(24, &[(0, 8, false)]);
        let class = Shape {
            by_reference: true,
            ..structure(8, &[(0, 8, false)])
        };
        for (shape, machine, first) in [
            (&large, Machine::X86_64, 1),
            (&class, Machine::X86_64, 1),
            (&large, Machine::Aarch64, 0),
            (&Shape::scalar(16, true), Machine::X86_64, 0),
            (&Shape::scalar(8, false), Machine::X86_64, 0),
        ] {
            let mut arguments = Arguments::new(machine);
            arguments.result(shape);
            assert_eq!(arguments.next(&class), Place::Behind(Piece::Argument(first)));
        }
    }

    #[test]
    fn results_are_in_two_registers_or_behind_one() {
        let registers =
            |numbers: &[u16]| Place::Pieces(numbers.iter().map(|&number| Piece::Register(number)).collect());
        let behind = Place::Behind(Piece::Register(0));
        let pair = structure(16, &[(0, 8, false), (8, 8, false)]);
        let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
        let small = structure(8, &[(0, 4, false), (4, 4, false)]);
        let class = Shape {
            by_reference: true,
            ..structure(8, &[(0, 8, false)])
        };
        let (x86, arm) = (Machine::X86_64, Machine::Aarch64);
        for (arguments, shape, expected) in [
            (Arguments::new(x86), &Shape::scalar(4, false), registers(&[0])),
            (Arguments::new(arm), &Shape::scalar(4, false), registers(&[0])),
            (Arguments::new(x86), &pair, registers(&[0, 1])),
            (Arguments::new(arm), &pair, registers(&[0, 1])),
            (Arguments::new(x86), &large, behind.clone()),
            (Arguments::new(arm), &large, Place::Nowhere(RESULT_IN_MEMORY)),
            (Arguments::new(x86), &class, behind.clone()),
            (Arguments::new(arm), &class, Place::Nowhere(RESULT_IN_MEMORY)),
            (
                Arguments::new(x86),
                &Shape::scalar(8, true),
                Place::Nowhere(IN_FLOAT),
            ),
            (
                Arguments::new(arm),
                &Shape::scalar(8, true),
                Place::Nowhere(IN_FLOAT),
            ),
            (
                Arguments::new(x86),
                &Shape::scalar(16, true),
                Place::Nowhere(IN_FLOAT),
            ),
            (Arguments::rust(x86), &pair, registers(&[0, 1])),
            (Arguments::rust(x86), &small, Place::Nowhere(SCATTERED)),
            (Arguments::rust(x86), &large, behind),
            (Arguments::rust(arm), &large, Place::Nowhere(RESULT_IN_MEMORY)),
        ] {
            assert_eq!(
                arguments.clone().result(shape),
                expected,
                "{arguments:?} {shape:?}"
            );
        }
    }

    #[test]
    fn go_returns_words_in_registers_of_its_own() {
        let pieces =
            |numbers: &[u16]| Place::Pieces(numbers.iter().map(|&number| Piece::Register(number)).collect());
        let text = structure(16, &[(0, 8, false), (8, 8, false)]);
        let small = structure(8, &[(0, 4, false), (4, 4, false)]);
        let four = structure(
            32,
            &[(0, 8, false), (8, 8, false), (16, 8, false), (24, 8, false)],
        );
        for (shape, x86, arm) in [
            (&Shape::scalar(4, false), pieces(&[0]), pieces(&[0])),
            (&text, pieces(&[0, 3]), pieces(&[0, 1])),
            (&small, Place::Nowhere(SCATTERED), Place::Nowhere(SCATTERED)),
            (&four, Place::Nowhere(SCATTERED), Place::Nowhere(SCATTERED)),
            (
                &Shape::scalar(8, true),
                Place::Nowhere(IN_FLOAT),
                Place::Nowhere(IN_FLOAT),
            ),
        ] {
            assert_eq!(go_result(Machine::X86_64, shape), x86, "{shape:?}");
            assert_eq!(go_result(Machine::Aarch64, shape), arm, "{shape:?}");
        }
    }

    #[test]
    fn rust_passes_pairs_apart() {
        let text = structure(16, &[(0, 8, false), (8, 8, false)]);
        let small = structure(8, &[(0, 4, false), (4, 4, false)]);
        let large = structure(24, &[(0, 8, false), (8, 8, false), (16, 8, false)]);
        let mut rust = Arguments::rust(Machine::X86_64);
        rust.result(&large);
        assert_eq!(rust.next(&text), registers(&[1, 2]));
        assert_eq!(rust.next(&small), Place::Nowhere(SCATTERED));
        assert_eq!(rust.next(&large), Place::Behind(Piece::Argument(5)));
        assert_eq!(rust.next(&text), stack(&[8, 16]));
    }

    #[test]
    fn sizes_that_cannot_be_are_no_trouble() {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let mut arguments = Arguments::new(machine);
            let huge = structure(u64::MAX, &[(0, 8, false)]);
            for _ in 0..20 {
                let place = arguments.next(&huge);
                assert!(
                    matches!(place, Place::Nowhere(TOO_LARGE) | Place::Behind(_)),
                    "{place:?}"
                );
            }
            arguments.next(&Shape::scalar(16, false));
        }
    }
}
