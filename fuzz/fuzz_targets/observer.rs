//! `cargo fuzz run observer`; see the README.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fibp_fuzz::observer::run(data));

#[cfg(not(fuzzing))]
fn main() {
    println!("run with: cargo fuzz run observer");
}
