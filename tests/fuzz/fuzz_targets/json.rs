//! See [`fuzz_targets::transcoded`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::transcoded(input);
});
