//! Fuzzes `checks::family`.
#![no_main]

#[expect(dead_code, reason = "the other checks have targets of their own")]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::family(bytes));
