// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Calls functions a given number of times. Orders have the format of tests/targets/flow.cc:
//!
//! `WHAT COUNT`; WHAT: count, greet, shape, panic, spin (does nothing).

mod inner {
    use std::hint::black_box;

    pub struct Circle {
        pub radius: u32,
    }

    pub trait Shape {
        fn area(&self, scale: u64) -> u64;
    }

    impl Shape for Circle {
        #[inline(never)]
        fn area(&self, scale: u64) -> u64 {
            black_box(u64::from(self.radius) * scale)
        }
    }

    #[inline(never)]
    pub fn counted(number: u64, name: &str) -> u64 {
        black_box(number + name.len() as u64)
    }

    #[inline(never)]
    pub fn greeting(text: &str, owned: String, mark: char) -> String {
        black_box(format!("{text}, {owned}{mark}"))
    }

    #[inline(never)]
    pub fn generic<T: Into<u64>>(value: T) -> u64 {
        black_box(value.into())
    }

    #[inline(never)]
    pub fn panicking(number: u64) -> u64 {
        // Owns a value that unwinding must drop, as most functions do.
        let owned = black_box(vec![number; 4]);
        if owned.len() == 4 {
            std::panic::resume_unwind(Box::new(number));
        }
        owned[0]
    }

    #[inline(never)]
    pub fn passing(number: u64) -> u64 {
        let owned = black_box(vec![number; 2]);
        black_box(panicking(number)) + owned[0]
    }

    #[inline(never)]
    pub fn catching(number: u64) -> u64 {
        std::panic::catch_unwind(|| passing(number)).unwrap_or(black_box(0))
    }
}

use inner::Shape;

fn obey(order: &str) -> Option<()> {
    let (what, times) = order.split_once(' ')?;
    for number in 0..times.parse().ok()? {
        match what {
            "count" => inner::counted(number, what),
            "greet" => inner::greeting(what, format!("number {number}"), 'ß').len() as u64,
            "shape" => inner::Circle { radius: 3 }.area(number) + inner::generic(7u8) + inner::generic(7u32),
            "panic" => inner::catching(number),
            _ => 0,
        };
    }
    Some(())
}

fn main() {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        obey(&line);
        println!(".");
    }
}
