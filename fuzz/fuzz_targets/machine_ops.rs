//! `cargo fuzz run machine_ops`; see the README.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fibp_fuzz::machine_ops::run(data));

#[cfg(not(fuzzing))]
fn main() {
    println!("run with: cargo fuzz run machine_ops");
}
