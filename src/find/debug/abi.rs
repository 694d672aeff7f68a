// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where calling conventions put the arguments of a function: System V on x86-64, AAPCS64 on arm64, and what
//! rustc does on both for functions with Rust's own convention.

use super::types::{LocationPiece, ValueLocation};

const WORD: u64 = 8;
/// Floating-point argument registers, on both machines.
const FLOATS: u8 = 8;
/// Longest value on the stack that has a location, in bytes. More is never shown.
pub const MAX_ON_STACK: u64 = 512;
pub const IN_FLOAT: &str = "in a floating-point register";
pub const SCATTERED: &str = "in pieces of odd sizes";
pub const TOO_LARGE: &str = "too large";
pub const ON_STACK: &str = "on the stack of the caller";
pub const RESULT_IN_MEMORY: &str = "in memory whose address the function does not return";

/// The result registers by their DWARF numbers: rax and rdx on x86-64, x0 and x1 on arm64.
const RESULTS: [u16; 2] = [0, 1];

/// A machine and its calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineAbi {
    X86_64,
    Aarch64,
}

/// The machine that this runs on, and the traced programs too.
pub const NATIVE: MachineAbi = if cfg!(target_arch = "x86_64") {
    MachineAbi::X86_64
} else {
    MachineAbi::Aarch64
};

impl MachineAbi {
    fn integers(self) -> u8 {
        match self {
            MachineAbi::X86_64 => 6,
            MachineAbi::Aarch64 => 8,
        }
    }

    /// The offset of the first stack argument from the stack pointer at the function's first instruction, in bytes.
    pub fn stack_arguments(self) -> u64 {
        match self {
            // The call pushed the return address.
            MachineAbi::X86_64 => WORD,
            MachineAbi::Aarch64 => 0,
        }
    }

    /// The index among the integer argument registers of the register with this DWARF number.
    pub fn argument_register(self, register: u16) -> Option<u8> {
        match self {
            // rdi, rsi, rdx, rcx, r8, r9
            MachineAbi::X86_64 => [5, 4, 1, 2, 8, 9].iter().position(|&number| number == register),
            MachineAbi::Aarch64 => (register < 8).then_some(usize::from(register)),
        }
        .and_then(|index| u8::try_from(index).ok())
    }

    /// The DWARF number of the stack pointer.
    pub fn stack_pointer(self) -> u16 {
        match self {
            MachineAbi::X86_64 => 7,
            MachineAbi::Aarch64 => 31,
        }
    }

    /// Whether this is the DWARF number of a floating-point or vector register.
    pub fn is_float(self, register: u16) -> bool {
        match self {
            MachineAbi::X86_64 => (17..=32).contains(&register),
            MachineAbi::Aarch64 => (64..=95).contains(&register),
        }
    }
}

/// What a calling convention needs to know about a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeLayout {
    pub bytes: u64,
    /// In bytes; 0 if it is unknown.
    pub align: u64,
    /// Its scalars, in order. May be empty for a type that is too large for registers.
    pub scalars: Vec<ScalarField>,
    /// Some of the scalars are elements of an array.
    pub has_array: bool,
    /// A complex number by itself.
    pub is_complex: bool,
    /// A C++ class whose objects cannot be copied as bytes: the caller passes the address of a copy.
    pub by_reference: bool,
}

/// A scalar, by itself or in a structure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalarField {
    pub offset: u64,
    pub bytes: u64,
    /// A floating-point number or a vector.
    pub float: bool,
    /// A number in x87's format, which is not in the registers of other floating-point numbers.
    pub x87: bool,
}

/// What is in a word of a value, for x86-64.
#[derive(Clone, Copy, PartialEq)]
enum WordClass {
    /// Padding, or an empty class. It is not passed.
    Nothing,
    Integer,
    Float,
    /// The second half of a vector, in the same register as the first.
    UpperHalf,
}

impl TypeLayout {
    /// An integer, a pointer, or a floating-point number.
    pub fn scalar(bytes: u64, float: bool) -> TypeLayout {
        let scalar = ScalarField {
            offset: 0,
            bytes,
            float,
            x87: float && bytes > WORD,
        };
        TypeLayout {
            bytes,
            align: bytes,
            scalars: vec![scalar],
            ..TypeLayout::default()
        }
    }

    fn words(&self) -> u64 {
        self.bytes.div_ceil(WORD)
    }

    /// C++ gives a class without members a size of 1, which is passed like a `char` on arm64 and not at all on x86-64.
    fn is_empty_class(&self) -> bool {
        self.scalars.is_empty() && self.bytes <= 2 * WORD
    }

    /// The classes of the words of a value that is passed in registers on x86-64.
    fn word_classes(&self) -> Vec<WordClass> {
        let mut classes: Vec<WordClass> = (0..self.words()).map(|word| self.word_class(word)).collect();
        let has_vector = self
            .scalars
            .iter()
            .any(|scalar| scalar.float && scalar.bytes > WORD);
        if let [WordClass::Float, second @ WordClass::Float] = &mut classes[..]
            && has_vector
        {
            *second = WordClass::UpperHalf;
        }
        classes
    }

    /// Whether x86-64 passes the value in registers, but not all of its words.
    pub fn has_empty_word(&self) -> bool {
        let in_registers =
            (1..=2 * WORD).contains(&self.bytes) && !self.by_reference && !self.in_x86_memory();
        in_registers && self.word_classes().contains(&WordClass::Nothing)
    }

    /// Only a word of nothing but floating-point numbers goes into a floating-point register.
    fn word_class(&self, word: u64) -> WordClass {
        let (start, end) = (word * WORD, word * WORD + WORD);
        let mut inside = self
            .scalars
            .iter()
            .filter(|scalar| scalar.offset < end && scalar.offset + scalar.bytes > start);
        match inside.next() {
            None => WordClass::Nothing,
            Some(first) if first.float && inside.all(|scalar| scalar.float) => WordClass::Float,
            Some(_) => WordClass::Integer,
        }
    }

    fn in_x86_memory(&self) -> bool {
        let unfit = |scalar: &ScalarField| scalar.x87 || is_unaligned(scalar);
        self.bytes > 2 * WORD || self.scalars.iter().any(unfit)
    }

    /// The one or two scalars that rustc passes instead of the value. It passes arrays, unions and anything with gaps
    /// other than for alignment as bytes. So it does with a `#[repr(C)]` structure of one scalar, which debug
    /// information does not tell; it matters for floating-point numbers and `u128`.
    fn rust_scalars(&self) -> Option<Vec<ScalarField>> {
        // Debug information lists members in the order of the source.
        let mut scalars = self.scalars.clone();
        scalars.sort_by_key(|scalar| scalar.offset);
        let end = match scalars[..] {
            _ if self.has_array => return None,
            [only] if only.offset == 0 => only.bytes,
            [first, second] if first.offset == 0 => {
                let follows = first.bytes.checked_next_multiple_of(second.bytes) == Some(second.offset);
                let end = second.offset.checked_add(second.bytes).filter(|_| follows)?;
                end.checked_next_multiple_of(first.bytes.max(second.bytes))?
            }
            _ => return None,
        };
        (end == self.bytes).then_some(scalars)
    }

    /// One to four floating-point numbers of the same size, and nothing else.
    fn is_homogeneous_float(&self) -> bool {
        let same = |scalar: &ScalarField| {
            scalar.float
                && self
                    .scalars
                    .first()
                    .is_some_and(|first| first.bytes == scalar.bytes)
        };
        let total: u64 = self.scalars.iter().map(|scalar| scalar.bytes).sum();
        (1..=4).contains(&self.scalars.len()) && total == self.bytes && self.scalars.iter().all(same)
    }
}

fn is_unaligned(scalar: &ScalarField) -> bool {
    scalar
        .offset
        .checked_rem(scalar.bytes.min(WORD))
        .is_some_and(|rest| rest != 0)
}

/// Assigns locations to the arguments of a function, one after the other.
#[derive(Clone, Debug)]
pub struct ArgumentAllocator {
    machine: MachineAbi,
    rust: bool,
    integers: u8,
    floats: u8,
    /// Bytes of the stack in use.
    stack: u64,
}

impl ArgumentAllocator {
    pub fn new(machine: MachineAbi) -> ArgumentAllocator {
        ArgumentAllocator {
            machine,
            rust: false,
            integers: 0,
            floats: 0,
            stack: 0,
        }
    }

    /// For a function with Rust's own convention. It is undocumented; this is what rustc 1.80 and later do.
    pub fn rust(machine: MachineAbi) -> ArgumentAllocator {
        ArgumentAllocator {
            rust: true,
            ..ArgumentAllocator::new(machine)
        }
    }

    /// The location of the result at the return. To be called before the first argument: on x86-64 the
    /// address of a result that does not fit in registers is passed like a first argument, and returned.
    pub fn result(&mut self, layout: &TypeLayout) -> ValueLocation {
        let in_memory = match self.machine {
            MachineAbi::Aarch64 => false,
            MachineAbi::X86_64 if self.rust => {
                layout.bytes > 2 * WORD || (layout.bytes > WORD && layout.rust_scalars().is_none())
            }
            MachineAbi::X86_64 => layout.by_reference || layout.in_x86_memory() && !is_x87(layout),
        };
        if in_memory {
            self.integers += 1;
            return ValueLocation::Indirect(LocationPiece::Register(RESULTS[0]));
        }
        if self.machine == MachineAbi::X86_64 && is_x87(layout) {
            return ValueLocation::Unavailable(IN_FLOAT);
        }
        // A result in registers takes as many of them as it would take as the first argument.
        let mut as_argument = ArgumentAllocator {
            rust: self.rust,
            ..ArgumentAllocator::new(self.machine)
        };
        match as_argument.next(layout) {
            ValueLocation::Pieces(pieces) => {
                let registers = pieces.into_iter().map(|piece| match piece {
                    LocationPiece::Argument(number) => {
                        let register = RESULTS.get(usize::from(number)).copied();
                        register.map(LocationPiece::Register)
                    }
                    LocationPiece::Constant(_) => Some(piece),
                    _ => None,
                });
                match registers.collect() {
                    Some(pieces) => ValueLocation::Pieces(pieces),
                    None => ValueLocation::Unavailable(RESULT_IN_MEMORY),
                }
            }
            ValueLocation::Indirect(_) => ValueLocation::Unavailable(RESULT_IN_MEMORY),
            unavailable => unavailable,
        }
    }

    /// The location of the next argument.
    pub fn next(&mut self, layout: &TypeLayout) -> ValueLocation {
        if layout.by_reference {
            return ValueLocation::Indirect(self.word());
        }
        if layout.bytes == 0 || (self.machine == MachineAbi::X86_64 && layout.is_empty_class()) {
            return ValueLocation::Pieces(Vec::new());
        }
        match self.machine {
            _ if self.rust => self.next_rust(layout),
            MachineAbi::X86_64 => self.next_x86_64(layout),
            MachineAbi::Aarch64 => self.next_aarch64(layout),
        }
    }

    fn next_x86_64(&mut self, layout: &TypeLayout) -> ValueLocation {
        if layout.in_x86_memory() {
            return self.on_stack(layout);
        }
        let classes = layout.word_classes();
        let count = |wanted| classes.iter().filter(|&&class| class == wanted).count() as u64;
        match self.in_registers(layout, count(WordClass::Integer), count(WordClass::Float)) {
            ValueLocation::Pieces(registers) if (registers.len() as u64) < layout.words() => {
                let mut registers = registers.into_iter();
                let pieces = classes.iter().map(|class| match class {
                    WordClass::Integer => registers.next(),
                    _ => Some(LocationPiece::Constant(0)),
                });
                pieces
                    .collect::<Option<_>>()
                    .map_or(ValueLocation::Unavailable(SCATTERED), ValueLocation::Pieces)
            }
            location => location,
        }
    }

    fn next_aarch64(&mut self, layout: &TypeLayout) -> ValueLocation {
        if layout.is_homogeneous_float() {
            let location = self.in_registers(layout, 0, layout.scalars.len() as u64);
            if location != ValueLocation::Unavailable(IN_FLOAT) {
                // Arguments after one on the stack may not use registers.
                self.floats = FLOATS;
            }
            return location;
        }
        if layout.bytes > 2 * WORD {
            return ValueLocation::Indirect(self.word());
        }
        if layout.align >= 2 * WORD {
            self.integers = self.integers.next_multiple_of(2);
        }
        let location = self.in_registers(layout, layout.words(), 0);
        if !is_in_registers(&location) {
            self.integers = self.machine.integers();
        }
        location
    }

    fn next_rust(&mut self, layout: &TypeLayout) -> ValueLocation {
        match layout.rust_scalars().as_deref() {
            Some([scalar]) => self.next_scalar(*scalar),
            Some([first, second]) => self.next_pair(*first, *second),
            _ if layout.bytes <= WORD => ValueLocation::Pieces(vec![self.word()]),
            _ => ValueLocation::Indirect(self.word()),
        }
    }

    /// A scalar that rustc passes.
    fn next_scalar(&mut self, scalar: ScalarField) -> ValueLocation {
        let layout = TypeLayout::scalar(scalar.bytes, scalar.float);
        match scalar.float {
            true => self.in_registers(&layout, 0, 1),
            false => self.in_registers(&layout, layout.words(), 0),
        }
    }

    /// rustc passes two scalars like two arguments.
    fn next_pair(&mut self, first: ScalarField, second: ScalarField) -> ValueLocation {
        match [first, second].map(|scalar| self.next_scalar(scalar)) {
            [ValueLocation::Pieces(mut words), ValueLocation::Pieces(more)]
                if second.offset == WORD * words.len() as u64 =>
            {
                words.extend(more);
                ValueLocation::Pieces(words)
            }
            [ValueLocation::Pieces(_), ValueLocation::Pieces(_)] => ValueLocation::Unavailable(SCATTERED),
            _ => ValueLocation::Unavailable(IN_FLOAT),
        }
    }

    /// In registers if there are enough for all of it, else on the stack.
    fn in_registers(&mut self, layout: &TypeLayout, integers: u64, floats: u64) -> ValueLocation {
        let free = (
            self.machine.integers().saturating_sub(self.integers),
            FLOATS - self.floats,
        );
        if integers > u64::from(free.0) || floats > u64::from(free.1) {
            return self.on_stack(layout);
        }
        let words = (0..integers).map(|_| self.word()).collect();
        if floats == 0 {
            return ValueLocation::Pieces(words);
        }
        // No more than there are registers.
        self.floats += floats as u8;
        ValueLocation::Unavailable(IN_FLOAT)
    }

    /// The next integer register, or the next word on the stack.
    fn word(&mut self) -> LocationPiece {
        if self.integers < self.machine.integers() {
            self.integers += 1;
            return LocationPiece::Argument(self.integers - 1);
        }
        let at = self.stack;
        self.stack = self.stack.saturating_add(WORD);
        LocationPiece::Stack(self.machine.stack_arguments().saturating_add(at))
    }

    fn on_stack(&mut self, layout: &TypeLayout) -> ValueLocation {
        let align = match self.machine {
            MachineAbi::X86_64 => layout.align,
            MachineAbi::Aarch64 => layout.align.min(2 * WORD),
        };
        if align >= 2 * WORD {
            self.stack = self.stack.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        }
        let start = self.machine.stack_arguments().saturating_add(self.stack);
        self.stack = self.stack.saturating_add(layout.words().saturating_mul(WORD));
        if layout.bytes > MAX_ON_STACK || start.checked_add(MAX_ON_STACK).is_none() {
            return ValueLocation::Unavailable(TOO_LARGE);
        }
        ValueLocation::Pieces(
            (0..layout.words())
                .map(|word| LocationPiece::Stack(start + word * WORD))
                .collect(),
        )
    }
}

/// The location of the first result of a Go function at the return, in a program that returns results in registers.
/// See <https://go.dev/s/regabi>.
pub fn go_result(machine: MachineAbi, layout: &TypeLayout) -> ValueLocation {
    // rax, rbx, rcx; x0, x1, x2: strings and slices have up to three words.
    let registers: [u16; 3] = match machine {
        MachineAbi::X86_64 => [0, 3, 2],
        MachineAbi::Aarch64 => [0, 1, 2],
    };
    if layout.scalars.iter().any(|scalar| scalar.float) {
        return ValueLocation::Unavailable(IN_FLOAT);
    }
    let words = registers.map(LocationPiece::Register);
    let is_word =
        |(index, scalar): (u64, &ScalarField)| scalar.bytes <= WORD && scalar.offset == index * WORD;
    match words.get(..layout.scalars.len()) {
        Some(words) if (0..).zip(&layout.scalars).all(is_word) => ValueLocation::Pieces(words.to_vec()),
        _ => ValueLocation::Unavailable(SCATTERED),
    }
}

/// A `long double`, also a complex one, which is passed on the stack but returned in x87 registers.
fn is_x87(layout: &TypeLayout) -> bool {
    match layout.scalars[..] {
        [scalar] => scalar.x87,
        [scalar, _] => scalar.x87 && layout.is_complex,
        _ => false,
    }
}

fn is_in_registers(location: &ValueLocation) -> bool {
    matches!(location, ValueLocation::Pieces(pieces) if pieces.iter().all(|piece| matches!(piece, LocationPiece::Argument(_))))
}

#[cfg(test)]
mod tests;
