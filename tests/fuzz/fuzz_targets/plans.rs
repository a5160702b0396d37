//! See [`fuzz_targets::plan`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::plan(input);
});
