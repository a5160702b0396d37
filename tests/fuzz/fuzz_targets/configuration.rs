//! See [`fuzz_targets::configuration`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::configuration(input);
});
