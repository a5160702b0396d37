//! See [`fuzz_targets::bases`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::bases(input);
});
