// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Allocates from nested functions with known names. A line of standard input with a number allocates that many bytes.
//! Each line is answered by ".".

mod orchard {
    pub struct Tree<T>(pub T);

    impl<T: Copy + Into<u64>> Tree<T> {
        #[inline(never)]
        pub fn grow(&self) -> usize {
            std::hint::black_box(leaf(self.0.into()))
        }
    }

    #[inline(never)]
    fn leaf(bytes: u64) -> usize {
        std::hint::black_box(Vec::<u8>::with_capacity(bytes as usize)).capacity()
    }
}

fn main() {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if let Ok(bytes) = line.parse::<u32>() {
            orchard::Tree(bytes).grow();
        }
        println!(".");
    }
}
