//! `cargo fuzz run pem`; see the README.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fibp_fuzz::pem::run(data));

#[cfg(not(fuzzing))]
fn main() {
    println!("run with: cargo fuzz run pem");
}
